"""
`import ohem_d2` needs install_requires and what detectron2 imports itself, nothing more.
"""

import subprocess
import sys

import pytest

OPTIONAL = ["cv2", "jinja2", "matplotlib", "pandas", "scipy"]


@pytest.mark.slow
def test_without_optional_packages():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
import ohem_d2
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
