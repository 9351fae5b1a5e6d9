import torch
from conftest import IMAGE_SIZE, NUM_CLASSES, make_proposals, make_targets
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from ohem_d2.modeling.roi_heads import label_rois


def instances(boxes):
    return Instances(IMAGE_SIZE, proposal_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))


def test_by_hand():
    # Object 0 of class 2 is 20 x 20 at (0, 0), object 1 of class 0 is 10 x 10 at (40, 40).
    targets = Instances(
        IMAGE_SIZE,
        gt_boxes=Boxes([[0, 0, 20, 20], [40, 40, 50, 50]]),
        gt_classes=torch.tensor([2, 0]),
    )
    proposals = instances(
        [
            [40.0, 40, 50, 49],  # IoU .9 with object 1
            [0.0, 0, 20, 10],  # .5 with object 0: the threshold itself is foreground
            [0.0, 0, 20, 8],  # .4 with object 0
            [60.0, 0, 70, 10],  # no object
        ]
    )
    (rois,) = label_rois([proposals], [targets], Matcher([0.5], [0, 1]), NUM_CLASSES)
    assert rois.gt_classes.tolist() == [0, 2, NUM_CLASSES, NUM_CLASSES]
    assert rois.gt_inds[:2].tolist() == [1, 0]
    assert rois.gt_boxes.tensor[:2].tolist() == [[40, 40, 50, 50], [0, 0, 20, 20]]

    (rois,) = label_rois([proposals], [targets], Matcher([0.3, 0.6], [0, -1, 1]), NUM_CLASSES)
    assert rois.gt_classes.tolist() == [0, NUM_CLASSES]
    assert rois.proposal_boxes.tensor[:, 0].tolist() == [40, 60]
    # Neither call touched what it was given.
    assert set(proposals.get_fields()) == {"proposal_boxes"}
    assert targets.gt_classes.tolist() == [2, 0]


def test_image_without_objects():
    (targets,) = make_targets([0])
    (rois,) = label_rois(
        [instances([[0.0, 0, 9, 9]])], [targets], Matcher([0.5], [0, 1]), NUM_CLASSES
    )
    assert rois.gt_classes.tolist() == [NUM_CLASSES]
    assert not rois.has("gt_boxes")


def test_image_without_proposals():
    (targets,) = make_targets([2])
    (rois,) = label_rois([instances([])], [targets], Matcher([0.5], [0, 1]), NUM_CLASSES)
    assert len(rois) == 0 and len(rois.gt_boxes) == 0


def test_same_as_the_best_overlap():
    targets = make_targets([5, 3], seed=1)
    proposals = make_proposals(targets, [60, 60], seed=1)
    labeled = label_rois(proposals, targets, Matcher([0.5], [0, 1]), NUM_CLASSES)
    for rois, targets_per_image in zip(labeled, targets, strict=True):
        iou = pairwise_iou(targets_per_image.gt_boxes, rois.proposal_boxes).numpy()
        for i in range(60):
            best = iou[:, i].argmax()
            expected = targets_per_image.gt_classes[best].item()
            assert rois.gt_classes[i] == (expected if iou[best, i] >= 0.5 else NUM_CLASSES)
