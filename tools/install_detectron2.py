#!/usr/bin/env python3
"""
Install detectron2 into the environment of the Python that runs this.

Its authors do not publish it on the package index. By default this installs detectron2 0.5 from
``detectron2-cdo``, a third party's upload pinned here by its hash, and updates it for today's
PyTorch, NumPy, Pillow and setuptools. ``--from`` installs any other detectron2 instead:

    python tools/install_detectron2.py
    python tools/install_detectron2.py --from git+https://github.com/facebookresearch/detectron2

torch and torchvision must be installed. An installed detectron2 is kept unless ``--from`` or
``--reinstall`` is given.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

PROJECT = "detectron2-cdo"
FILENAME = "detectron2_cdo-0.5.tar.gz"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"


class Substitution(NamedTuple):
    pattern: str  # regular expression, for every .py file of the release
    replacement: str
    count: int  # occurrences in the release pinned above
    reason: str


SUBSTITUTIONS = [
    Substitution(r"\bnp\.int\b", "int", 4, "NumPy 1.24 removed np.int"),
    Substitution(r"\bnp\.float\b", "float", 5, "NumPy 1.24 removed np.float"),
    Substitution(r"\bnp\.bool\b", "bool", 8, "NumPy 1.24 removed np.bool"),
    Substitution(r"\bnp\.str\b", "str", 1, "NumPy 1.24 removed np.str"),
    Substitution(r"\bImage\.LINEAR\b", "Image.BILINEAR", 1, "Pillow 10 removed Image.LINEAR"),
    Substitution(
        r"^import pkg_resources$",
        "from importlib import resources",
        1,
        "setuptools 82 removed pkg_resources",
    ),
    Substitution(
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", '
        r'os\.path\.join\("configs", config_path\)\s*\)',
        'str(resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
        1,
        "setuptools 82 removed pkg_resources, which the model zoo uses",
    ),
]

# The release lacks detectron2's C++ sources. A missing attribute is an AttributeError, so that
# hasattr(_C, name) tells whether an operator exists.
STAND_IN_FOR_EXTENSION = '''\
"""
Replaces detectron2's compiled extension, which this installation lacks.
"""


def get_compiler_version():
    return "detectron2's extension is not built"


def get_cuda_version():
    return "not available"


def has_cuda():
    return False


def __getattr__(name):
    raise AttributeError(
        f"detectron2._C.{name} is missing: this detectron2 was installed without its compiled "
        "extension. To get it, build upstream detectron2: "
        "python -m pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2"
    )
'''

# Replaces the release's setup.py, which builds the extension and requires black==21.4b2 and
# iopath<0.1.10. These are the requirements of upstream's main branch.
SETUP_PY = """\
from setuptools import find_packages, setup

