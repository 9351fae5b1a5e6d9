import hashlib
import subprocess
import sys
from types import SimpleNamespace

import install_detectron2
import pypi_simple
import pytest
from install_detectron2 import InstallError, bring_up_to_date, download_release

SOURCES = {
    "detectron2/__init__.py": "",
    "detectron2/projects/__init__.py": "",
    # The counts of the release: np.int 4, np.float 5, np.bool 8, np.str 1.
    "detectron2/numbers.py": "np.int, np.int, np.int\nx = np.int(np.float)\n"
    + "np.float64, np.int32, np.bool_, anp.int\n"
    + "np.float\n" * 4
    + "np.bool\n" * 8
    + "np.str\n",
    "detectron2/transform.py": "interp=Image.LINEAR\n",
    "detectron2/model_zoo/__init__.py": "import os\nimport pkg_resources\n\n"
    "def f(config_path):\n"
    "    return pkg_resources.resource_filename(\n"
    '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
    "    )\n",
    "detectron2/model_zoo/configs/a.yaml": "np.int",
    "projects/PointRend/point_rend/__init__.py": "",
    "projects/DeepLab/deeplab/__init__.py": "",
    "projects/Panoptic-DeepLab/panoptic_deeplab/__init__.py": "",
    "tools/train_net.py": "np.int",
    "setup.py": "import torch",
    "setup.cfg": "",
}


@pytest.fixture
def source(tmp_path):
    for name, text in SOURCES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_bring_up_to_date(source, capsys):
    bring_up_to_date(source)
    assert (source / "detectron2/numbers.py").read_text() == (
        "int, int, int\nx = int(float)\n"
        "np.float64, np.int32, np.bool_, anp.int\n" + "float\n" * 4 + "bool\n" * 8 + "str\n"
    )
    assert (source / "detectron2/transform.py").read_text() == "interp=Image.BILINEAR\n"
    assert (source / "detectron2/model_zoo/configs/a.yaml").read_text() == "np.int"
    assert (source / "detectron2/projects/panoptic_deeplab/__init__.py").exists()
    assert not (source / "projects").exists()
    assert "  8 x NumPy 1.24 removed np.bool" in capsys.readouterr().out

    # The model zoo finds its files, and the missing extension explains itself.
    script = (
        "from detectron2 import _C, model_zoo\n"
        "print(open(model_zoo.f('a.yaml')).read())\n"
        "assert not hasattr(_C, 'nms_rotated') and not _C.has_cuda()\n"
        "_C.box_iou_rotated(1, 2)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=source, capture_output=True, text=True
    )
    assert result.stdout == "np.int\n"
    assert "detectron2._C.box_iou_rotated is missing" in result.stderr
    assert "build upstream detectron2" in result.stderr


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("detectron2/numbers.py", "np.str", "str"),
        ("detectron2/numbers.py", "np.str", "np.str, np.str"),
        ("detectron2/model_zoo/__init__.py", '"configs"', '"config"'),
    ],
)
def test_a_different_source_is_an_error(source, file, old, new):
    (source / file).write_text((source / file).read_text().replace(old, new))
    with pytest.raises(InstallError, match="is not the detectron2 0.5 that this script was"):
        bring_up_to_date(source)


def test_a_source_with_the_extension_is_an_error(source):
    (source / "detectron2/layers/csrc").mkdir(parents=True)
    with pytest.raises(InstallError, match="unexpectedly has the extension"):
        bring_up_to_date(source)


@pytest.fixture
def index(monkeypatch):
    """
    A fake package index: tests set its files and see its address.
    """
    index = SimpleNamespace(files={install_detectron2.FILENAME: b"release"}, endpoint=None)

    class Client:
        def __init__(self, endpoint):
            index.endpoint = endpoint

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_project_page(self, project):
            assert project == "detectron2-cdo"
            return SimpleNamespace(packages=[SimpleNamespace(filename=x) for x in index.files])

        def download_package(self, package, path, progress):
            path.write_bytes(index.files[package.filename])

    monkeypatch.setattr(pypi_simple, "PyPISimple", Client)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    return index


def test_download(index, tmp_path, monkeypatch):
    digest = hashlib.sha256(b"release").hexdigest()
    monkeypatch.setattr(install_detectron2, "SHA256", digest)
    assert download_release(tmp_path).read_bytes() == b"release"
    assert index.endpoint == pypi_simple.PYPI_SIMPLE_ENDPOINT

    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    download_release(tmp_path)
    assert index.endpoint == "https://mirror.example/simple"


def test_another_file_is_not_installed(index, tmp_path):
    with pytest.raises(InstallError, match=r"has the sha256 [0-9a-f]{64}, not the expected"):
        download_release(tmp_path)
    index.files = {"detectron2_cdo-0.6.tar.gz": b""}
    with pytest.raises(InstallError, match="does not have detectron2_cdo-0.5.tar.gz"):
        download_release(tmp_path)


def test_an_installed_detectron2_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py"])
    monkeypatch.setattr(install_detectron2, "run_pip", lambda *_: pytest.fail("pip was run"))
    install_detectron2.main()
    assert "Keeping the installed detectron2" in capsys.readouterr().out


def test_install_another(monkeypatch, tmp_path):
    calls = []

    def run_pip(*arguments):
        calls.append(arguments)
        if arguments[0] == "wheel":
            (install_folder,) = [x for x in arguments if x.startswith("/")]
            open(f"{install_folder}/detectron2-0.6-py3-none-any.whl", "w").close()

    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--from", "git+https://somewhere"])
    monkeypatch.setattr(install_detectron2, "run_pip", run_pip)
    install_detectron2.main()
    assert [x[0] for x in calls] == ["wheel", "install", "install"]
    assert calls[0][-1] == "git+https://somewhere"
    assert calls[1][-1].endswith("detectron2-0.6-py3-none-any.whl")


def test_a_failed_build_installs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--from", "/nowhere"])
    commands = []

    def run(command, check, env):
        commands.append(command[3])
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InstallError, match="pip wheel failed.*still there"):
        install_detectron2.main()
    assert commands == ["wheel"]
