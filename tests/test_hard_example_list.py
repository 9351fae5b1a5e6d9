"""
The list of the hardest, beside sorting all, and what becomes of a run that is stopped.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohem_d2.evaluation import HardExample, HardExampleList
from ohem_d2.evaluation.hard_examples import KINDS

DESCRIPTION = {"dataset": "cats", "weights": "abc", "nms_thresh": 0.3}


def make_example(kind=0, loss=1.0, name="a.jpg"):
    box = [0.0, 1.0, 2.5, 4.0]
    return HardExample(KINDS[kind], name, box, 1, box, 0, box, 0.5, loss, loss, 0.0, 0.0)


def make_list(path, max_per_kind=2, **changes):
    return HardExampleList(path, {**DESCRIPTION, **changes}, max_per_kind)


IMAGES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0, 3.0])), max_size=6),
    max_size=8,
)


@settings(max_examples=60)
@given(IMAGES, st.integers(1, 4), st.data())
def test_the_hardest_of_each_kind_stopped_or_not(tmp_path_factory, images, max_per_kind, data):
    path = tmp_path_factory.mktemp("list") / "examples.json"
    images = [
        [make_example(kind, loss, f"{i}_{k}.jpg") for k, (kind, loss) in enumerate(found)]
        for i, found in enumerate(images)
    ]
    # Python's sort is stable: of equal losses the first ones are first.
    ranked = sorted((x for found in images for x in found), key=lambda x: -x.loss)
    expected = [x for kind in KINDS for x in [y for y in ranked if y.kind == kind][:max_per_kind]]

    examples = make_list(path, max_per_kind)
    stop = data.draw(st.integers(0, len(images)))
    for found in images[:stop]:
        examples.add(found)
    examples.save()
    if stop < len(images):  # what was not saved is lost
        examples.add(images[stop])
    examples = make_list(path, max_per_kind)
    assert examples.num_images == stop
    for found in images[stop:]:
        examples.add(found)
    assert examples.hardest() == expected
    assert examples.num_images == len(images)


def test_memory_does_not_grow(tmp_path):
    examples = make_list(tmp_path / "examples.json", max_per_kind=3)
    for i in range(500):
        examples.add([make_example(kind, i % 7) for kind in range(4)])
    assert sum(map(len, examples._heaps.values())) == 12


@pytest.mark.parametrize(
    "changes, named",
    [({"weights": "other"}, "weights differ"), ({"max_per_kind": 3}, "max_per_kind differ")],
)
def test_the_file_of_another_run(tmp_path, changes, named):
    path = tmp_path / "examples.json"
    examples = make_list(path)
    examples.add([make_example()])
    examples.save()
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"examples.json is there, and is of another run: {named}"
    ):
        make_list(path, **changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{}", '{"description": {}, "num_images": 1, "examples": [[1]]}']
)
def test_another_file(tmp_path, text):
    path = tmp_path / "examples.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no list of hard examples.*Move it away"):
        make_list(path)
    assert path.read_text() == text


def test_what_is_in_the_file(tmp_path):
    examples = make_list(tmp_path / "examples.json")
    examples.add([make_example()])
    examples.save()
    saved = json.loads((tmp_path / "examples.json").read_text())
    assert saved["num_images"] == 1
    (values,) = saved["examples"]
    assert dict(zip(saved["fields"], values, strict=True)) == make_example()._asdict()
