import math
import pickle

import numpy as np
import pytest
import torch
from conftest import use_clutter
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    get_detection_dataset_dicts,
)
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from ohem_d2.data import proposal_file
from ohem_d2.data.datasets.clutter import HEIGHT, WIDTH, generate_clutter
from ohem_d2.data.proposal_file import (
    check_proposals,
    make_proposals,
    read_proposals,
    write_proposals,
)

BOXES = [
    np.array([[0, 0, 208, 160], [10.5, 20, 30, 40], [5, 5, 5, 9]], dtype=np.float32),
    np.zeros((0, 4), dtype=np.float32),
    np.array([[1, 2, 3, 4]] * 300, dtype=np.float32) + np.arange(300)[:, None] % 150,
]


def dataset_of(ids, **size):
    return [{"image_id": x, **size} for x in ids]


@pytest.fixture
def clutter(tmp_path):
    generate_clutter(str(tmp_path), 0, {"train": 3, "test": 2})
    use_clutter(tmp_path)
    return DatasetCatalog.get("clutter_coco_train")


@pytest.mark.parametrize("name", ["clutter_voc_train", "clutter_coco_train"])
def test_detectron2_loads_what_is_written(clutter, tmp_path, name):
    path = str(tmp_path / "proposals.pkl")
    dataset_dicts = DatasetCatalog.get(name)
    ids = [x["image_id"] for x in dataset_dicts]
    write_proposals(path, make_proposals(ids, BOXES, [(HEIGHT, WIDTH)] * 3))
    assert [x.name for x in tmp_path.iterdir() if "proposals" in x.name] == ["proposals.pkl"]
    check_proposals(read_proposals(path), dataset_dicts)

    loaded = get_detection_dataset_dicts([name], filter_empty=False, proposal_files=[path])
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="BGR", precomputed_proposal_topk=250
    )
    for record, expected in zip(loaded, BOXES, strict=True):
        proposals = mapper(record)["proposals"]
        area = (expected[:, 2:] - expected[:, :2]).prod(axis=1)
        # In their order, although detectron2 sorts them; without empty boxes.
        assert torch.equal(
            proposals.proposal_boxes.tensor, torch.as_tensor(expected[area > 0][:250])
        )
        assert (proposals.objectness_logits.diff() < 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bbox_mode": BoxMode.XYXY_ABS},
        {"boxes": [np.array([[30.0, 10, 20, 50]])], "bbox_mode": 1},
        {"boxes": [np.array([[30.0, 10, 20, 50]])], "bbox_mode": BoxMode.XYWH_ABS},
        {"objectness_logits": [np.array([3])]},
        {"boxes": np.array([[[-0.9, -0.9, 100.9, 60.9]]])},  # rounding
        {"image_sizes": [(60, 100)]},
    ],
)
def test_other_files_that_detectron2_reads(tmp_path, changes):
    # Detectron1's names.
    content = {"indexes": [7], "boxes": [np.array([[30.0, 10, 50, 60]])]}
    content["scores"] = [np.array([0.5])]
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({**content, **changes}))
    proposals = read_proposals(str(path))
    check_proposals(proposals, dataset_of([7], height=60, width=100))
    check_proposals(proposals, dataset_of(["7"]))  # of unknown size


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "file.pkl is not a proposal file: EOFError"),
        (b"\x89PNG\r\n", "file.pkl is not a proposal file"),
        (pickle.dumps([1]), "is not a proposal file: it holds a list"),
        (pickle.dumps({"model": {}}), "is not a proposal file: it has no list 'ids'"),
        (pickle.dumps({"ids": [1], "boxes": 3}), "it has no list 'boxes'"),
    ],
)
def test_what_is_not_a_proposal_file(tmp_path, content, message):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_proposals(str(path))
    with pytest.raises(ValueError, match="cannot be read: .*Is a directory"):
        read_proposals(str(tmp_path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ids": [1, 2, 3]}, "lists have different lengths: .*'ids': 3, 'boxes': 2"),
        ({"image_sizes": [(60, 100)]}, r"image_sizes must be one \(height, width\) per image"),
        ({"image_sizes": [60, 100]}, r"image_sizes must be one \(height, width\) per image"),
        ({"bbox_mode": BoxMode.XYWHA_ABS}, "bbox_mode is .* must be XYXY_ABS or"),
        ({"bbox_mode": "XYXY"}, "bbox_mode is XYXY. It must be XYXY_ABS or"),
        ({"ids": [1, 5]}, "Image 2 has no entry .*, like 1 of the 2 images .* for all"),
        ({"ids": []}, "different lengths"),
        ({"image_sizes": [(60, 100), (100, 60)]}, "Image 2: .*height 100 and width 60, but in the"),
        ({"boxes": [[30.0, 10, 50, 60]]}, "Image 2: its boxes are a list. .* array"),
        ({"boxes": np.zeros((1, 5))}, r"Image 2: its boxes are of shape \(1, 5\)"),
        ({"boxes": np.zeros(4)}, r"Image 2: its boxes are of shape \(4,\)"),
        ({"boxes": np.zeros((1, 4), np.uint16)}, "Image 2: .*type uint16.* must be float32"),
        ({"objectness_logits": [0.0]}, "Image 2: its objectness_logits are a list"),
        ({"objectness_logits": np.array(["a"])}, "Image 2: its objectness_logits are .*type <U1"),
        ({"objectness_logits": np.zeros(2)}, r"Image 2: .* shape \(2,\).*shape \(1, 4\).*one"),
        ({"objectness_logits": np.zeros((1, 1))}, r"Image 2: .*shape \(1, 1\)"),
        ({"objectness_logits": np.array([np.nan])}, "Image 2: there is a NaN among"),
        ({"boxes": np.array([[0, np.inf, 1, np.inf]])}, r"Image 2: box 0 \(0, inf, 1, inf\) is"),
        (
            {"boxes": np.array([[9.0, 0, 5, 5]])},
            "Image 2: box 0 .* before it begins.*If they are XYWH",
        ),
        ({"boxes": np.array([[0.0, 9, 5, 5]])}, "Image 2: box 0 .* ends before it begins"),
        (
            {
                "boxes": np.array([[0.0, 0, 5, 5], [0, 0, 101.5, 5]]),
                "objectness_logits": np.zeros(2),
            },
            r"Image 2: box 1 \(0, 0, 101.5, 5\).* reaches beyond .* height 60 and width 100",
        ),
        ({"boxes": np.array([[0.0, 0, 5, 62]])}, "Image 2: .*reaches beyond"),
        ({"boxes": np.array([[-2.0, 0, 5, 5]])}, "Image 2: .*reaches beyond"),
        ({"boxes": np.array([[0.0, -2, 5, 5]])}, "Image 2: .*reaches beyond"),
        ({"boxes": np.array([[90.0, 0, 50, 5]]), "bbox_mode": 1}, "Image 2: .*reaches beyond"),
        (
            {"boxes": np.array([[9.0, 0, -5, 5]]), "bbox_mode": 1},
            "before it begins in XYWH_ABS\\.$",
        ),
    ],
)
def test_errors_name_the_image_and_the_problem(tmp_path, changes, message):
    content = {
        "ids": [1, 2],
        "boxes": [np.array([[30.0, 10, 50, 20]])] * 2,
        "objectness_logits": [np.zeros(1)] * 2,
    }
    for key, value in changes.items():
        of_second_image = key in ("boxes", "objectness_logits")
        content[key] = [content[key][0], value] if of_second_image else value
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        check_proposals(read_proposals(str(path)), dataset_of([1, 2], height=60, width=100))


