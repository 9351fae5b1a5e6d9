"""
Export to TorchScript, as docs/configs.md describes it.
"""

import pytest
import torch
from conftest import load_config
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from test_readme import snippets
from torch import Tensor

# detectron2 0.5's needs Caffe2, which PyTorch no longer has.
export = pytest.importorskip("detectron2.export", exc_type=ImportError)

FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
}
INPUTS = [{"image": torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 255}]


@pytest.fixture
def models(tmp_path):
    """
    A model with OHEM's heads, and the one that is exported in its place.
    """
    cfg = load_config("demo/faster_rcnn_R_18_ohem.yaml", "MODEL.DEVICE", "cpu")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # random weights detect something
    torch.manual_seed(0)
    mining = build_model(cfg).eval()
    DetectionCheckpointer(mining, str(tmp_path)).save("model_final")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    names = {"cfg": cfg}
    (snippet,) = (x for x in snippets("docs/configs.md") if "DetectionCheckpointer" in x)
    exec(snippet, names)
    return mining, names["model"]


def trace(model):
    def infer(model, inputs):
        return model.inference(inputs, do_postprocess=False)

    adapter = export.TracingAdapter(model, INPUTS, infer)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        return adapter.outputs_schema(traced(*adapter.flattened_inputs))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_scripted_and_traced(models):
    mining, model = models
    (expected,) = mining.inference(INPUTS, do_postprocess=False)
    assert len(expected) > 10
    scripted = export.scripting_with_instances(model, FIELDS)
    (from_script,) = scripted.inference(INPUTS, do_postprocess=False)
    for output in (from_script, *trace(model), *trace(mining)):
        assert torch.equal(output.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(output.scores, expected.scores)
        assert torch.equal(output.pred_classes, expected.pred_classes)
