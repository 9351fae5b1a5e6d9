import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """
    Puts configs/ into the package, where ohem_d2.model_zoo finds it.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            configs = Path(self.build_lib) / "ohem_d2/configs"
            shutil.copytree(ROOT / "configs", configs, dirs_exist_ok=True)


setup(
    name="ohem_d2",
    version="0.1.0",
    description="Online hard example mining (Shrivastava et al. 2016) for detectron2",
    author="The ohem_d2 authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["object detection", "hard example mining", "OHEM", "detectron2", "PyTorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["ohem_d2*"]),
    package_data={
        "ohem_d2": [
            "py.typed",
            "reproduction/*.json",
            "visualization/*.html",
            "visualization/*.css",
            "visualization/*.js",
        ]
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["ohem-d2 = ohem_d2.__main__:main"]},
    python_requires=">=3.10",
    # torch, torchvision and detectron2 are not listed: like detectron2 itself, this package uses
    # the builds that its user has chosen and never replaces them.
    install_requires=["fvcore>=0.1.5", "numpy", "pycocotools>=2.0.2"],
    extras_require={
        # The demo's dataset, pictures and pages.
        "demo": ["jinja2", "matplotlib", "opencv-python<5", "tabulate"],
        # Selective search, and proposals in MATLAB files. A superset of opencv-python, and to be
        # installed instead: both bring a `cv2`.
        "proposals": ["opencv-contrib-python<5", "scipy"],
        # Both, for `ohem-d2 reproduce`.
        "reproduce": ["jinja2", "matplotlib", "opencv-contrib-python<5", "scipy", "tabulate"],
        # Caffe weights, which OpenCV 5 cannot read.
        "caffe": ["opencv-python<5"],
    },
)
