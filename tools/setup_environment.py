#!/usr/bin/env python3
"""
Create .venv/ with everything that the demo and the tests need, or update it.

It needs Python 3.10 or newer and pip's package index. An up-to-date environment is kept; an
incomplete one is created again.
"""

from __future__ import annotations  # lets an older Python reach its error message

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# What the environment was made from. Written last: without it, the environment is incomplete.
STAMP = VENV / "made_from.json"


def digest(*files: str) -> str:
    contents = b"".join((ROOT / file).read_bytes() for file in files)
    return hashlib.sha256(contents).hexdigest()


def installed() -> list[str]:
    """
    Returns:
        list[str]: what is in .venv/, by file name, this package as a link to its sources.
    """
    patterns = ("*.dist-info", "__editable__.*")
    return sorted(x.name for y in patterns for x in VENV.glob(f"lib/python*/site-packages/{y}"))


def is_changed(before: list[str]) -> bool:
    """
    Whether something that was installed is no longer there, or another OpenCV is: each brings a
    `cv2` and overwrites that of the others. `pip install ".[proposals]"` does both.
    """
    now = installed()
    opencv = [[y for y in x if y.startswith("opencv")] for x in (before, now)]
    return not set(before) <= set(now) or opencv[0] != opencv[1]


def read_stamp() -> dict[str, Any]:
    # PYTHON is a broken link if the Python behind it was removed.
    return json.loads(STAMP.read_text()) if STAMP.exists() and PYTHON.exists() else {}


def write_stamp(stamp: dict[str, Any]) -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamp, indent=2) + "\n")
    temporary.replace(STAMP)


def run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


def use_index_of_pip() -> None:
    """
    Make uv and the download of detectron2 use pip's package index.
    """
    if "PIP_INDEX_URL" not in os.environ:
        configured = subprocess.run(
            [str(PYTHON), "-m", "pip", "config", "get", "global.index-url"],
            capture_output=True,
            text=True,
        )
        if configured.returncode != 0:
            return
        os.environ["PIP_INDEX_URL"] = configured.stdout.strip()
    os.environ.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])


def install_requirements() -> None:
    run(str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv")
    use_index_of_pip()
    uv_pip = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON)]
    # Compile once, here: importing uncompiled PyTorch takes twice as long, in every process, where
    # Python may not write bytecode (PYTHONDONTWRITEBYTECODE).
    run(*uv_pip, "--compile-bytecode", "--requirement", "requirements.txt")
    # The package itself.
    run(*uv_pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--detectron2",
        metavar="REQUIREMENT",
        default="",
        help="the detectron2 to use, see tools/install_detectron2.py --from (default: the "
        "installed one, or else the package index's)",
    )
    args = parser.parse_args()

    made_from = {
        "python": "{}.{}.{}".format(*sys.version_info),
        "requirements": digest("requirements.txt", "setup.py"),
    }
    from_index = "package index, by install_detectron2.py " + digest("tools/install_detectron2.py")

    stamp = read_stamp()
    current = stamp.pop("detectron2", "")
    packages = stamp.pop("packages", [])
    wanted = args.detectron2 or current
    if not wanted or wanted.startswith("package index"):
        wanted = from_index

    if stamp == made_from and is_changed(packages):
        print(f"The packages in {VENV} have changed.", flush=True)
        stamp = {}
    if stamp != made_from:
        # Created again, not updated, so that nothing old remains. uv has a cache.
        print(f"Creating {VENV} (downloads about 3 GB, mostly PyTorch)", flush=True)
        STAMP.unlink(missing_ok=True)
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
        install_requirements()
        packages = installed()
        write_stamp({**made_from, "packages": packages})
        current = ""
    if wanted != current:
        use_index_of_pip()
        options = ["--reinstall"] if wanted == from_index else ["--from", wanted]
        run(str(PYTHON), "tools/install_detectron2.py", *options)
        write_stamp({**made_from, "packages": packages, "detectron2": wanted})


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit("Python 3.10 or newer is needed. To choose one: make PYTHON=python3.12 ...")
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(
            f"Setting up {VENV} failed at: {' '.join(e.cmd)}\n"
            "See the error above and docs/troubleshooting.md. To try again, repeat the command."
        )
