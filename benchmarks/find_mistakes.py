#!/usr/bin/env python3
"""
Does the list of hard examples find mistakes in annotations? The annotations of the demo's dataset
are corrupted: of the boxes 5 % are deleted, 5 % get another class, and 5 % are shifted. A detector
is trained on that, and its hard examples on the same images are compared with what was done.

    python benchmarks/find_mistakes.py            # some 5 minutes on two cores for each seed
    python benchmarks/find_mistakes.py --table    # of the results that are there

What comes out is written to benchmarks/results/find_mistakes.jsonl, a line for each seed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Optional

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model
from detectron2.structures import Boxes, pairwise_iou
from tabulate import tabulate

from benchmarks.corrupt_annotations import Mistake, corrupt_annotations
from benchmarks.corrupted_clutter import ANNOTATIONS, OUTPUT, register
from benchmarks.provenance import provenance
from ohem_d2.data import build_annotated_loader, get_annotated_dicts
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.evaluation import HardExample, find_hard_examples
from ohem_d2.utils import atomic_file, write_json

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml"
RESULTS = ROOT / "benchmarks/results/find_mistakes.jsonl"
SHARE = 0.05
ITERATIONS = 1500
LENGTHS = (10, 20, 40, 80)
NUM_SHUFFLES = 200

# Which kind of example is to find which mistakes.
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
    Whether a person who is shown the example looks at the mistake: at the annotation that is wrong,
    or at a box that has an IoU of at least .5 with the object whose annotation is gone.
    """
    if os.path.basename(example.file_name) != mistake.file_name:
        return False
    if mistake.annotated_box is not None:
        # It has been scaled to the size of testing and back.
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
        mistakes: that it is to find.
        seed (int): of the random order.

    Returns:
        dict[str, list[float]]: for each order, how many different mistakes the first of the list
        point to, for each of LENGTHS; of the random order the mean of many.
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
    counts[RANDOM] = [fmean(x) for x in zip(*shuffled, strict=True)]
    return counts


def evaluate(
    examples: Sequence[HardExample], mistakes: Sequence[Mistake], seed: int
) -> dict[str, dict[str, Any]]:
    """
    Returns:
        dict: for each kind of mistake, and "any" for all with all examples: how many there are, the
        length of the list, and what :func:`count_found` counts.
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


def make_table(results: Sequence[Mapping[str, Any]]) -> str:
    """
    Args:
        results: of the seeds.

    Returns:
        str: in Markdown, "precision / recall" in percent, the mean over the seeds.
    """
    rows = []
    for name in (*KIND_OF, "any"):
        for order in (*ORDERS, RANDOM):
            row = [name, KIND_OF.get(name, "all"), order]
            for i, length in enumerate(LENGTHS):
                lists = [x["lists"][name] for x in results]
                counts = [x["found"][order][i] for x in lists]
                precision = fmean(
                    n / min(length, x["examples"]) for n, x in zip(counts, lists, strict=True)
                )
                recall = fmean(n / x["mistakes"] for n, x in zip(counts, lists, strict=True))
                row.append(f"{100 * precision:.0f} / {100 * recall:.0f}")
            rows.append(row)
    headers = ["boxes", "list", "order", *(f"first {n}" for n in LENGTHS)]
    return tabulate(rows, headers, tablefmt="github", colalign=["left"] * 3 + ["right"] * 4)


def make_dataset(folder: Path, seed: int) -> tuple[str, list[Mistake]]:
    """
    Corrupt the demo's training images, and register that.
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
    Train the demo's detector on a dataset, unless that is done.

    Returns:
        CfgNode: of the trained model.
    """
    weights = folder / "model_final.pth"
    options: list[Any] = ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", ("clutter_coco_test",)]
    options += ["SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", str(folder)]
    options += ["SOLVER.STEPS", (iterations * 3 // 4, iterations * 9 // 10)]
    if not weights.exists():
        sys.path.append(str(ROOT))
        import train_net

        args = default_argument_parser().parse_args(["--config-file", str(CONFIG)])
        args.opts = options
        train_net.main(args)
    cfg = load_config(str(CONFIG), [*options, "MODEL.WEIGHTS", str(weights)])
    fall_back_to_cpu(cfg)
    return cfg


def find(cfg: CfgNode) -> list[HardExample]:
    """
    Returns:
        list[HardExample]: of the images that the model was trained on.
    """
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    loader = build_annotated_loader(
        cfg, get_annotated_dicts(cfg, cfg.DATASETS.TRAIN, is_train=False)
    )
    with inference_context(model):
        return [x for inputs in loader for y in inputs for x in find_hard_examples(model, y)]


def run(seed: int, output: Path, iterations: int) -> dict[str, Any]:
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
        **provenance(),
    }


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the mistakes")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args(arguments)
    if not args.table:
        results = {x["seed"]: x for x in read(args.results)}
        for seed in args.seeds:
            results[seed] = run(seed, args.output, args.iterations)
            args.results.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(args.results) as file:
                lines = (json.dumps(results[x]) + "\n" for x in sorted(results))
                file.write_text("".join(lines))
    results_of_all = read(args.results)
    if not results_of_all:
        sys.exit(f"find_mistakes.py: there is nothing in {args.results}: run it without --table.")
    print(make_table(results_of_all))


if __name__ == "__main__":
    main()
