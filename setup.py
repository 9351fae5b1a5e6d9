from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ohem_d2",
    version="0.1.0",
    description="Online hard example mining (Shrivastava et al. 2016) for detectron2",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["ohem_d2*"]),
    package_data={
        "ohem_d2": ["py.typed", "visualization/*.html", "visualization/*.css", "visualization/*.js"]
    },
    python_requires=">=3.10",
    # torch, torchvision and detectron2 are not listed: like detectron2 itself does, this package
    # uses the builds that its user has chosen, and never installs others over them.
    install_requires=["fvcore>=0.1.5", "numpy", "pycocotools>=2.0.2"],
    extras_require={
        # The generator of the demo's dataset, and pictures.
        "demo": ["jinja2", "matplotlib", "opencv-python", "tabulate"],
        # Selective search, and proposals in MATLAB's files. It has all of opencv-python.
        "proposals": ["opencv-contrib-python", "scipy"],
        # Weights in Caffe's files, which OpenCV 5 cannot read.
        "caffe": ["opencv-python<5"],
    },
)
