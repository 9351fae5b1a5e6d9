import pytest
from conftest import CONFIGS, flat, load_config
from detectron2.data import DatasetCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer

from ohem_d2 import HeuristicROIHeads, OHEMROIHeads

FILES = sorted(str(x.relative_to(CONFIGS)) for x in CONFIGS.rglob("*.yaml"))
TRAINABLE = [x for x in FILES if not x.startswith("Base-")]

NAME, BG_LO = "MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.BG_LO"
B_PER_IMAGE, N = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "SOLVER.IMS_PER_BATCH"
LR = "SOLVER.BASE_LR"
OHEM = {NAME: "OHEMROIHeads", BG_LO: 0.0}
N1 = {N: 1, B_PER_IMAGE: 128}
ALL_ROIS = {BG_LO: 0.0, B_PER_IMAGE: 1024}

# The rows of the paper's Table 1: what each has instead of N = 2, B = 128, LR = .001, bg_lo = .1.
TABLE_1 = {
    "_bg_lo_0": {BG_LO: 0.0},
    "_N1": N1,
    "_N1_bg_lo_0": {**N1, BG_LO: 0.0},
    "_B2048": ALL_ROIS,
    "_N1_B2048": {**N1, **ALL_ROIS, B_PER_IMAGE: 2048},
    "_ohem": OHEM,
    "_N1_ohem": {**N1, **OHEM},
}
LR_OF_ALL_ROIS = {"VGG16": 0.003, "VGG_CNN_M_1024": 0.004}
MULTI_SCALE = {
    "INPUT.MIN_SIZE_TRAIN": (480, 576, 688, 864, 900),
    "INPUT.MAX_SIZE_TRAIN": 2000,
}
VOC07 = "PascalVOC-Detection/fast_rcnn_VGG16"


def pairs():
    """
    Two configs, and all that the second has instead of the first.
    """
    for net, learning_rate in LR_OF_ALL_ROIS.items():
        for row, changes in TABLE_1.items():
            changes = {**changes, LR: learning_rate} if "B2048" in row else changes
            base = f"PascalVOC-Detection/fast_rcnn_{net}"
            yield f"{base}.yaml", f"{base}{row}.yaml", changes
    for base in (VOC07, f"{VOC07}_0712", f"{VOC07}_07pp12", "COCO-Detection/fast_rcnn_VGG16"):
        yield f"{base}.yaml", f"{base}_ohem.yaml", OHEM
        yield f"{base}.yaml", f"{base}_multi_scale.yaml", MULTI_SCALE
        yield f"{base}.yaml", f"{base}_multi_scale_ohem.yaml", {**MULTI_SCALE, **OHEM}
    # These have no bg_lo in either.
    for base in ("demo/fast_rcnn_VGG16", "demo/faster_rcnn_R_18"):
        yield f"{base}.yaml", f"{base}_ohem.yaml", {NAME: "OHEMROIHeads"}


PAIRS = list(pairs())


@pytest.mark.parametrize("file", FILES)
def test_loads_and_its_datasets_are_registered(file):
    cfg = load_config(file)
    assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= set(DatasetCatalog.list())
    for key in ("TRAIN", "TEST") if cfg.MODEL.LOAD_PROPOSALS else ():
        files = [f"datasets/proposals/{x}.pkl" for x in cfg.DATASETS[key]]
        # The demo's are beside its images.
        if not file.startswith("demo/"):
            assert list(cfg.DATASETS[f"PROPOSAL_FILES_{key}"]) == files


@pytest.mark.parametrize("base, file, changes", PAIRS)
def test_a_config_has_what_its_row_says_and_nothing_else(base, file, changes):
    before, after = dict(flat(load_config(base))), dict(flat(load_config(file)))
    assert {k: after[k] for k in after if after[k] != before[k]} == changes


def test_every_config_is_compared():
    compared = {x for base, file, _ in PAIRS for x in (base, file)}
    # What is compared in benchmarks/ differs in the options of its recipes, not in configs.
    assert compared == {x for x in TRAINABLE if not x.startswith("benchmarks/")}
    assert {f"_{x.split('VGG16_')[1][:-5]}" for x in compared if x.startswith(f"{VOC07}_")} >= set(
        TABLE_1
    )


@pytest.mark.parametrize("file", TRAINABLE)
def test_the_minibatch_is_that_of_its_row(file):
    cfg = load_config(file)
    if cfg.MODEL.LOAD_PROPOSALS and not file.startswith("demo/"):
        batch = cfg.SOLVER.IMS_PER_BATCH * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        assert batch == (2048 if "B2048" in file else 128)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    # A laboratory's may be detectron2's own.
    baseline = StandardROIHeads if file.startswith("benchmarks/") else HeuristicROIHeads
    assert issubclass(heads, OHEMROIHeads if "ohem" in file else baseline)
    assert issubclass(heads, OHEMROIHeads) == ("ohem" in file)


@pytest.mark.parametrize(
    "file, max_iter, steps",
    [
        ("PascalVOC-Detection/fast_rcnn_VGG16.yaml", 80000, (30000, 60000)),
        ("PascalVOC-Detection/fast_rcnn_VGG16_0712.yaml", 200000, range(40000, 200000, 40000)),
        ("COCO-Detection/fast_rcnn_VGG16.yaml", 240000, (160000,)),
    ],
)
def test_schedule(file, max_iter, steps):
    cfg = load_config(file)
    assert cfg.SOLVER.MAX_ITER == max_iter and cfg.SOLVER.STEPS == tuple(steps)
    assert cfg.SOLVER.GAMMA == 0.1


def test_how_fast_rcnn_is_trained():
    """
    Biases at twice the learning rate and without decay; conv1 and conv2 as they are; no warm-up.
    """
    cfg = load_config(
        "PascalVOC-Detection/fast_rcnn_VGG16.yaml",
        *("MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIMS", [8, 8]),
    )
    model = build_model(cfg)
    names = {p: name for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer)
    trained = set()
    for group in optimizer.param_groups:
        for p in group["params"]:
            trained.add(names[p])
            is_bias = names[p].endswith("bias")
            assert group["lr"] == (0.002 if is_bias else 0.001), names[p]
            assert group["weight_decay"] == (0.0 if is_bias else 0.0005), names[p]
    # torchvision's VGG16 has conv1 and conv2 at 0, 2, 5 and 7.
    frozen = {f"backbone.features.{i}.{x}" for i in (0, 2, 5, 7) for x in ("weight", "bias")}
    assert set(names.values()) - trained == frozen
    assert model.backbone.output_shape()["stage5"].stride == 16
    heads = model.roi_heads
    assert heads.box_pooler.output_size == (7, 7)
    assert type(heads.box_pooler.level_poolers[0]).__name__ == "RoIPool"
    assert heads.box_predictor.smooth_l1_beta == 1.0
    assert heads.box_predictor.bbox_pred.out_features == 80  # a box for each class
    assert model.proposal_generator is None
