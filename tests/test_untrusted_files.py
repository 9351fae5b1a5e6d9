"""
Files from elsewhere never run code, and what they may hold is read. A malicious file for each
command that reads one is among the faults of test_faults.py.
"""

import io
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from faults.malicious_faults import Malicious
from faults.running import SENTINEL
from hypothesis import given
from hypothesis import strategies as st

from ohem_d2.engine import load_config
from ohem_d2.utils.safe_pickle import load_pickle


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


def test_the_storage_of_a_tensor_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save(Malicious(), file)

    class Tensor:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (file.getvalue(),)

    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        load_pickle(io.BytesIO(pickle.dumps(Tensor())))
    assert not (tmp_path / SENTINEL).exists()
