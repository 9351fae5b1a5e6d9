"""
What trainings cost on this machine: their first steps are measured.
"""

import json
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from ..engine import digest, fall_back_to_cpu
from ..utils import InputError, config_errors, write_json
from .rows import Training
from .settings import Settings

__all__ = ["Cost", "measure_costs"]

STEPS = 4  # of which the first one warms up
ASPECT_RATIO = 4 / 3  # of most photographs of PASCAL VOC and COCO
NUM_OBJECTS, NUM_PROPOSALS = 3, 2000
# A head that begins at random learns nothing from random images: it must not diverge either.
LEARNING_RATE = 1e-6


class Cost(NamedTuple):
    iterations: int
    images: int
    hours: float
    bytes: float  # of its checkpoints


def measure_costs(trainings: Sequence[Training], settings: Settings) -> dict[Training, Cost]:
    """
    Measure a step of each training, on random images and boxes of the usual size. What was measured
    on this machine before is kept in step_times.json.

    Raises:
        InputError: if a step does not fit into the memory of the GPU.
    """
    file = settings.output / "step_times.json"
    known = _read(file)
    costs = {}
    with tqdm(trainings, "Measuring steps", leave=False, disable=None) as bar:
        for training in bar:
            cfg = settings.config(training)
            fall_back_to_cpu(cfg)
            images = cfg.SOLVER.IMS_PER_BATCH
            cfg.SOLVER.IMS_PER_BATCH = max(images // settings.num_gpus, 1)  # of each GPU
            key = _describe(cfg)
            if key not in known:
                try:
                    known[key] = _measure(cfg)
                except torch.cuda.OutOfMemoryError as e:
                    raise InputError(
                        f"A step of {training.name} does not fit into the memory of the GPU: leave "
                        "it out with --rows, or set --opts SOLVER.ACCUMULATION_PASSES 2."
                    ) from e
                torch.cuda.empty_cache()  # for the trainings, in processes of their own
                settings.output.mkdir(parents=True, exist_ok=True)
                write_json(file, known)
            seconds, checkpoint = known[key]
            solver = cfg.SOLVER
            snapshots = -(-solver.MAX_ITER // solver.CHECKPOINT_PERIOD) + 1
            costs[training] = Cost(
                solver.MAX_ITER,
                solver.MAX_ITER * images,
                seconds * solver.MAX_ITER / 3600,
                checkpoint * snapshots,
            )
    return costs


def _read(file: Any) -> dict[str, list[float]]:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise InputError(f"{file} is not json: delete it. ({e})") from e


def _describe(cfg: CfgNode) -> str:
    """
    Returns:
        str: equal for trainings with steps of the same time.
    """
    device = torch.cuda.get_device_name() if cfg.MODEL.DEVICE.startswith("cuda") else "CPU"
    relevant = cfg.clone()
    relevant.MODEL.WEIGHTS = relevant.OUTPUT_DIR = ""
    for key in ("MAX_ITER", "STEPS", "CHECKPOINT_PERIOD"):
        del relevant.SOLVER[key]
    del relevant["DATASETS"], relevant["TEST"]
    return f"{device}, {digest(relevant.dump().encode())}"


def _measure(cfg: CfgNode) -> list[float]:
    """
    Returns:
        list[float]: seconds of a step, and bytes of a checkpoint, with what the optimizer keeps.
    """
    cfg = cfg.clone()
    cfg.SOLVER.BASE_LR = LEARNING_RATE
    with config_errors(cfg):
        model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    generator = torch.Generator().manual_seed(0)
    batch = [_random_image(cfg, generator) for _ in range(cfg.SOLVER.IMS_PER_BATCH)]
    passes = cfg.SOLVER.ACCUMULATION_PASSES
    per_pass = len(batch) // passes
    times = []
    with EventStorage(10**6):  # after any warm-up
        for _ in range(STEPS):
            start = time.perf_counter()
            optimizer.zero_grad()
            for i in range(passes):
                losses = model(batch[i * per_pass : (i + 1) * per_pass])
                sum(losses.values()).backward()
            optimizer.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    values = [x.numel() * x.element_size() for x in model.state_dict().values()]
    momenta = [x.numel() * x.element_size() for x in model.parameters() if x.requires_grad]
    return [median(times[1:]), float(sum(values) + sum(momenta))]


def _random_image(cfg: CfgNode, generator: torch.Generator) -> dict[str, Any]:
    """
    Returns:
        dict: in detectron2's format for a model, of the mean size in training.
    """
    shorter = round(fmean(cfg.INPUT.MIN_SIZE_TRAIN))
    height, width = shorter, min(round(shorter * ASPECT_RATIO), cfg.INPUT.MAX_SIZE_TRAIN)

    def boxes(count: int) -> Boxes:
        corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
        return Boxes((corners * torch.tensor([width - 1, height - 1])).flatten(1) + 0.5)

    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    objects = Instances((height, width), gt_boxes=boxes(NUM_OBJECTS))
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    objects.gt_classes = torch.randint(classes, (NUM_OBJECTS,), generator=generator)
    proposals = Instances((height, width), proposal_boxes=boxes(NUM_PROPOSALS))
    proposals.objectness_logits = torch.zeros(NUM_PROPOSALS)
    return {"image": image, "instances": objects, "proposals": proposals}
