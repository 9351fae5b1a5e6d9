"""
Values of a config that make no sense, configs that cannot be read, and arguments of commands.
"""

from .fault import (
    BINARY,
    CONFIG,
    VOC,
    WEIGHTS,
    Fault,
    Spoil,
    edit,
    nothing,
    readers_of_weights,
    refused,
    remove,
    replace_by_folder,
    write,
)

__all__ = ["FAULTS"]

# By key: values that cannot be meant.
VALUES: dict[str, list[str]] = {
    "DATALOADER.NUM_WORKERS": ["-1", "many"],
    "DATALOADER.SAMPLER_TRAIN": ["Sampler"],
    "DATASETS.DIFFICULT": ["keep"],
    "DATASETS.TRAIN": ["()", "('voc:voc:al',)", "('coco_2071_train',)", "('voc:none:all',)"],
    "INPUT.FORMAT": ["XYZ", ""],
    "INPUT.MAX_SIZE_TRAIN": ["0"],
    "INPUT.MIN_SIZE_TRAIN": ["()", "(0,)", "(-5,)"],
    "MODEL.BACKBONE.NAME": ["build_backbone_of_mine"],
    "MODEL.DEVICE": ["gpu", "cpu:x"],
    "MODEL.KEYPOINT_ON": ["True"],
    "MODEL.MASK_ON": ["True"],
    "MODEL.META_ARCHITECTURE": ["FasterRCNN"],
    "MODEL.OHEM.BOX_LOSS_WEIGHT": ["-1.0"],
    "MODEL.OHEM.FOREGROUND": ["all"],
    "MODEL.OHEM.MINING_BATCH_SIZE": ["-1"],
    "MODEL.OHEM.NMS_THRESH": ["1.5", "-.1"],
    "MODEL.OHEM.POOL_SIZE": ["-1", "10"],
    "MODEL.OHEM.POSITIVE_FRACTION": ["1.5", "-.1"],
    "MODEL.OHEM.WARMUP_ITERS": ["-1"],
    "MODEL.PIXEL_MEAN": ["[1.0]"],
    "MODEL.PIXEL_STD": ["[0.0, 1.0, 1.0]"],
    "MODEL.PROPOSAL_GENERATOR.NAME": ["RPM"],
    "MODEL.RESNETS.DEPTH": ["51"],
    "MODEL.ROI_BOX_HEAD.FC_DIM": ["0"],
    "MODEL.ROI_BOX_HEAD.NAME": ["BoxHead"],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": ["0"],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ["ROIPooling"],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": ["-1.0"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": ["0", "-8"],
    "MODEL.ROI_HEADS.BG_LO": ["0.1"],
    "MODEL.ROI_HEADS.IGNORE_IOA_THRESH": ["2.0"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["['res9']"],
    "MODEL.ROI_HEADS.IOU_LABELS": ["[1]"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": ["[2.0]", "[]"],
    "MODEL.ROI_HEADS.NAME": ["OHEMHeads", "OHEMROIHead"],
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": ["7.0"],
    "MODEL.ROI_HEADS.NUM_CLASSES": ["0", "1", "80"],
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": ["3.0", "-.5"],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ["2.0"],
    "MODEL.RPN.IN_FEATURES": ["['res9']"],
    "MODEL.RPN.NMS_THRESH": ["-.5"],
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": ["0"],
    "MODEL.WEIGHTS": ["none.pth", "."],
    "OUTPUT_DIR": ["", "config.yaml", "config.yaml/new"],
    "SOLVER.ACCUMULATION_PASSES": ["0", "-1", "9"],
    "SOLVER.AMP.ENABLED": ["True", "yes"],
    "SOLVER.BASE_LR": ["nan", "-1.0", "inf"],
    "SOLVER.CHECKPOINT_PERIOD": ["0"],
    "SOLVER.GAMMA": ["-1.0"],
    "SOLVER.IMS_PER_BATCH": ["0", "-2"],
    "SOLVER.LR_SCHEDULER_NAME": ["Warmup"],
    "SOLVER.MAX_ITER": ["0", "-3", "1.5"],
    "SOLVER.MOMENTUM": ["-1.0"],
    "SOLVER.WARMUP_ITERS": ["-1"],
    "SOLVER.WARMUP_METHOD": ["quadratic"],
    "TEST.DETECTIONS_PER_IMAGE": ["-5"],
    "TEST.EVAL_PERIOD": ["-1"],
}
# Keys of testing, and the switches that turn on what they belong to.
TEST_VALUES: dict[str, tuple[str, list[str]]] = {
    "TEST.AUG.MIN_SIZES": ("TEST.AUG.ENABLED", ["()", "(0,)"]),
    "TEST.AUG.MAX_SIZE": ("TEST.AUG.ENABLED", ["0"]),
    "TEST.BOX_VOTING.IOU_THRESH": ("TEST.BOX_VOTING.ENABLED", ["2.0", "-1.0"]),
    "TEST.BOX_VOTING.NMS_THRESH": ("TEST.BOX_VOTING.ENABLED", ["2.0"]),
    "TEST.BOX_VOTING.SCORING_METHOD": ("TEST.BOX_VOTING.ENABLED", ["MEAN"]),
    "TEST.BOX_VOTING.SCORING_METHOD_BETA": ("TEST.BOX_VOTING.ENABLED", ["0.0"]),
    "TEST.ITERATIVE_BBOX.NUM_ROUNDS": ("TEST.ITERATIVE_BBOX.ENABLED", ["0"]),
    "TEST.ITERATIVE_BBOX.SCORE_THRESH": ("TEST.ITERATIVE_BBOX.ENABLED", ["2.0"]),
}
ACCEPTED_VALUES = {
    "DATALOADER.NUM_WORKERS": "1",
    "INPUT.MIN_SIZE_TEST": "0",
    "MODEL.DEVICE": "cuda",  # falls back to the CPU, where there is no GPU
    "MODEL.OHEM.POOL_SIZE": "80",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "10000",
    "SOLVER.BASE_LR": "0.0",
    "TEST.EVAL_PERIOD": "1",
    "VIS_PERIOD": "1",
}
TRAIN = ["train", *CONFIG]


def _words(key: str, value: str) -> str:
    """
    Returns:
        str: what the message must match: the key, or what it names.
    """
    if key == "MODEL.DEVICE":
        return r"MODEL\.DEVICE"
    if key == "DATASETS.TRAIN" and value != "()":
        return value.strip("(),'").split(":")[1 if value.startswith("('voc") else 0]
    return key.replace(".", r"\.")


def value_faults() -> list[Fault]:
    faults = []
    for key, values in VALUES.items():
        for value in values:
            heads = ["MODEL.ROI_HEADS.NAME", "OHEMROIHeads"]
            options = [] if key in heads else heads
            faults.append(
                Fault(
                    "config values",
                    f"{key} {value or repr('')}",
                    [*TRAIN, *options, key, value],
                    nothing,
                    _words(key, value),
                )
            )
    for key, (switch, values) in TEST_VALUES.items():
        for value in values:
            command = [*TRAIN, "--eval-only", "MODEL.WEIGHTS", WEIGHTS, switch, "True", key, value]
            name = f"{key} {value}"
            faults.append(Fault("config values", name, command, nothing, _words(key, value)))
    for key, value in ACCEPTED_VALUES.items():
        command = [*TRAIN, "MODEL.ROI_HEADS.NAME", "OHEMROIHeads", key, value]
        faults.append(Fault("config values", f"{key} {value}", command, nothing, ""))
    # In the tools that read a model, too.
    for key in ("MODEL.ROI_HEADS.IN_FEATURES", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "INPUT.FORMAT"):
        value = VALUES[key][0]
        for command in readers_of_weights(CONFIG):
            name = f"{key} {value}"
            command = [*command, key, value]
            faults.append(Fault("config values", name, command, nothing, _words(key, value)))
    return faults


FILES: dict[str, tuple[Spoil, str]] = {
    "missing": (remove("config.yaml"), r"config\.yaml"),
    "binary": (write("config.yaml", BINARY), r"config\.yaml"),
    "not YAML": (write("config.yaml", "MODEL: [1"), r"config\.yaml"),
    "a list": (write("config.yaml", "- 1\n"), r"config\.yaml"),
    "a word": (write("config.yaml", "MODEL\n"), r"config\.yaml"),
    "an unknown key": (
        edit("config.yaml", lambda x: x + b"MODE:\n  OHEM: 1\n"),
        r"(?s)config\.yaml.*MODE",
    ),
    "a misspelled key": (
        write("config.yaml", "MODEL:\n  OHEM:\n    NMS_TRESH: .5\n"),
        r"(?s)config\.yaml.*NMS_TRESH",
    ),
    "a value of another type": (
        write("config.yaml", "MODEL:\n  OHEM:\n    NMS_THRESH: high\n"),
        r"(?s)config\.yaml.*NMS_THRESH",
    ),
    "a section as a value": (write("config.yaml", "MODEL: 1\n"), r"config\.yaml"),
    "a missing base": (write("config.yaml", "_BASE_: none.yaml\n"), r"none\.yaml"),
    "its own base": (write("config.yaml", "_BASE_: config.yaml\n"), r"config\.yaml"),
    "a folder": (replace_by_folder("config.yaml"), r"config\.yaml"),
}


def file_faults() -> list[Fault]:
    convert = ["convert-weights", *CONFIG, "classifier.pth", "new.pth"]
    return refused("config files", FILES, [TRAIN, *readers_of_weights(CONFIG), convert])


RAISES = write("broken.py", "raise RuntimeError('not today')\n")
NEEDS = write("broken.py", "import a_module_that_is_missing\n")
NO_PYTHON = write("broken.py", "def\n")
# Commands, and what the message must match.
ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "no command": ([], "usage|required"),
    "an unknown command": (["trian"], "trian"),
    "no config": (["train"], "config"),
    "an option without value": ([*TRAIN, "SEED"], "SEED"),
    "an unknown option": ([*TRAIN, "SEEDS", "1"], "SEEDS"),
    "an unknown flag": ([*TRAIN, "--evalonly"], "evalonly"),
    "no weights to evaluate": ([*TRAIN, "--eval-only"], r"MODEL\.WEIGHTS"),
    "no weights to inspect": (["inspect", *CONFIG], r"MODEL\.WEIGHTS"),
    "inspect: NMS above 1": (
        ["inspect", *CONFIG, "--nms-thresh", "2", "MODEL.WEIGHTS", WEIGHTS],
        "--nms-thresh",
    ),
    "inspect: no examples": (
        ["inspect", *CONFIG, "--max-examples", "0", "MODEL.WEIGHTS", WEIGHTS],
        "--max-examples",
    ),
    "inspect: an unknown dataset": (
        ["inspect", *CONFIG, "--dataset", "none", "MODEL.WEIGHTS", WEIGHTS],
        "none",
    ),
    "compare: one run": (["compare", "a"], "[Oo]ne run"),
    "compare: the same run twice": (["compare", "a", "a"], "same run"),
    "compare: no run": (["compare", "a", "none"], "none"),
    "compare: a file": (["compare", "a", "config.yaml"], r"config\.yaml"),
    "compare: images -1": (["compare", "a", "b", "--images", "-1"], "--images"),
    "compare: a score of 2": (["compare", "a", "b", "--score-thresh", "2"], "--score-thresh"),
    "compare: an output that exists": (["compare", "a", "b", "--output", "voc"], "voc"),
    "evaluate: no detections": (["evaluate", VOC, "none"], "none"),
    "evaluate: an unknown dataset": (["evaluate", "none", "a"], "none"),
    "evaluate: an output that exists": (
        ["evaluate", VOC, "a/inference/voc_voc_all", "--output", "voc"],
        "voc",
    ),
    "proposals: an output that exists": (["proposals", VOC, "proposals.pkl"], r"proposals\.pkl"),
    "proposals: an unknown mode": (["proposals", VOC, "new.pkl", "--mode", "slow"], "slow"),
    "proposals: processes -1": (["proposals", VOC, "new.pkl", "--processes", "-1"], "processes"),
    "convert-proposals: an output that exists": (
        ["convert-proposals", VOC, "boxes.mat", "proposals.pkl"],
        r"proposals\.pkl",
    ),
    "convert-weights: an output that is the input": (
        ["convert-weights", *CONFIG, "classifier.pth", "classifier.pth"],
        r"classifier\.pth",
    ),
    "convert-weights: an output that is no .pth": (
        ["convert-weights", *CONFIG, "classifier.pth", "new.pkl"],
        r"new\.pkl",
    ),
    "convert-weights: an output in no folder": (
        ["convert-weights", *CONFIG, "classifier.pth", "none/new.pth"],
        "none/new.pth",
    ),
    "check: no dataset": (["check"], "DATASET"),
}


def argument_faults() -> list[Fault]:
    faults = [
        Fault("arguments", name, command or ["--no-command"], nothing, message)
        for name, (command, message) in ARGUMENTS.items()
    ]
    for name, spoil, message in (
        ("a module that is missing", nothing, "broken"),
        ("a module that raises", RAISES, "not today"),
        ("a module that needs another", NEEDS, "a_module_that_is_missing"),
        ("a module that is no Python", NO_PYTHON, "broken"),
    ):
        for command, *rest in (
            TRAIN,
            ["check", VOC],
            ["evaluate", VOC, "a/inference/voc_voc_all"],
            ["compare", "a", "b"],
            ["proposals", VOC, "new.pkl"],
        ):
            whole = [command, "--import", "broken", *rest]
            faults.append(Fault("arguments", name, whole, spoil, message))
    return faults


FAULTS = [*value_faults(), *file_faults(), *argument_faults()]
