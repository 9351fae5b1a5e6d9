"""
What the paper reports, as trainings and ways of testing them.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..utils import InputError, did_you_mean

__all__ = ["FIGURE_3", "NETWORKS", "ROWS", "Row", "Training", "choose_rows", "trainings_of"]

# Of `ohem-d2 ablation`.
PLAIN, EVERYTHING = "plain", "multi-scale-voting"
TESTS = {
    PLAIN: "one scale",
    "multi-scale": "multi-scale test",
    "voting": "iterative regression and voting",
    EVERYTHING: "multi-scale test, iterative regression and voting",
}
NETWORKS = ("VGG16", "VGG_CNN_M_1024")
# The name in rows, the end of the config's name, and the title of each recipe.
RECIPES = (("fast_rcnn", "", "Fast R-CNN"), ("ohem", "_ohem", "OHEM"))

# Iterations of a training whose time and memory alone count.
COST_ITERATIONS = 500


class Training(NamedTuple):
    name: str  # of its folder
    config: str  # a name in the model zoo
    options: tuple[str, ...] = ()
    max_iter: int = 0  # 0: the config's


class Row(NamedTuple):
    name: str  # such as "table1/VGG16/ohem"
    title: str
    training: Training
    test: str = PLAIN  # of TESTS


def _training(config: str) -> Training:
    folder, name = config.split("/")
    return Training(f"{folder.split('-')[0]}/{name}", f"{config}.yaml")


def _voc(name: str) -> Training:
    return _training(f"PascalVOC-Detection/fast_rcnn_{name}")


def _voc_2012(name: str) -> Training:
    # Its annotations are not public: detections are written, and no AP.
    return _voc(name)._replace(options=("DATASETS.TEST", "('voc_2012_test',)"))


def _coco(name: str) -> Training:
    return _training(f"COCO-Detection/fast_rcnn_{name}")


def _cost(config: str) -> Training:
    training = _voc(config)
    options = ("SOLVER.ACCUMULATION_PASSES", "2", "DATASETS.TEST", "()")
    return training._replace(
        name=f"cost/{training.name}", options=options, max_iter=COST_ITERATIONS
    )


def _table_1(network: str) -> list[Row]:
    variants = {
        "fast_rcnn": ("", "Fast R-CNN, N = 2, bg_lo = .1"),
        "bg_lo_0": ("_bg_lo_0", "Fast R-CNN, N = 2, bg_lo = 0"),
        "N1": ("_N1", "Fast R-CNN, N = 1, bg_lo = .1"),
        "N1_bg_lo_0": ("_N1_bg_lo_0", "Fast R-CNN, N = 1, bg_lo = 0"),
        "N1_B2048": ("_N1_B2048", "all RoIs, N = 1"),
        "B2048": ("_B2048", "all RoIs, N = 2"),
        "N1_ohem": ("_N1_ohem", "OHEM, N = 1"),
        "ohem": ("_ohem", "OHEM, N = 2"),
    }
    return [
        Row(f"table1/{network}/{name}", f"{title} ({network})", _voc(f"{network}{suffix}"))
        for name, (suffix, title) in variants.items()
    ]


def _bells_and_whistles() -> list[Row]:
    rows = []
    for name, suffix, title in RECIPES:
        rows += [
            Row(f"bells/{name}/{test}", f"{title}, {text}", _voc(f"VGG16{suffix}"), test)
            for test, text in TESTS.items()
        ]
        rows.append(
            _multi_scale(f"bells/{name}", title, _voc(f"VGG16_multi_scale{suffix}"), EVERYTHING)
        )
    return rows


def _multi_scale(group: str, title: str, training: Training, test: str) -> Row:
    # "multi-scale training and test, iterative ..."
    title = f"{title}, multi-scale training and {TESTS[test].removeprefix('multi-scale ')}"
    return Row(f"{group}/multi-scale-trained", title, training, test)


def _main_results(
    group: str, data: str, make: Callable[[str], Training], config: str, test: str = EVERYTHING
) -> list[Row]:
    """
    Args:
        make: makes a training from the name of a config.
        config (str): that of Fast R-CNN.
        test (str): of OHEM that is trained on multiple scales.
    """
    multi_scale = make(f"{config}_multi_scale_ohem")
    return [
        *(Row(f"{group}/{x}", f"{title}, {data}", make(config + end)) for x, end, title in RECIPES),
        _multi_scale(f"{group}/ohem", f"OHEM, {data}", multi_scale, test),
    ]


ROWS = {
    row.name: row
    for row in (
        *_table_1("VGG_CNN_M_1024"),
        *_table_1("VGG16"),
        *(
            Row(
                f"table2/{network}/{name}",
                f"{title} ({network}), its cost",
                _cost(network + suffix),
            )
            for network in NETWORKS
            for name, suffix, title in RECIPES
        ),
        *_bells_and_whistles(),
        *_main_results("voc07", "VOC07", _voc, "VGG16"),
        *_main_results("voc0712", "VOC07+12", _voc, "VGG16_0712"),
        *_main_results("voc07pp12", "VOC07++12", _voc_2012, "VGG16_07pp12"),
        *_main_results("coco", "COCO", _coco, "VGG16", "multi-scale"),
    )
}

# The rows whose checkpoints Figure 3 compares, by title.
FIGURE_3 = {
    "bg_lo = 0": ROWS["table1/VGG16/bg_lo_0"],
    "bg_lo = .1": ROWS["table1/VGG16/fast_rcnn"],
    "B = 2048": ROWS["table1/VGG16/B2048"],
    "OHEM": ROWS["table1/VGG16/ohem"],
}


def trainings_of(rows: Iterable[Row]) -> list[Training]:
    """
    Returns:
        list[Training]: each once, in the order of the rows.
    """
    return list(dict.fromkeys(x.training for x in rows))


def choose_rows(names: Iterable[str]) -> list[Row]:
    """
    Args:
        names: of rows, or what they begin with, such as "table1" or "table1/VGG16". "figure3" are
            those of FIGURE_3. Empty: all rows.

    Returns:
        list[Row]: in the order of ROWS.

    Raises:
        InputError: if there is no such row.
    """
    chosen = set()
    for name in names:
        found = {x.name for x in FIGURE_3.values()} if name == "figure3" else set()
        found |= {x for x in ROWS if x == name or x.startswith(f"{name.rstrip('/')}/")}
        if not found:
            groups = dict.fromkeys(x.split("/")[0] for x in ROWS)
            raise InputError(
                f"There is no row {name}."
                + (did_you_mean(name, list(ROWS)) or f" They begin with {', '.join(groups)}.")
            )
        chosen |= found
    return [row for name, row in ROWS.items() if not chosen or name in chosen]
