import pytest
from conftest import heads_config

from ohem_d2 import use_ohem


@pytest.mark.parametrize(
    "heads, ohem_heads",
    [
        ("StandardROIHeads", "OHEMROIHeads"),
        ("HeuristicROIHeads", "OHEMROIHeads"),
        ("Res5ROIHeads", "OHEMRes5ROIHeads"),
        ("CascadeROIHeads", "OHEMCascadeROIHeads"),
        ("OHEMCascadeROIHeads", "OHEMCascadeROIHeads"),  # mines already
    ],
)
def test_the_heads_that_take_the_place_of_others(heads, ohem_heads):
    cfg = heads_config(MODEL__ROI_HEADS__NAME=heads)
    use_ohem(cfg)
    name = cfg.MODEL.ROI_HEADS.NAME
    assert name == ohem_heads


@pytest.mark.parametrize("architecture", ["RetinaNet", "ProposalNetwork", "SemanticSegmentor"])
def test_models_without_rois(architecture):
    cfg = heads_config(MODEL__META_ARCHITECTURE=architecture)
    with pytest.raises(ValueError, match=f"{architecture} has no RoI heads"):
        use_ohem(cfg)


def test_unknown_heads():
    with pytest.raises(ValueError, match="no OHEM heads for RROIHeads: .*OHEMMixin before it"):
        use_ohem(heads_config(MODEL__ROI_HEADS__NAME="RROIHeads"))
