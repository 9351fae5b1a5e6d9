"""
Gather the wheels that a machine without a package index needs beside its own PyTorch, torchvision,
OpenCV, matplotlib, TensorBoard, SciPy, pytest and hypothesis; and leave the commit there, for a
copy of the work tree without git.

    python -m benchmarks.gpu.wheels
"""

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.provenance import ROOT, leave_commit
from ohem_d2.utils import InputError

# Some are on the index as source only; any Python builds a wheel of them for all.
PURE = (
    "antlr4-python3-runtime",
    "cloudpickle",
    "fvcore",
    "hydra-core",
    "iopath",
    "omegaconf",
    "portalocker",
    "tabulate",
    "termcolor",
    "tqdm",
    "yacs",
)
COMPILED = ("pandas", "pycocotools", "pyyaml")


def pinned(names: tuple[str, ...], python_version: str) -> list[str]:
    """
    Returns:
        list[str]: the requirements of requirements.txt for a Python.
    """
    environment = {"python_version": python_version, "python_full_version": f"{python_version}.0"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(x) for x in lines if not x.startswith("#")]
    return [
        f"{x.name}{x.specifier}"
        for x in requirements
        if x.name in names and (x.marker is None or x.marker.evaluate(environment))
    ]


def pack_detectron2(folder: Path) -> None:
    """
    Make a wheel of the installed detectron2.

    Raises:
        InputError: if it has a compiled extension, which is for one PyTorch alone.
    """
    distribution = importlib.metadata.distribution("detectron2")
    files = [x for x in distribution.files or () if "__pycache__" not in x.parts]
    if not any(x.match("detectron2/__init__.py") for x in files) or any(
        x.suffix == ".so" for x in files
    ):
        raise InputError(
            "The installed detectron2 has a compiled extension, or is an editable install. Build "
            "it on the machine with the GPU, or pack the one that make installs by default."
        )
    with tempfile.TemporaryDirectory() as unpacked:
        for file in files:
            # What pip recorded when it installed it.
            if file.name not in ("INSTALLER", "REQUESTED", "direct_url.json"):
                target = Path(unpacked, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
        run("wheel", "pack", unpacked, "--dest-dir", str(folder))


def run(*arguments: str) -> None:
    try:
        subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True)
    except subprocess.CalledProcessError as e:
        raise InputError(f"{' '.join(arguments[:2])} failed, see above.") from e


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python-version",
        default=".".join(platform.python_version_tuple()[:2]),
        help="of the machine with the GPU, such as 3.12 (default: this one's)",
    )
    version = parser.parse_args().python_version
    folder = ROOT / "output/wheels"
    shutil.rmtree(folder, ignore_errors=True)
    leave_commit()
    build = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*build, "--wheel-dir", str(folder), *pinned(PURE, version))
    download = ("pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
    run(*download, "--python-version", version, "-d", str(folder), *pinned(COMPILED, version))
    pack_detectron2(folder)
    size = sum(x.stat().st_size for x in folder.iterdir()) / 2**20
    print(f"{len(list(folder.glob('*.whl')))} wheels, {size:.0f} MiB, in {folder}")


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"wheels: {e}")
