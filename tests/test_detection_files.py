import json

import pytest

from ohem_d2.evaluation.detection_files import (
    check_image_ids,
    comp4_file,
    read_coco_results,
    read_comp4_file,
)
from ohem_d2.utils import InputError

GOOD = {"image_id": 30, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.5}
RLE = {"size": [60, 80], "counts": "Pf4"}


def read(tmp_path, results):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    return read_coco_results(file, [3, 7])


def test_coco_results_are_returned_as_they_are(tmp_path):
    no_box = {k: v for k, v in GOOD.items() if k != "bbox"}
    for results in (
        [],
        [GOOD, {**GOOD, "category_id": 3, "score": 1}],
        [{**no_box, "segmentation": RLE}],
        [{**no_box, "keypoints": [1, 2, 0.5] * 17}] * 2,
        [{**GOOD, "segmentation": RLE, "keypoints": [1, 2, 1]}],
    ):
        assert read(tmp_path, results) == results


@pytest.mark.parametrize(
    "results, message",
    [
        ({"annotations": []}, "holds a dict. COCO's results are a list"),
        ([[1, 2]], "detection 0, counted from 0, is a list"),
        ([GOOD, {**GOOD, "category_id": 1}], "detection 1,.* category_id 1. The dataset has: 3, 7"),
        ([{**GOOD, "score": float("nan")}], "has score nan"),
        ([{**GOOD, "score": "0.5"}], "has score 0.5, which is not a finite number"),
        ([{**GOOD, "bbox": [1, 2, 3]}], r"has bbox \[1, 2, 3\], which is not four"),
        ([{**GOOD, "bbox": [1, 2, 3, float("inf")]}], "has bbox .*inf"),
        ([{"image_id": 30, "category_id": 7, "bbox": [1, 2, 3, 4]}], "has no 'score'"),
        ([{"image_id": 30, "category_id": 7, "score": 1}], "none of bbox, segmentation, keypoints"),
        ([GOOD, {**GOOD, "segmentation": RLE}], "detection 1.* has bbox, segmentation, unlike"),
        ([{**GOOD, "keypoints": [1, 2, 1]}, GOOD], "detection 1.* has bbox, unlike"),
        ([{**GOOD, "segmentation": [[1, 2, 3, 4, 5, 6]]}], "not a compressed RLE"),
        ([{**GOOD, "keypoints": [1, 2]}], "keypoints that are not a finite x, y and score"),
        ([{**GOOD, "keypoints": [1, 2, 1] * n} for n in (1, 2)], "not as many as the first"),
    ],
)
def test_bad_coco_results(tmp_path, results, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, results)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"image 0.5 1 2 3 4\n"])
def test_not_json(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results.json cannot be read as json: "):
        read_coco_results(tmp_path / "results.json", [])


def test_comp4_file(tmp_path):
    file = comp4_file(tmp_path, "train", "cow")
    assert file.name == "comp4_det_train_cow.txt"
    file.write_text("a 1e-3 1 1.5 2.25 3\nb 0.90000000001 1 2 3 4\n")
    image_ids, scores, boxes = read_comp4_file(file)
    assert image_ids == ["a", "b"] and scores.tolist() == [0.001, 0.90000000001]
    # detectron2's first pixel is 0, and a box ends behind its last one.
    assert boxes.tolist() == [[0, 0.5, 2.25, 3], [0, 1, 3, 4]]
    file.write_text("")
    assert [len(x) for x in read_comp4_file(file)] == [0, 0, 0]
    file.unlink()
    with pytest.raises(InputError, match="comp4_det_train_cow.txt is missing.* an empty one"):
        read_comp4_file(file)


@pytest.mark.parametrize(
    "line",
    ["a 0.5 1 2 3", "a 0.5 1 2 3 4 5", "a 0.5 1 2 3 x", "a nan 1 2 3 4", "a 0 1 2 inf 4", ""],
)
def test_bad_comp4_lines(tmp_path, line):
    file = tmp_path / "cow.txt"
    file.write_text(f"a 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(InputError, match=f"cow.txt, line 2: '{line}' is not an image id and five"):
        read_comp4_file(file)


def test_check_image_ids():
    check_image_ids(["a", "b", "a"], {"a", "b"}, "x.json")
    with pytest.raises(InputError, match="x.json has detections on 2 images .* The first is d"):
        check_image_ids(["a", "d", "c", "d"], {"a", "b"}, "x.json")