setup(
    name="detectron2",
    version="0.5",
    description="detectron2 0.5 without its compiled extension, for today's PyTorch and NumPy",
    url="https://github.com/facebookresearch/detectron2",
    license="Apache-2.0",
    packages=find_packages(include=["detectron2*"]),
    package_data={"detectron2.model_zoo": ["configs/**/*"]},
    python_requires=">=3.10",
    install_requires=[
        "Pillow>=7.1",
        "black",
        "cloudpickle",
        "fvcore>=0.1.5,<0.1.6",
        "hydra-core>=1.1",
        "iopath>=0.1.7",
        "matplotlib",
        "omegaconf>=2.1",
        "pycocotools>=2.0.2",
        "tabulate",
        "tensorboard",
        "termcolor>=1.1",
        "tqdm>4.29.0",
        "yacs>=0.1.8",
    ],
)
"""


class InstallError(Exception):
    """The message says what went wrong and names the remedy."""


def download_release(folder: Path) -> Path:
    """
    Download the release from ``PIP_INDEX_URL`` or PyPI, and check its hash. Runs none of its code.
    """
    try:
        from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple, tqdm_progress_factory
    except ImportError as e:
        raise InstallError("The download needs pypi-simple: pip install pypi-simple") from e

    index = os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT
    path = folder / FILENAME
    with PyPISimple(endpoint=index) as client:
        packages = client.get_project_page(PROJECT).packages
        found = [p for p in packages if p.filename == FILENAME]
        if not found:
            raise InstallError(f"The package index does not have {FILENAME} of {PROJECT}.")
        client.download_package(found[0], path, progress=tqdm_progress_factory())

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise InstallError(
            f"{FILENAME} has the sha256 {digest}, not the expected {SHA256}. "
            "It is not the file that this script was written for. Nothing was installed."
        )
    return path


def bring_up_to_date(source: Path) -> None:
    """
    Update the unpacked release in ``source``.

    Raises:
        InstallError: if the source is not as expected.
    """
    shutil.rmtree(source / "tools")  # scripts that are not part of the package
    files = sorted(source.rglob("*.py"))
    for pattern, replacement, expected, reason in SUBSTITUTIONS:
        count = 0
        for file in files:
            text, n = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
            if n:
                file.write_text(text)
                count += n
        if count != expected:
            raise InstallError(
                f"Found {count} places to change ({reason}), not {expected}: {source} is not the "
                "detectron2 0.5 that this script was written for."
            )
        print(f"  {count} x {reason}")

    stand_in = source / "detectron2" / "_C.py"
    if stand_in.exists() or (source / "detectron2" / "layers" / "csrc").exists():
        raise InstallError(f"{source} unexpectedly has the extension.")
    stand_in.write_text(STAND_IN_FOR_EXTENSION)
    print("  a stand-in for detectron2._C, the compiled extension, which the release lacks")

    # Its setup.py installs the projects under detectron2.projects with a package_dir.
    for project in ["PointRend/point_rend", "DeepLab/deeplab", "Panoptic-DeepLab/panoptic_deeplab"]:
        shutil.copytree(
            source / "projects" / project, source / "detectron2" / "projects" / Path(project).name
        )
    shutil.rmtree(source / "projects")  # detectron2.projects looks there first
    (source / "setup.py").write_text(SETUP_PY)
    (source / "setup.cfg").unlink()
    print("  setup.py without the extension, and with current requirements")


def run_pip(*arguments: str) -> None:
    # Building the extension needs the environment's ninja in the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", *arguments],
            check=True,
            env={**os.environ, "PATH": path},
        )
    except subprocess.CalledProcessError as e:
        raise InstallError(
            f"pip {arguments[0]} failed, see above. A detectron2 installed before is still there."
        ) from e


def install(requirement: str, folder: Path) -> None:
    """
    Build a wheel of ``requirement``, then install it: a failed build changes nothing.
    """
    # detectron2's setup.py imports torch, hence no build isolation.
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), requirement)
    (wheel,) = folder.glob("*.whl")
    # The first replaces a detectron2 of the same version, the second adds its requirements.
    run_pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel))
    run_pip("install", "--quiet", str(wheel))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from",
        dest="requirement",
        metavar="REQUIREMENT",
        help="install this detectron2 instead: a directory, a wheel, git+https://...",
    )
    parser.add_argument("--reinstall", action="store_true", help="replace an installed detectron2")
    args = parser.parse_args()

    spec = importlib.util.find_spec("detectron2")
    if spec and not (args.requirement or args.reinstall):
        print(f"Keeping the installed detectron2 in {spec.submodule_search_locations}.")
        return
    for package in ["torch", "torchvision", "setuptools"]:
        if not importlib.util.find_spec(package):
            raise InstallError(f"detectron2 needs {package}: pip install {package}")

    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        if args.requirement:
            print(f"Installing detectron2 from {args.requirement}")
            install(args.requirement, folder)
        else:
            print(f"Installing detectron2 0.5 from {PROJECT} on the package index")
            release = download_release(folder)
            shutil.unpack_archive(release, folder)
            source = folder / FILENAME.removesuffix(".tar.gz")
            bring_up_to_date(source)
            install(str(source), folder)
    print(f"Installed detectron2 {importlib.metadata.version('detectron2')}")


if __name__ == "__main__":
    try:
        main()
    except InstallError as e:
        sys.exit(f"{Path(__file__).name}: {e}")
