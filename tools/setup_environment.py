#!/usr/bin/env python3
"""
Make .venv/ with all that the demo and the tests need, or bring it up to date.

It needs Python 3.10 or newer, nothing that is installed, and a package index: the one that pip is
configured for. An environment that is up to date is left alone; one whose making was interrupted
is made anew.
"""

from __future__ import annotations  # so that an older Python gets as far as its message

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# What the environment was made from. Written last, so that an environment without it is not whole.
STAMP = VENV / "made_from.json"


def digest(*files: str) -> str:
    contents = b"".join((ROOT / file).read_bytes() for file in files)
    return hashlib.sha256(contents).hexdigest()


def read_stamp() -> dict[str, str]:
    # PYTHON does not exist either if the Python that the environment was made with has gone.
    return json.loads(STAMP.read_text()) if STAMP.exists() and PYTHON.exists() else {}


def write_stamp(stamp: dict[str, str]) -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamp, indent=2) + "\n")
    temporary.replace(STAMP)


def run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


def use_index_of_pip() -> None:
    """
    Point uv, and the download of detectron2, to the package index that pip is configured for.
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
    # Compiled once, here: uncompiled, PyTorch takes twice as long to import, which each process
    # would pay where Python may not write what it compiles (PYTHONDONTWRITEBYTECODE).
    run(*uv_pip, "--compile-bytecode", "--requirement", "requirements.txt")
    # The package itself, as it stands in this folder.
    run(*uv_pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--detectron2",
        metavar="REQUIREMENT",
        default="",
        help="the detectron2 to use, see tools/install_detectron2.py --from; without it, the one "
        "that is there stays, and the package index's is installed if there is none",
    )
    args = parser.parse_args()

    made_from = {
        "python": "{}.{}.{}".format(*sys.version_info),
        "requirements": digest("requirements.txt", "setup.py"),
    }
    from_index = "package index, by install_detectron2.py " + digest("tools/install_detectron2.py")

    stamp = read_stamp()
    current = stamp.pop("detectron2", "")
    wanted = args.detectron2 or current
    if not wanted or wanted.startswith("package index"):
        wanted = from_index

    if stamp != made_from:
        # Anew instead of an update, so that nothing of another time stays behind. The package
        # index is not asked again for what uv has in its cache.
        print(f"Making {VENV} from requirements.txt (some 3 GB with PyTorch, once)", flush=True)
        STAMP.unlink(missing_ok=True)
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
        install_requirements()
        write_stamp(made_from)
        current = ""
    if wanted != current:
        use_index_of_pip()
        options = ["--reinstall"] if wanted == from_index else ["--from", wanted]
        run(str(PYTHON), "tools/install_detectron2.py", *options)
        write_stamp({**made_from, "detectron2": wanted})


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit("Python 3.10 or newer is needed. Which one to use: make PYTHON=python3.12 ...")
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(
            f"Setting up {VENV} failed at: {' '.join(e.cmd)}\n"
            "What went wrong is above; docs/troubleshooting.md may help. "
            "The next try starts from where it is safe."
        )
