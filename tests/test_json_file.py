import json
import math

import pytest

from ohem_d2.utils import write_json


def test_nan_is_null_everywhere(tmp_path):
    value = {"a": math.nan, "b": [1, {"c": (math.nan, 2.5)}], "d": "nan", "e": None}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": None,
        "b": [1, {"c": [None, 2.5]}],
        "d": "nan",
        "e": None,
    }


def test_what_was_there_stays_if_it_cannot_be_written(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", object())
    assert [x.name for x in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "1\n"
