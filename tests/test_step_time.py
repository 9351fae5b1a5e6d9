"""
That the benchmark of training runs, and compares what is comparable: no time is tested.
"""

import json
import sys

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage, get_event_storage
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_time import loss_layer
from benchmarks.step_time import models as step_models
from benchmarks.step_time import parts as step_parts
from benchmarks.step_time import run as benchmark
from benchmarks.step_time.models import HALF, LOSS_LAYER, MODELS, NUM_OBJECTS, OHEM, STOCK
from ohem_d2.modeling.roi_heads import ohem

SIZE = (64, 96)
NUM_PROPOSALS = 40
SMALL = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.TORCHVISION.NAME", "squeezenet1_1"),
    *("MODEL.ROI_BOX_HEAD.FC_DIMS", [16, 16]),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """
    All models, small, on small images.
    """
    for name, model in MODELS.items():
        variants = tuple(x._replace(batch_size=x.batch_size // 16) for x in model.variants)
        model = model._replace(
            image_size=SIZE,
            num_proposals=NUM_PROPOSALS,
            variants=variants,
            options=(*model.options, *SMALL),
        )
        if name == "VGG16":
            # The last of SqueezeNet's.
            options = (*model.options, "MODEL.ROI_HEADS.IN_FEATURES", ["stage4"])
            model = model._replace(options=options)
        monkeypatch.setitem(MODELS, name, model)
    monkeypatch.setattr(benchmark, "SWEEP_ROIS", (30, 60))
    monkeypatch.setattr(benchmark, "SWEEP_BATCH_SIZES", (0, 20))


def build(name):
    inputs = step_models.make_inputs(MODELS[name], 2)
    return inputs, step_models.build_variants(MODELS[name], inputs, "cpu")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["step_time.py", *map(str, arguments)])
    benchmark.main()


def test_all_models(tmp_path, monkeypatch, capsys):
    output = tmp_path / "new/step_time.jsonl"
    run(monkeypatch, "--repeats", 2, "--images", 2, "--precisions", "float32", "--output", output)
    lines = [json.loads(x) for x in output.read_text().splitlines()]
    assert all({"commit", "machine", "torch", "detectron2", "date"} <= set(x) for x in lines)
    kinds = {x["kind"]: [y for y in lines if y["kind"] == x["kind"]] for x in lines}

    steps = kinds["step"]
    assert [(x["model"], x["variant"]) for x in steps] == [
        (name, variant.name) for name, model in MODELS.items() for variant in model.variants
    ]
    for x in steps:
        # The RoIs that mining sees are those that are reported.
        assert x["R"] == NUM_PROPOSALS + NUM_OBJECTS
        assert 0 < x["foreground"] <= x["kept"] <= min(x["B"], x["R"])
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
    assert [x["model"] for x in kinds["overlap"]] == ["R50-FPN", "VGG16"]
    assert all(0 < x["shared"] <= x["kept"] for x in kinds["overlap"])
    assert [x["model"] for x in kinds["monitor"]] == ["R50-FPN", "VGG16"]
    assert all(x["ms"] > 0 and x["step_ms"] > 0 for x in kinds["monitor"])

    text = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert [x for x in rows if x.startswith(("R50", "VGG", "Cas", "Mas")) and ":" in x] == [
        x["name"] for x in kinds["target"]
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
    assert bool(norms) == (name != "VGG16")
    assert all(x.running_var.ne(1).any() for x in norms)


def seen_rois(monkeypatch, owner, name, network, inputs):
    """
    The boxes of the RoIs that a function of a module or class is called with in a step.
    """
    seen = []
    function = getattr(owner, name)

    def spy(*args, **kwargs):
        proposals = next(x for x in args if isinstance(x, list))
        seen.append([x.proposal_boxes.tensor for x in proposals])
        return function(*args, **kwargs)

    torch.manual_seed(0)  # the foreground is a random sample
    with monkeypatch.context() as patch, EventStorage():
        patch.setattr(owner, name, spy)
        step_parts.train_step(network, inputs, "float32", "cpu")
    return seen[0]


def test_loss_layer_keeps_the_same_rois(monkeypatch):
    inputs, networks = build("R50-FPN")
    read_only, layer = networks[OHEM], networks[LOSS_LAYER]
    assert isinstance(layer.roi_heads, loss_layer.LossLayerOHEMROIHeads)
    # All RoIs, and those that are mined.
    for owner, name in ((ohem, "label_rois"), (ohem.OHEMMixin, "label_and_sample_proposals")):
        ours, theirs = (seen_rois(monkeypatch, owner, name, x, inputs) for x in (read_only, layer))
        assert len(ours) == 2
        assert all(x.equal(y) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("variant", [STOCK, OHEM, HALF, LOSS_LAYER])
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


def make_line(variant, **values):
    parts = dict.fromkeys(step_parts.PARTS, 0.0)
    parts.update(values.pop("parts", {}))
    line = {"model": "R50-FPN", "precision": "float32", "variant": variant, "parts": parts}
    return {**line, "reference": variant == STOCK, **values}


def test_targets():
    stock = make_line(STOCK, parts={"trained pass": 90.0})
    parts = {"read-only pass": 10.0, "backbone and RPN": 69.0, "trained pass": 20.0}
    mined = make_line(
        OHEM, ratio=1.06, memory_ratio=1.05, parts={**parts, "loss and selection": 1.0}
    )
    # 62 / 31, whatever the backbone takes.
    layer = make_line(LOSS_LAYER, parts={"backbone and RPN": 500.0, "backward of RoI heads": 62.0})
    targets = benchmark.check_targets([stock, mined, layer])
    name = "R50-FPN, {}, float32: {}"
    assert [(x["name"], x["measured"], x["limit"], x["met"]) for x in targets] == [
        (name.format(OHEM, "time / reference"), 1.06, 1.05, False),
        (name.format(OHEM, "peak memory / reference"), 1.05, 1.05, True),
        (name.format(OHEM, "share of loss and selection"), 0.01, 0.02, True),
        (
            name.format(LOSS_LAYER, "time of the RoI heads / with the read-only pass"),
            2.0,
            2.0,
            True,
        ),
    ]
    layer["parts"]["backward of RoI heads"] = 61.0
    assert not benchmark.check_targets([stock, mined, layer])[-1]["met"]


def test_tf32_is_set_and_set_back():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    for enabled in (True, False):
        with benchmark.use_tf32(enabled):
            assert matmul.allow_tf32 == cudnn.allow_tf32 == enabled
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before


@pytest.mark.parametrize(
    "precision, dtype", [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_mixed_precision(precision, dtype):
    inputs, networks = build("R50-FPN")
    dtypes = []
    networks[STOCK].roi_heads.box_predictor.cls_score.register_forward_hook(
        lambda module, args, output: dtypes.append(output.dtype)
    )
    with EventStorage():
        step_parts.train_step(networks[STOCK], inputs, precision, "cpu")
        step_parts.time_parts(networks[STOCK], inputs, precision, "cpu")
    assert dtypes == [dtype] * 2


def test_bad_input(monkeypatch):
    with pytest.raises(SystemExit, match="step_time.py: --images and --repeats must be 1 or more"):
        run(monkeypatch, "--repeats", 0)
