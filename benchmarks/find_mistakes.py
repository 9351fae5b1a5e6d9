"""
Does the list of hard examples find mistakes in annotations? In the annotations of the demo's
dataset, 5 % of the boxes are deleted, 5 % get another class, and 5 % are shifted. A detector is
trained on them, and its hard examples on the same images are compared with the known mistakes.

    python -m benchmarks.find_mistakes            # about 5 minutes per seed on two cores
    python -m benchmarks.find_mistakes --table    # the table of the recorded results

Results are recorded in benchmarks/results/find_mistakes.jsonl, a line per seed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.structures import Boxes, pairwise_iou

from benchmarks.corrupted_clutter import (
    ANNOTATIONS,
    OUTPUT,
    Mistake,
    corrupt_annotations,
    register,
)
from benchmarks.measure import make_table
from benchmarks.provenance import RESULTS, ROOT, provenance, read_results, require_clean_commit
from ohem_d2.checkpoint import load_model
from ohem_d2.commands import train as train_net
from ohem_d2.data import build_annotated_loader, get_annotated_dicts
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.evaluation import HardExample, find_hard_examples
from ohem_d2.utils import InputError, atomic_file, write_json

CONFIG = ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml"
FILE = "find_mistakes.jsonl"
SHARE = 0.05
ITERATIONS = 1500
LENGTHS = (10, 20, 40, 80)
NUM_SHUFFLES = 200

# Which kind of example should find which mistakes.
KIND_OF = {
    "deleted": "nothing annotated",
    "swapped": "wrong class",
    "shifted": "poor localization",
}
ORDERS: dict[str, Callable[[HardExample], float]] = {
    "loss": lambda x: -x.loss,
    "score alone": lambda x: -x.score,
}
RANDOM = "random"


def points_to(example: HardExample, mistake: Mistake) -> bool:
    """
    Whether the example shows the mistake: the wrong annotation, or a box that has an IoU of at
    least .5 with the object whose annotation was deleted.
    """
    if os.path.basename(example.file_name) != mistake.file_name:
        return False
    if mistake.annotated_box is not None:
        # Scaled to the size of testing and back.
        return example.gt_box is not None and np.allclose(
            example.gt_box, mistake.annotated_box, atol=0.1
        )
    iou = pairwise_iou(Boxes([example.pred_box]), Boxes([mistake.true_box]))
    return example.gt_box is None and iou.item() >= 0.5


def count_found(
    examples: Sequence[HardExample], mistakes: Sequence[Mistake], seed: int
) -> dict[str, list[float]]:
    """
    Args:
        examples: a list, in any order.
        mistakes: those that it should find.
        seed (int): of the random order.

    Returns:
        dict[str, list[float]]: for each order, how many different mistakes the first examples point
        to, for each of LENGTHS; the mean of many shuffles for the random order.
    """
    found = [{i for i, x in enumerate(mistakes) if points_to(y, x)} for y in examples]

    def count(order: Sequence[int]) -> list[int]:
        return [len(set().union(*(found[i] for i in order[:n]))) for n in LENGTHS]

    counts: dict[str, list[float]] = {
        name: list(count(sorted(range(len(examples)), key=lambda i: key(examples[i]))))
        for name, key in ORDERS.items()
    }
    rng = np.random.default_rng(seed)
    shuffled = [count(rng.permutation(len(examples)).tolist()) for _ in range(NUM_SHUFFLES)]
    counts[RANDOM] = np.mean(shuffled, axis=0).tolist()
    return counts


def evaluate(
    examples: Sequence[HardExample], mistakes: Sequence[Mistake], seed: int
) -> dict[str, dict[str, Any]]:
    """
    Returns:
        dict: for each kind of mistake, and for "any": the number of mistakes, the length of the
        list of examples, and the counts of :func:`count_found`.
    """
    lists = {
        name: ([x for x in examples if x.kind == kind], [x for x in mistakes if x.kind == name])
        for name, kind in KIND_OF.items()
    }
    lists["any"] = (list(examples), list(mistakes))
    return {
        name: {
            "mistakes": len(of_list),
            "examples": len(in_list),
            "found": count_found(in_list, of_list, seed),
        }
        for name, (in_list, of_list) in lists.items()
    }


def precision_and_recall(lists: Sequence[Mapping[str, Any]]) -> str:
    """
    Args:
        lists: what :func:`evaluate` returns for each seed.

    Returns:
        str: a table of "precision / recall" in percent, the mean over the seeds.
    """
    rows = pd.DataFrame(
        {
            "boxes": name,
            "order": order,
            "length": f"first {length}",
            "precision": found / min(length, x["examples"]),
            "recall": found / x["mistakes"],
        }
        for of_seed in lists
        for name, x in of_seed.items()
        for order, counts in x["found"].items()
        for length, found in zip(LENGTHS, counts, strict=True)
    )
    means = rows.groupby(["boxes", "order", "length"], sort=False).mean() * 100
    cells = (
        means["precision"].map("{:.0f} / ".format) + means["recall"].map("{:.0f}".format)
    ).unstack()
    return make_table(
        [
            {
                "boxes": name,
                "list": KIND_OF.get(name, "all"),
                "order": order,
                **{f"first {x}": row[f"first {x}"] for x in LENGTHS},
            }
            for (name, order), row in cells.iterrows()
        ],
        num_left=3,
    )


def make_dataset(folder: Path, seed: int) -> tuple[str, list[Mistake]]:
    """
    Corrupt the annotations of the demo's training images, and register the result.
    """
    clutter = generate_clutter(os.getenv("DETECTRON2_DATASETS", "datasets"))
    coco = json.loads((clutter / "coco/instances_train.json").read_text())
    corrupted, mistakes = corrupt_annotations(coco, SHARE, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ANNOTATIONS, corrupted)
    write_json(folder / "mistakes.json", [x._asdict() for x in mistakes])
    return register(folder), mistakes


def train(dataset: str, folder: Path, iterations: int) -> CfgNode:
    """
    Train the demo's detector on a dataset, unless it is trained already.

    Returns:
        CfgNode: the config of the trained model.
    """
    weights = folder / "model_final.pth"
    options: list[Any] = ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", ("clutter_coco_test",)]
    options += ["SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", str(folder)]
    options += ["SOLVER.STEPS", (iterations * 3 // 4, iterations * 9 // 10)]
    # Explicit, so that results stay comparable when a default changes.
    options += ["MODEL.OHEM.FOREGROUND", "sampled", "MODEL.OHEM.WARMUP_ITERS", 0]
    if not weights.exists():
        args = train_net.argument_parser().parse_args(["--config-file", str(CONFIG)])
        args.opts = options
        train_net.train(args)
    cfg = load_config(str(CONFIG), [*options, "MODEL.WEIGHTS", str(weights)])
    fall_back_to_cpu(cfg)
    return cfg


def find(cfg: CfgNode) -> list[HardExample]:
    """
    Returns:
        list[HardExample]: those of the images that the model was trained on.
    """
    model = load_model(cfg)
    loader = build_annotated_loader(
        cfg, get_annotated_dicts(cfg, cfg.DATASETS.TRAIN, is_train=False)
    )
    with inference_context(model):
        return [x for inputs in loader for y in inputs for x in find_hard_examples(model, y)]


def run(seed: int, output: Path, iterations: int) -> dict[str, Any]:
    """
    Returns:
        dict[str, Any]: the result of one seed.
    """
    origin = provenance()  # before files are edited while it runs
    folder = output / str(seed)
    dataset, mistakes = make_dataset(folder, seed)
    cfg = train(dataset, folder, iterations)
    results = json.loads((folder / "results.json").read_text())
    return {
        "seed": seed,
        "iterations": iterations,
        "AP": results[0]["results"]["bbox"]["AP"],
        "AP50": results[0]["results"]["bbox"]["AP50"],
        "lists": evaluate(find(cfg), mistakes, seed),
        **origin,
    }


def read_lists(folder: Path) -> list[dict[str, Any]]:
    """
    Returns:
        list[dict]: what :func:`evaluate` returned for each recorded seed.
    """
    results = read_results(folder, FILE, ["seed"])
    if results.empty:
        raise InputError(f"Nothing is recorded in {folder / FILE}: run without --table.")
    return results["lists"].to_list()


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the mistakes (default: 0 1 2)"
    )
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the folders of the seeds")
    parser.add_argument("--table", action="store_true", help="print the recorded results only")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="accept a changed work tree, and write the results to --output",
    )
    args = parser.parse_args(arguments)
    if args.table:
        print(precision_and_recall(read_lists(RESULTS)))
        return
    if not args.trial:
        require_clean_commit()
    results = [run(seed, args.output, args.iterations) for seed in args.seeds]
    with atomic_file((args.output if args.trial else RESULTS) / FILE) as file:
        file.write_text("".join(json.dumps(x) + "\n" for x in results))
    print(precision_and_recall([x["lists"] for x in results]))


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"find_mistakes: {e}")
