import pytest
import torch
from conftest import (
    FAMILIES,
    IMAGE_SIZE,
    INPUT_SHAPE,
    NUM_CLASSES,
    build_heads,
    devices,
    heads_config,
    make_features,
    make_proposals,
    make_targets,
)
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from oracles import select_slowly

CASCADE = FAMILIES["CascadeROIHeads"]
IOU_THRESHOLDS = (0.5, 0.6, 0.7)  # detectron2's MODEL.ROI_BOX_CASCADE_HEAD.IOUS


def predict(heads, features, boxes, stage):
    """
    Predictions of a stage on RoIs of one image.
    """
    x = heads.box_pooler([features[f] for f in INPUT_SHAPE], [Boxes(boxes)])
    return heads.box_predictor[stage](heads.box_head[stage](x))


def label(boxes, targets, threshold):
    iou, inds = pairwise_iou(targets.gt_boxes, Boxes(boxes)).max(dim=0)
    classes = torch.where(iou >= threshold, targets.gt_classes[inds], NUM_CLASSES)
    return classes, targets.gt_boxes[inds]


@devices
@torch.no_grad()
def test_each_stage_mines_among_the_boxes_of_the_one_before(device):
    cfg = heads_config(**CASCADE, MODEL__OHEM__NMS_THRESH=0.5)
    heads = build_heads(cfg, device=device)
    (targets,) = make_targets([3], device=device)
    features, (proposals,) = make_features(1, device=device), make_proposals([targets], [60])
    with EventStorage():
        rois = heads.label_proposals([proposals], [targets])
        mined = heads.mine_stages(None, features, rois, [targets])

    boxes = torch.cat([proposals.proposal_boxes.tensor, targets.gt_boxes.tensor])
    labels_of_stages = []
    for stage, threshold in enumerate(IOU_THRESHOLDS):
        gt_classes, gt_boxes = label(boxes, targets, threshold)
        losses = []
        for i in range(len(boxes)):  # each RoI alone, by the predictor's own training loss
            roi = Instances(
                IMAGE_SIZE,
                proposal_boxes=Boxes(boxes[i : i + 1]),
                gt_boxes=gt_boxes[i],
                gt_classes=gt_classes[i : i + 1],
            )
            predictions = predict(heads, features, boxes[i : i + 1], stage)
            with EventStorage():
                loss = heads.box_predictor[stage].losses(predictions, [roi])
            losses.append(sum(loss.values()).item())
        hard = select_slowly(
            boxes.double().cpu().numpy(), losses, gt_classes.cpu(), 16, 0.5, False, None
        )
        torch.testing.assert_close(mined[stage][0].proposal_boxes.tensor, boxes[hard])
        assert torch.equal(mined[stage][0].gt_classes, gt_classes[hard])
        labels_of_stages.append(gt_classes)

        # All of them go on, as this stage predicts them, within the image.
        _, deltas = predict(heads, features, boxes, stage)
        boxes = heads.box_predictor[stage].box2box_transform.apply_deltas(deltas, boxes)
        height, width = IMAGE_SIZE
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    assert len(labels_of_stages[0]) == 63
    assert any((labels < NUM_CLASSES).any() for labels in labels_of_stages[1:])


def test_what_is_logged_of_each_stage():
    heads = build_heads(heads_config(**CASCADE))
    targets = make_targets([3, 0])
    features, proposals = make_features(2), make_proposals(targets, [40, 30])
    with EventStorage() as storage:
        _, losses = heads(None, features, proposals, targets)
        scalars = {k: v for k, (v, _) in storage.latest().items()}
    assert sorted(losses) == sorted(
        f"{x}_stage{i}" for x in ("loss_cls", "loss_box_reg") for i in range(3)
    )
    for prefix in ("", "stage1/", "stage2/"):
        kept = scalars[f"{prefix}ohem/num_kept"]
        num_fg = scalars[f"{prefix}roi_head/num_fg_samples"]
        assert kept == num_fg + scalars[f"{prefix}roi_head/num_bg_samples"]
        assert 0 < kept <= 16 < scalars[f"{prefix}ohem/num_rois"]
    assert scalars["ohem/num_rois"] == 73 / 2
    # The mean of the losses that are trained on.
    for i, prefix in enumerate(("", "stage1/", "stage2/")):
        loss = losses[f"loss_cls_stage{i}"] + losses[f"loss_box_reg_stage{i}"]
        assert scalars[f"{prefix}ohem/mean_loss_kept"] == pytest.approx(loss.item(), rel=1e-5)
