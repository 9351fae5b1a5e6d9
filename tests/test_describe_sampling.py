from conftest import heads_config

from ohem_d2.engine import describe_sampling


def describe(**options):
    return describe_sampling(heads_config(**{"MODEL__OHEM__WARMUP_ITERS": 0, **options}))


def test_random_sampling():
    random = {"MODEL__ROI_HEADS__NAME": "HeuristicROIHeads"}
    assert describe(**random) == (
        "HeuristicROIHeads, 16 random RoIs per image, at most 25% foreground."
    )
    assert "foreground, background with an IoU of at least 0.1." in describe(
        **random, MODEL__ROI_HEADS__BG_LO=0.1
    )


def test_mining():
    assert describe() == (
        "OHEMROIHeads (online hard example mining), the 16 RoIs per image with the largest loss "
        "after NMS at 0.7, foreground and background in any ratio."
    )
    assert "NMS at 0.7 per class, at most 25% foreground." in describe(
        MODEL__OHEM__POSITIVE_FRACTION=0.25, MODEL__OHEM__NMS_PER_CLASS=True
    )
    assert "NMS at 0.7, the foreground a random sample of at most 25%." in describe(
        MODEL__OHEM__FOREGROUND="sampled"
    )
    assert "with the largest loss among 64 after NMS" in describe(MODEL__OHEM__POOL_SIZE=64)
    # A tenth of the training, or the learning rate's own warm-up.
    options = {"MODEL__OHEM__WARMUP_ITERS": None, "SOLVER__WARMUP_ITERS": 50}
    assert "any ratio, after 60 iterations of random sampling." in describe(
        **options, SOLVER__MAX_ITER=600
    )
    assert "any ratio, after 50 iterations of random sampling." in describe(
        **options, SOLVER__MAX_ITER=400
    )
    assert "50 iterations of random sampling (mining never starts: SOLVER.MAX_ITER is 40)." in (
        describe(**options, SOLVER__MAX_ITER=40)
    )