coordinates = st.sampled_from([-2.0, -1.0, 0.0, 3.0, 8.0, 9.0, 10.0, 12.0, 13.0, math.nan])


@given(
    boxes=st.lists(st.tuples(*[coordinates] * 4), max_size=4),
    mode=st.sampled_from([BoxMode.XYXY_ABS, BoxMode.XYWH_ABS]),
    has_size=st.booleans(),
)
def test_agrees_with_checking_one_box_at_a_time(boxes, mode, has_size):
    height, width = 8, 12

    def is_good(box):
        x, y, a, b = box
        x1, y1 = (x + a, y + b) if mode == BoxMode.XYWH_ABS else (a, b)
        if has_size and not (x >= -1 and y >= -1 and x1 <= width + 1 and y1 <= height + 1):
            return False
        return x <= x1 and y <= y1  # false for NaN

    proposals = make_proposals([0], [np.reshape(boxes, (-1, 4))], [(height, width)])
    proposals["bbox_mode"] = mode
    dataset = dataset_of([0], **({"height": height, "width": width} if has_size else {}))
    if all(is_good(x) for x in boxes):
        check_proposals(proposals, dataset)
    else:
        with pytest.raises(ValueError, match=r"Image 0: box \d"):
            check_proposals(proposals, dataset)


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "proposals.pkl"
    proposals = make_proposals(["a"], BOXES[:1], [(160, 208)])
    write_proposals(path, proposals)
    before = path.read_bytes()

    def fail(_, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(proposal_file.pickle, "dump", fail)
        with pytest.raises(OSError):
            write_proposals(path, proposals)
    assert path.read_bytes() == before
    write_proposals(path, proposals)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_same_bytes_for_the_same_boxes(tmp_path):
    files = []
    # Unpickled arrays have a dtype object of their own.
    for boxes in (BOXES, pickle.loads(pickle.dumps(BOXES)), [x.astype(float) for x in BOXES]):
        files.append(tmp_path / str(len(files)))
        write_proposals(files[-1], make_proposals("abc", boxes, [(160, 208)] * 3))
    mixed = [BOXES[0], *pickle.loads(pickle.dumps(BOXES[1:]))]
    write_proposals(tmp_path / "mixed", make_proposals("abc", mixed, [(160, 208)] * 3))
    for file in [*files[1:], tmp_path / "mixed"]:
        assert file.read_bytes() == files[0].read_bytes()
