"""
Detections in the files of evaluators, judged by boxes, masks and keypoints.
"""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils

from ohem_d2.evaluation.compared_dataset import COCO_RESULTS, read_compared_dataset
from ohem_d2.evaluation.error_breakdown import VERDICTS
from ohem_d2.utils import InputError

NAME = "compared_coco"
HEIGHT, WIDTH = 40, 60
SIGMAS = [0.1, 0.1]
# Two triangles of the same box, on both sides of its diagonal: an IoU of 1 by boxes, 0 by masks.
LOWER, UPPER = [10, 10, 10, 30, 30, 30], [10, 10, 30, 10, 30, 30]
BOX = [10, 10, 20, 20]  # XYWH, of both
SQUARE = [40, 5, 50, 5, 50, 15, 40, 15]


def annotation(number, box, polygon, keypoints, **others):
    return {
        **{"id": number, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 200.0},
        **{"bbox": box, "segmentation": [polygon], "keypoints": keypoints, "num_keypoints": 2},
        **others,
    }


RLE = mask_utils.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH), np.uint8))
CROWD = {"size": RLE["size"], "counts": RLE["counts"].decode()}
ANNOTATIONS = [
    annotation(1, BOX, LOWER, [12, 20, 2, 20, 28, 1]),
    annotation(2, [40, 5, 10, 10], SQUARE, [0, 0, 0, 0, 0, 0]),  # none of its keypoints is labeled
    annotation(3, [0, 0, 5, 5], [], [0] * 6) | {"iscrowd": 1, "segmentation": CROWD},
]


@pytest.fixture
def dataset(tmp_path):
    """
    Registered, with an image.
    """
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": ANNOTATIONS,
        "categories": [{"id": 7, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "a.json"), str(tmp_path))
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def rasterize(polygon):
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects([polygon], HEIGHT, WIDTH)))


def write_results(folder, polygons, keypoints, parts=("masks", "keypoints")):
    """
    What detectron2's evaluator writes for such detections, all with the box of LOWER.
    """
    n = len(polygons)
    detections = Instances((HEIGHT, WIDTH))
    detections.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]] * n))
    detections.scores = torch.arange(n, 0, -1) / 10
    detections.pred_classes = torch.zeros(n, dtype=torch.int64)
    if "masks" in parts:
        detections.pred_masks = torch.tensor(np.stack([rasterize(x) for x in polygons]))
    if "keypoints" in parts:
        detections.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32).reshape(n, -1, 3)
    results = instances_to_coco_json(detections, 1)
    for x in results:
        x["category_id"] = 7
    folder.mkdir()
    (folder / COCO_RESULTS).write_text(json.dumps(results))
    return folder


# In detectron2's coordinates, where the middle of a pixel is at .5: those of the first object.
IN_PLACE = [12.5, 20.5, 0.9, 20.5, 28.5, 0.8]
FAR = [50, 20, 0.9, 50, 20, 0.9]


def judge(folders, **kwargs):
    read = read_compared_dataset(NAME, folders, **kwargs)
    found = {}
    for task in read.tasks:
        for run in range(2):
            (judgement,) = read.judge(run, task)
            found[task, run] = (
                [VERDICTS[x] for x in judgement.verdicts],
                [round(x, 1) for x in judgement.found_scores.tolist()],
            )
    return read, found


def test_masks_and_keypoints(dataset):
    folders = (
        write_results(dataset / "a", [LOWER], IN_PLACE),
        # A: the mask is wrong, the keypoints are right. B: the other way around.
        write_results(dataset / "b", [UPPER, LOWER], [*IN_PLACE, *FAR]),
    )
    read, found = judge(folders, keypoint_sigmas=SIGMAS)
    assert read.tasks == ["bbox", "segm", "keypoints"]
    missed = float("-inf")
    assert found["bbox", 0] == found["segm", 0] == (["right"], [0.1, missed])
    # The object without labeled keypoints does not count.
    assert found["keypoints", 0] == (["right"], [0.1])
    assert found["bbox", 1] == (["right", "duplicate"], [0.2, missed])
    # The triangles share their diagonal, some pixels of 200.
    assert found["segm", 1] == (["background", "right"], [0.1, missed])
    assert found["keypoints", 1] == (["right", "background"], [0.2])

    (image,) = read.images
    assert image.ignored.tensor.tolist() == [[0, 0, 5, 5]]
    _, ignored = image.targets("keypoints")
    assert ignored.tensor.tolist() == [[0, 0, 5, 5], [40, 5, 50, 15]]
    # As detectron2 converts datasets: the area of the mask, of a triangle here.
    assert image.objects.gt_areas.tolist() == [rasterize(LOWER).sum(), 100]


def test_tasks_that_both_have(dataset):
    folders = (
        write_results(dataset / "a", [LOWER], IN_PLACE),
        write_results(dataset / "b", [LOWER], IN_PLACE, parts=["masks"]),
    )
    assert judge(folders, keypoint_sigmas=SIGMAS)[0].tasks == ["bbox", "segm"]
    # COCO's sigmas are of 17 keypoints.
    assert judge((folders[0], folders[0]))[0].tasks == ["bbox", "segm"]
    # A run without detections.
    empty = dataset / "empty"
    empty.mkdir()
    (empty / COCO_RESULTS).write_text("[]")
    _, found = judge((folders[0], empty))
    assert found["segm", 1] == ([], [float("-inf")] * 2)
    assert judge((empty, empty))[0].tasks == ["bbox"]


def test_a_mask_of_another_size(dataset):
    folder = write_results(dataset / "a", [LOWER], IN_PLACE)
    file = folder / COCO_RESULTS
    results = json.loads(file.read_text())
    results[0]["segmentation"] = CROWD | {"size": [HEIGHT, 2 * WIDTH]}
    file.write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"a mask of 120 x 40 .*a.png, which has 60 x 40"):
        read_compared_dataset(NAME, (folder, folder))
