"""
That the benchmark of training runs, and compares what is comparable: no time is tested.
"""

import json

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage, get_event_storage
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import provenance
from benchmarks.step_time import loss_layer
from benchmarks.step_time import models as step_models
from benchmarks.step_time import parts as step_parts
from benchmarks.step_time import run as benchmark
from benchmarks.step_time.models import (
    BACKGROUND,
    HALF,
    LOSS_LAYER,
    MODELS,
    NUM_OBJECTS,
    OHEM,
    STOCK,
)
from ohem_d2.modeling.roi_heads import ohem
from ohem_d2.utils import InputError

SIZE = (64, 96)
NUM_PROPOSALS = 40
SMALL = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIMS", [16, 16]),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """
    All models, small, on small images.
    """
    for name, model in MODELS.items():
        variants = tuple(
            x._replace(batch_size=x.batch_size // 16, pool_size=x.pool_size // 16)
            for x in model.variants
        )
        model = model._replace(
            image_size=SIZE,
            num_proposals=NUM_PROPOSALS,
            variants=variants,
            options=(*model.options, *SMALL),
        )
        if name == "VGG16":
            # A smaller classifier, and its last stage.
            smaller = ("MODEL.TORCHVISION.NAME", "squeezenet1_1")
            options = (*model.options, *smaller, "MODEL.ROI_HEADS.IN_FEATURES", ["stage4"])
            model = model._replace(options=options)
        monkeypatch.setitem(MODELS, name, model)
    monkeypatch.setattr(benchmark, "SWEEP_ROIS", (30, 60))
    monkeypatch.setattr(benchmark, "SWEEP_BATCH_SIZES", (0, 20))


def build(name):
    inputs = step_models.make_inputs(MODELS[name], 2)
    return inputs, step_models.build_variants(MODELS[name], inputs, "cpu")


def run(monkeypatch, folder, *arguments):
    monkeypatch.setattr(benchmark, "ROOT", folder)
    arguments = ["--trial", "--repeats", 2, "--images", 2, "--precisions", "float32", *arguments]
    benchmark.main([str(x) for x in arguments])
    text = (folder / "output/step_time.jsonl").read_text()
    return [json.loads(x) for x in text.splitlines()]


@pytest.mark.slow
def test_all_models(tmp_path, monkeypatch):
    lines = run(monkeypatch, tmp_path)
    assert all({"commit", "machine", "torch", "detectron2", "date"} <= set(x) for x in lines)
    kinds = {x["kind"]: [y for y in lines if y["kind"] == x["kind"]] for x in lines}

    steps = kinds["step"]
    assert [(x["model"], x["variant"]) for x in steps] == [
        (name, variant.name) for name, model in MODELS.items() for variant in model.variants
    ]
    for x in steps:
        # The RoIs that mining sees are those that are reported.
        assert x["R"] == NUM_PROPOSALS + NUM_OBJECTS
        assert 0 <= x["foreground"] <= x["kept"] <= min(x["B"], x["R"])
        assert x["ratio_low"] <= x["ratio"] <= x["ratio_high"]
        assert tuple(x["parts"]) == step_parts.PARTS
        assert min(x["ms"], x["gflops"], x["peak_mib"]) > 0
        if x["reference"]:
            ratios = ("ratio", "ratio_low", "ratio_high", "memory_ratio", "flops_ratio")
            assert [x[k] for k in ratios] == [1] * 5
        # No pass is missed, and none is measured that is not there.
        mines = x["variant"] not in (STOCK, LOSS_LAYER)
        assert (x["parts"]["read-only pass"] > 0) == mines
        assert (x["parts"]["loss and selection"] > 0) == (x["variant"] != STOCK)
        for part in ("backbone and RPN", "labels", "trained pass", "backward of RoI heads"):
            assert x["parts"][part] > 0

    assert [(x["model"], x["R"], x["mining_batch_size"]) for x in kinds["sweep"]] == [
        (name, r, size) for name in ("R50-FPN", "VGG16") for r in (30, 60) for size in (0, 20)
    ]
    # To measure a model again replaces its lines.
    again = run(monkeypatch, tmp_path, "--models", "Cascade")
    assert {x["model"] for x in again[-7:]} == {"Cascade"} and len(again) == len(lines)
    assert [x for x in again if x["model"] != "Cascade"] == [
        x for x in lines if x["model"] != "Cascade"
    ]


@pytest.mark.parametrize("name", MODELS)
def test_variants_are_the_same_but_for_the_heads(name):
    _, networks = build(name)
    weights = networks[STOCK].state_dict()
    for network in networks.values():
        assert weights.keys() == network.state_dict().keys()
        assert all(x.equal(weights[k]) for k, x in network.state_dict().items())
    # Normalized features: frozen batch norms have the statistics of the inputs.
    norms = [x for x in networks[STOCK].backbone.modules() if isinstance(x, FrozenBatchNorm2d)]
    assert bool(norms) == (name not in ("VGG16", "Laboratory, fast"))
    assert all(x.running_var.ne(1).any() for x in norms)


def test_loss_layer_keeps_the_same_rois(monkeypatch):
    inputs, networks = build("R50-FPN")
    assert isinstance(networks[LOSS_LAYER].roi_heads, loss_layer.LossLayerOHEMROIHeads)
    seen = []
    select = ohem.OHEMMixin.select_hard_rois

    def spy(heads, rois, sampled):
        hard = select(heads, rois, sampled)
        seen.append([x.proposal_boxes.tensor for x in (*rois, *hard)])
        return hard

    monkeypatch.setattr(ohem.OHEMMixin, "select_hard_rois", spy)
    for name in (OHEM, LOSS_LAYER):
        with EventStorage():
            step_parts.train_step(networks[name], inputs, "float32", "cpu")
    read_only, layer = seen
    assert len(read_only) == 4  # all RoIs of two images, and the hard ones
    assert all(x.equal(y) for x, y in zip(read_only, layer, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_variants_mine_what_they_say(name):
    inputs, networks = build(name)
    for variant in MODELS[name].variants[1:]:
        with EventStorage() as storage:
            step_parts.train_step(networks[variant.name], inputs, "float32", "cpu")
            scalars = {k: v for k, (v, _) in storage.latest().items()}
        num_rois = NUM_PROPOSALS + NUM_OBJECTS
        limit = min(variant.pool_size or num_rois, num_rois)
        if BACKGROUND in variant.name:
            assert scalars["ohem/num_rois"] < limit  # without foreground
            assert scalars["ohem/num_rois"] <= scalars["ohem/num_bg_rois"]
        else:
            assert scalars["ohem/num_rois"] == limit
        assert scalars["ohem/num_fg_rois"] + scalars["ohem/num_bg_rois"] == num_rois
        assert (f"pool {16 * variant.pool_size}" in variant.name) == (variant.pool_size > 0)


@pytest.mark.parametrize("variant", [STOCK, OHEM, OHEM + HALF, LOSS_LAYER])
def test_the_step_in_parts_is_the_step(variant):
    inputs, networks = build("R50-FPN")
    network = networks[variant]
    gradients = []
    for step in (step_parts.train_step, step_parts.time_parts):
        torch.manual_seed(0)
        with EventStorage():
            step(network, inputs, "float32", "cpu")
        gradients.append({k: x.grad for k, x in network.named_parameters() if x.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    # Nothing is left of the stopwatch.
    assert "forward" not in vars(network.backbone) and "forward" not in vars(network.roi_heads)


def test_parts_sum_up_to_the_whole(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(step_parts.time, "perf_counter", lambda: next(clock))
    watch = step_parts._Stopwatch()
    watch.start("rest")
    with watch.part("trained pass"):  # from 1 to 3 s
        pass
    parts = watch.stop()
    assert parts["trained pass"] == 2000 and parts["rest"] == 5000
    assert sum(parts.values()) == 7000


class SmallHead(nn.Module):
    """
    A frozen layer and one that is trained, with a model's interface.
    """

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(8, 16).requires_grad_(False)
        self.trained = nn.Linear(16, 4)

    def forward(self, inputs):
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", 3)
        storage.put_scalar("roi_head/num_bg_samples", 7)
        return {"loss": self.trained(self.frozen(inputs)).sum()}


@torch.no_grad()
def test_operations_are_those_that_fvcore_counts():
    """
    Of a forward pass, which is what fvcore counts: a multiplication and an addition as one.
    """
    network = torchvision.models.squeezenet1_0().eval()
    images = torch.randn(2, 3, 64, 96)
    with FlopCounterMode(display=False) as counter:
        network(images)
    fvcore = FlopCountAnalysis(network, images).unsupported_ops_warnings(False)
    by_operator = fvcore.by_operator()
    assert counter.get_total_flops() == 2 * (by_operator["conv"] + by_operator["linear"])


def test_operations_of_a_small_head():
    resources = benchmark.count_resources(SmallHead(), torch.ones(10, 8), "float32", "cpu")
    # Two for each weight and row. Backward: of the frozen layer none, and of the other the gradient
    # of its weights alone, because its inputs need none.
    frozen, trained = 2 * 10 * 8 * 16, 2 * 10 * 16 * 4
    assert resources.gflops * 1e9 == pytest.approx(frozen + 2 * trained)
    assert (resources.num_kept, resources.num_foreground) == (10, 3)
    weights = 4 * (8 * 16 + 16 + 16 * 4 + 4) / 2**20
    gradients = 4 * (16 * 4 + 4) / 2**20
    assert weights + gradients < resources.peak_mib < 0.01


@pytest.mark.parametrize(
    "precision, dtype, tf32",
    [
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ],
)
def test_precisions(precision, dtype, tf32):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [x.allow_tf32 for x in backends]
    inputs, networks = build("R50-FPN")
    seen = []

    def look(_module, _args, output):
        seen.append((output.dtype, [x.allow_tf32 for x in backends]))
        output.register_hook(
            lambda grad: seen.append((grad.dtype, [x.allow_tf32 for x in backends]))
        )

    networks[STOCK].roi_heads.box_predictor.cls_score.register_forward_hook(look)
    with EventStorage():
        step_parts.train_step(networks[STOCK], inputs, precision, "cpu")
        step_parts.time_parts(networks[STOCK], inputs, precision, "cpu")
    assert seen == [(dtype, [tf32] * 2)] * 4  # forward and backward of both
    assert [x.allow_tf32 for x in backends] == before


@pytest.mark.slow
def test_tiny(tmp_path):
    arguments = ["--trial", "--tiny", "--repeats", "1", "--models", "R50-FPN", "Cascade"]
    arguments += ["--precisions", "float32", "TF32", "--output", str(tmp_path / "new")]
    benchmark.main(arguments)
    lines = [json.loads(x) for x in (tmp_path / "new/step_time.jsonl").read_text().splitlines()]
    assert {x["size"] for x in lines if x["kind"] == "step"} == {"64 x 96"}
    page = (tmp_path / "new/step_time.md").read_text()
    rows = [[x.strip() for x in y.split("|")[1:3]] for y in page.splitlines() if "|" in y]
    steps = [[name, x.name] for name in ("R50-FPN", "Cascade") for x in MODELS[name].variants]
    for row in steps:
        assert rows.count(row) >= 4  # in two tables or three, in two precisions
    assert "TF32 |" in page and "MiB, 20 at a time |" in page


def test_bad_input(monkeypatch):
    with pytest.raises(InputError, match="--images and --repeats must be 1 or more"):
        benchmark.main(["--trial", "--repeats", "0"])
    with pytest.raises(InputError, match="--tiny measures nothing to report"):
        benchmark.main(["--tiny"])
    monkeypatch.setattr(provenance, "ROOT", provenance.ROOT.parent.parent.parent)  # no checkout
    with pytest.raises(
        InputError, match="results are recorded from a git checkout, or from a copy"
    ):
        benchmark.main([])
