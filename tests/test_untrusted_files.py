"""
Files from elsewhere never run code: a malicious one of each kind, for each command that reads it.
"""

import io
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import use_clutter
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from ohem_d2.__main__ import main
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import load_config
from ohem_d2.utils.safe_pickle import load_pickle


class Malicious:
    """
    Makes a folder when it is unpickled.
    """

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return exec, (f"import os; os.mkdir({str(self.folder)!r})",)


@pytest.fixture
def malicious(tmp_path):
    """
    An object, which is checked to be one. At the end, nothing was run.
    """
    pickle.loads(pickle.dumps(Malicious(tmp_path / "it_works")))
    assert (tmp_path / "it_works").exists()
    yield Malicious(tmp_path / "was_run")
    assert not (tmp_path / "was_run").exists()


CONFIG = "demo/faster_rcnn_R_18_ohem.yaml"
FAST_RCNN = "demo/fast_rcnn_VGG16_ohem.yaml"
OPTIONS = [
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", "output"),
    *("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """
    A command in a folder with the demo's dataset. It fails.
    """
    generate_clutter(str(tmp_path / "datasets"), 0, {"train": 2, "test": 2})
    monkeypatch.chdir(tmp_path)
    use_clutter(tmp_path / "datasets")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ohem-d2", *map(str, arguments)])
        with pytest.raises(SystemExit) as error:
            main()
        message = str(error.value)
        assert message.startswith("ohem-d2 ") and "Traceback" not in message
        return message

    return run


# What reads weights, and its arguments.
READERS = {
    "train": ["train", "--config-file", CONFIG, "MODEL.WEIGHTS"],
    "eval": ["train", "--config-file", CONFIG, "--eval-only", "MODEL.WEIGHTS"],
    "inspect": ["inspect", "--config-file", CONFIG, "MODEL.WEIGHTS"],
    "ablation": ["ablation", "--config-file", CONFIG, "--weights"],
}


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
@pytest.mark.parametrize("reader", READERS)
def test_weights(run, malicious, tmp_path, reader, suffix):
    file = tmp_path / f"weights{suffix}"
    content = {"model": {"x": np.zeros(3)}, "__author__": "someone", "extra": malicious}
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    message = run(*READERS[reader], file, *OPTIONS)
    assert f"The weights {file} cannot be read: it asks for " in message
    assert "If you trust the file" in message


def test_the_checkpoint_of_a_resumed_run(run, malicious, tmp_path):
    (tmp_path / "output").mkdir()
    torch.save({"model": {}, "extra": malicious}, tmp_path / "output/model_0000000.pth")
    (tmp_path / "output/last_checkpoint").write_text("model_0000000.pth")
    message = run("train", "--config-file", CONFIG, "--resume", *OPTIONS)
    assert "model_0000000.pth cannot be read: it asks for " in message


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "command", [["train"], ["train", "--eval-only", "MODEL.WEIGHTS", ""], ["inspect"], ["ablation"]]
)
def test_proposals(run, malicious, tmp_path, command, protocol):
    file = tmp_path / "proposals.pkl"
    content = {"ids": ["1"], "boxes": [malicious], "objectness_logits": [[0.0]]}
    file.write_bytes(pickle.dumps(content, protocol))
    weights = tmp_path / "weights.pth"
    torch.save({"model": {}}, weights)
    name, *rest = command
    if "MODEL.WEIGHTS" in rest:
        rest[-1] = weights
    elif name == "inspect":
        rest = ["MODEL.WEIGHTS", weights]
    elif name == "ablation":
        rest = ["--weights", weights]
    files = [f"DATASETS.PROPOSAL_FILES_{x}" for x in ("TRAIN", "TEST")]
    options = [y for x in files for y in (x, f"('{file}',)")]
    message = run(name, "--config-file", FAST_RCNN, *rest, *OPTIONS, *options)
    assert "proposals.pkl is not a proposal file: UnpicklingError: it asks for " in message


@pytest.mark.parametrize("command", ["train", "inspect", "ablation"])
def test_configs(run, malicious, tmp_path, command):
    code = f"__import__('os').mkdir({str(malicious.folder)!r})"
    for text in (
        f'OUTPUT_DIR: !!python/object/apply:eval ["{code}"]\n',
        f"_BASE_: base.yaml\nOUTPUT_DIR: {tmp_path}\n",  # the one above
    ):
        (tmp_path / "config.yaml").write_text(text)
        weights = ["--weights", "x.pth"] if command == "ablation" else []
        message = run(command, "--config-file", "config.yaml", *weights)
        assert "config.yaml cannot be read: " in message and "python/object/apply" in message
        (tmp_path / "config.yaml").rename(tmp_path / "base.yaml")


def test_configs_of_detectron2_are_trusted():
    # Its configs of RetinaNet compute their anchors.
    cfg = load_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES[0]) == 3


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(st.text(), x, max_size=3),
)


@given(values, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read(value, protocol):
    assert load_pickle(io.BytesIO(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_tensors_are_read(protocol):
    content = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.eye(3)),
        "text": np.array(["a", "bc"]),
        "objects": np.array([None, "a", [1]], dtype=object),
        "scalar": np.float32(2.5),
        "mode": BoxMode.XYXY_ABS,
        "tensor": torch.arange(4.0).reshape(2, 2),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    read = load_pickle(io.BytesIO(pickle.dumps(content, protocol)))
    assert read.keys() == content.keys()
    for key, x in content.items():
        assert type(read[key]) is type(x), key
        if isinstance(x, np.ndarray):
            assert read[key].dtype == x.dtype
            np.testing.assert_array_equal(read[key], x)
        else:
            assert torch.equal(read[key], x) if torch.is_tensor(x) else read[key] == x


def test_a_file_of_python_2():
    # The dict {"W": np.float32([1, 2])}, pickled by Python 2 with protocol 2.
    content = (
        b"\x80\x02}q\x01U\x01Wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
        b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@"
        b"tbs."
    )
    read = load_pickle(io.BytesIO(content))
    assert list(read) == ["W"] and read["W"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(print), pickle.dumps(io.BytesIO), b"cos\nsystem\n(S'true'\ntR."],
)
def test_nothing_else_is_found(content):
    with pytest.raises(pickle.UnpicklingError, match="it asks for"):
        load_pickle(io.BytesIO(content))


def test_the_storage_of_a_tensor_runs_nothing(malicious):
    file = io.BytesIO()
    torch.save(malicious, file)

    class Tensor:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (file.getvalue(),)

    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        load_pickle(io.BytesIO(pickle.dumps(Tensor())))
