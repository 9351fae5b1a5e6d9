import base64
import io
import json
import os
import pickle
import resource
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ohem_d2.utils import InputError
from ohem_d2.utils.partial_results import PartialResults

RESULTS = [("a", np.arange(6.0).reshape(2, 3)), ("b", np.zeros((0, 3))), ("c", np.ones((40, 3)))]


def assert_equal(results, expected):
    assert [x[0] for x in results] == [x[0] for x in expected]
    for (_, x), (_, y) in zip(results, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "partial"


@pytest.fixture
def ends(path):
    """
    Where the header and each of the results ends in a file of all of them.
    """
    with PartialResults(path, "about") as partial:
        ends = [path.stat().st_size]
        for result in RESULTS:
            partial.append(result)
            ends.append(path.stat().st_size)  # it is there before the file is closed
    return ends


def test_goes_on(path):
    for i, result in enumerate(RESULTS):
        with PartialResults(str(path), "about") as partial:
            assert_equal(partial.results, RESULTS[:i])
            partial.append(result)
            assert_equal(partial.results, RESULTS[: i + 1])
    assert path.read_bytes().count(b"\n") == 1 + len(RESULTS)


def test_a_file_that_is_cut_anywhere(path, ends):
    whole = path.read_bytes()
    assert ends[-1] == len(whole)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        count = sum(end <= cut for end in ends[1:])
        with PartialResults(path, "about") as partial:
            assert_equal(partial.results, RESULTS[:count])
            assert path.read_bytes() == whole[: ends[count]]
            for result in RESULTS[count:]:
                partial.append(result)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content, told",
    [
        (b"about\r\n", "about"),
        (b"about another run\n1\n", "about another run"),
        (b"abouT", "abouT"),
        (b"\nabout\n", ""),
        (b"\xff\xd8\xff" + bytes(range(256)) * 9, "\ufffd\ufffd\ufffd\x00\x01"),
    ],
    ids=["line ending", "another run", "no line", "empty line", "binary"],
)
def test_another_file_is_refused_and_left_alone(path, content, told):
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        PartialResults(path, "about")
    message = str(error.value)
    assert message.startswith(f"{path} is from another command:\nit has   {told}")
    assert "\nand not  about\nContinue with the command that started it, or delete it" in message
    assert path.read_bytes() == content


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.bool_]), array_shapes(min_side=0)
        ),
        lambda values: (
            st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3)
        ),
    )
)
def test_results_are_what_they_were(result):
    def assert_same(x, y):
        assert type(x) is type(y)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        elif isinstance(x, list):
            assert len(x) == len(y)
            for pair in zip(x, y, strict=True):
                assert_same(*pair)
        elif isinstance(x, dict):
            assert x.keys() == y.keys()
            for key in x:
                assert_same(x[key], y[key])
        else:
            assert x == y or x != x

    with TemporaryDirectory() as folder:
        for _ in range(2):
            with PartialResults(Path(folder, "partial"), "about") as partial:
                for earlier in partial.results:
                    assert_same(earlier, result)
                partial.append(result)


def test_other_types_leave_no_trace(path):
    with PartialResults(path, "about") as partial:
        for value in (lambda: None, np.array([print]), b"bytes"):
            with pytest.raises((TypeError, ValueError)):
                partial.append(("a", np.ones((70_000, 3)), value))
        partial.append("b")
        assert partial.results == ["b"]
    assert path.read_bytes() == b'about\n"b"\n'


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_runs_code_does_not(path, tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([Malicious(tmp_path / "was_run")]), allow_pickle=True)
    array = base64.b64encode(zlib.compress(file.getvalue())).decode()
    for content in (
        pickle.dumps(Malicious(tmp_path / "was_run")),
        json.dumps({"npy": array}).encode(),
    ):
        whole = b"about\n" + content + b"\n"
        path.write_bytes(whole)
        with pytest.raises(InputError, match=r"partial is damaged after 6 bytes: .* Delete it"):
            PartialResults(path, "about")
        assert path.read_bytes() == whole and not (tmp_path / "was_run").exists()


def test_another_run_takes_the_place_of_the_file(path):
    with PartialResults(path, "about") as partial:
        path.unlink()
        PartialResults(path, "another").close()
        partial.append("a")
    assert path.read_bytes() == b"another\n"


@pytest.mark.parametrize("size", [1_000, 100_000], ids=["less than a buffer", "more"])
def test_a_full_disk_is_told(path, size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    partial = PartialResults(path, "about")
    partial.append("a")
    result = os.urandom(size).hex()
    try:
        # The first bytes of the result can be written, as on a disk that becomes full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size // 2, hard))
        with pytest.raises(OSError):
            partial.append(result)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    partial.close()
    with PartialResults(path, "about") as partial:
        # What was in the buffer is written when the file is closed, if there is room by then.
        assert partial.results in (["a"], ["a", result])
