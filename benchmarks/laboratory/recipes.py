"""
How RoIs are sampled in training: the recipes that the experiments compare.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "BACKGROUND_POOLED",
    "HALF_PRECISION",
    "MAIN",
    "POOLED",
    "RANKINGS",
    "RECIPES",
    "UNCLIPPED",
    "Recipe",
]

Options = Mapping[str, Any]


class Recipe(NamedTuple):
    title: str
    options: Options  # over the laboratory's config
    pool: int = 0  # MODEL.OHEM.POOL_SIZE, as a multiple of the RoIs to train on
    timed_as: str = ""  # a recipe whose step takes as long. Empty: itself


OHEM: Options = {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads", "MODEL.OHEM.FOREGROUND": "mined"}
BACKGROUND: Options = {**OHEM, "MODEL.OHEM.FOREGROUND": "sampled"}

MAIN = {
    "random": Recipe("Random sampling", {}),
    "OHEM": Recipe("OHEM", OHEM),
    "background": Recipe("Background mining among 2 B", BACKGROUND, 2),
}

# At most so many times the RoIs to train on enter the read-only pass.
POOLED = {f"OHEM, pool {n}": Recipe(f"OHEM among {n} B", OHEM, n) for n in (8, 4, 2, 1)}
BACKGROUND_POOLED = {
    "background, all": Recipe("Background mining among all", BACKGROUND),
    **{
        f"background, pool {n}": Recipe(f"Background mining among {n} B", BACKGROUND, n)
        for n in (8, 4)
    },
    "background": MAIN["background"],
}

# As many of an RPN's boxes as detectron2's FPN configs keep, so that more of them are easy.
MANY_PROPOSALS = {
    f"{name}, 1000 proposals": Recipe(
        f"{base.title}, 1,000 proposals",
        {
            **base.options,
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        },
        base.pool,
    )
    for name, base in (
        ("random", MAIN["random"]),
        ("background", BACKGROUND_POOLED["background, all"]),
        ("background, pool 4", BACKGROUND_POOLED["background, pool 4"]),
    )
}

# A quarter of them, with the largest scores: what else leaves out easy RoIs.
FEW_PROPOSALS = {
    "random, 256 proposals": Recipe(
        "Random sampling, 256 proposals", {"MODEL.RPN.POST_NMS_TOPK_TRAIN": 256}
    )
}

HALF_PRECISION = {
    "OHEM, half precision": Recipe(
        "OHEM, read-only pass in half precision", {**OHEM, "MODEL.OHEM.MINING_HALF_PRECISION": True}
    )
}

# Which box loss ranks, beside the one that trains.
RANKINGS = {
    f"OHEM, {name}": Recipe(f"OHEM, ranking by {title}", {**OHEM, **options})
    for name, title, options in (
        ("smooth L1", "smooth L1", {"MODEL.ROI_HEADS.NAME": "SmoothL1RankingROIHeads"}),
        ("GIoU", "GIoU", {"MODEL.ROI_HEADS.NAME": "GIoURankingROIHeads"}),
        ("classification", "classification alone", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.0}),
    )
}

# The laboratories of SETTINGS clip gradients. Without: what else keeps mining from killing a head.
UNCLIPPED = {
    f"{name}, no clipping{change}": Recipe(
        f"{MAIN[name].title}, no clipping{change}",
        {**MAIN[name].options, "SOLVER.CLIP_GRADIENTS.ENABLED": False, **options},
        MAIN[name].pool,
    )
    for name, change, options in (
        ("random", "", {}),
        ("OHEM", "", {}),
        ("background", "", {}),
        ("OHEM", ", no warm-up", {"MODEL.OHEM.WARMUP_ITERS": 0}),
        ("OHEM", ", warm-up of 150", {"MODEL.OHEM.WARMUP_ITERS": 150}),
        ("OHEM", ", growing share", {"MODEL.ROI_HEADS.NAME": "GrowingOHEMROIHeads"}),
    )
}

# The NMS takes no time that counts, the read-only pass does.
WITHOUT_NMS = {
    "OHEM, no NMS": Recipe("OHEM, no NMS", {**OHEM, "MODEL.OHEM.NMS_THRESH": 1.0}, timed_as="OHEM"),
    "OHEM, pool 2, no NMS": Recipe(
        "OHEM among 2 B, no NMS", {**OHEM, "MODEL.OHEM.NMS_THRESH": 1.0}, 2, timed_as="background"
    ),
}

# What random sampling draws from. All RoIs: with as many to train on as the largest image has.
DRAWN_FROM = {
    "bg_lo": Recipe("Random sampling, bg_lo .1", {"MODEL.ROI_HEADS.BG_LO": 0.1}, timed_as="random"),
    "all RoIs": Recipe("All RoIs", {}),
}

RECIPES = {
    **MAIN,
    **WITHOUT_NMS,
    **DRAWN_FROM,
    **POOLED,
    **BACKGROUND_POOLED,
    **MANY_PROPOSALS,
    **FEW_PROPOSALS,
    **HALF_PRECISION,
    **RANKINGS,
    **UNCLIPPED,
}
