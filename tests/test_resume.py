"""
A resumed training is the training: it ends with the same weights, to the bit.
"""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import use_clutter
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.env import seed_all_rng
from tiny_training import run_train_net

from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.data.resumable_loader import ResumableLoader
from ohem_d2.utils import read_metrics
from ohem_d2.utils.seeds import seed_for, seeded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_clutter(str(root), 0, {"train": 7, "test": 2})
    return root


VARIANTS = {
    "alone": ["DATALOADER.NUM_WORKERS", 0],
    "workers": ["DATALOADER.NUM_WORKERS", 2],
    "accumulation": ["DATALOADER.NUM_WORKERS", 0, "SOLVER.ACCUMULATION_PASSES", 2],
    # Random background among which it mines, and foreground.
    "pool": ["MODEL.OHEM.POOL_SIZE", 80, "MODEL.OHEM.FOREGROUND", "sampled"],
    "no seed": ["SEED", -1],
    "random sampling": ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ends_with_the_same_weights(datasets, tmp_path, variant):
    use_clutter(datasets)
    options = ["SEED", 3, "TEST.EVAL_PERIOD", 4, *VARIANTS[variant], "OUTPUT_DIR"]
    run_train_net(options=[*options, tmp_path / "whole"])
    # As if it had been killed in the eighth iteration, in the middle of a line of metrics.json.
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    (killed / "last_checkpoint").write_text("model_0000005.pth")
    for file in killed.glob("model_*.pth"):
        if file.name > "model_0000005.pth":
            file.unlink()
    with open(killed / "metrics.json", "a") as file:
        file.write('{"iteration": 7, "total_l')
    # Another process has other random numbers.
    seed_all_rng(99)
    run_train_net("--resume", options=[*options, killed])

    whole, resumed = (
        torch.load(x / "model_final.pth", weights_only=False) for x in (tmp_path / "whole", killed)
    )
    assert resumed["iteration"] == whole["iteration"] == 11
    for name, weights in whole["model"].items():
        assert torch.equal(resumed["model"][name], weights), name
    # Each iteration has one line, of the same losses.
    losses = [
        {x["iteration"]: x["total_loss"] for x in read_metrics(y) if "total_loss" in x}
        for y in (tmp_path / "whole", killed)
    ]
    assert losses[0].keys() == losses[1].keys()
    lines = [json.loads(x) for x in (killed / "metrics.json").read_text().splitlines()]
    iterations = [x["iteration"] for x in lines]
    assert len(set(iterations)) == len(iterations) and max(iterations) == 12


def make_loader(size=11, batch_size=2, grouping=True, **kwargs):
    random = np.random.default_rng(0)
    records = [
        {"id": i, "width": int(w), "height": int(h)}
        for i, (w, h) in enumerate(random.integers(1, 9, (size, 2)))
    ]

    def sampler(seed):
        random = np.random.default_rng(seed)
        while True:
            yield from random.permutation(size).tolist()

    def augment(record):
        return {**record, "random": [np.random.rand(), torch.rand(1).item()]}

    settings = {"num_workers": 0, "seed": 5, **kwargs}
    return ResumableLoader(records, augment, sampler, batch_size, grouping, **settings)


def take(loader, count):
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_batches_depend_on_their_number_alone(grouping, num_workers):
    whole = take(make_loader(grouping=grouping), 40)
    for start in (0, 1, 7, 23):
        torch.rand(3)
        loader = make_loader(grouping=grouping, num_workers=num_workers)
        loader.start = start
        assert take(loader, 5) == whole[start : start + 5]
    assert all(len(x) == 2 for x in whole)
    if grouping:
        assert all(len({y["width"] > y["height"] for y in x}) == 1 for x in whole)
    # Nearly each image once in each round of the sampler: some wait for another of their shape.
    ids = [y["id"] for x in whole for y in x]
    assert {ids.count(i) for i in range(11)} <= {6, 7, 8}
    # Augmented in another way each time.
    assert len({tuple(y["random"]) for x in whole for y in x}) == len(ids)
    other = make_loader(grouping=grouping, seed=6)
    assert take(other, 5) != whole[:5]


def test_loading_leaves_random_numbers_alone():
    loader = iter(make_loader())
    seed_for(1, 2)
    expected = np.random.rand(), torch.rand(1)
    seed_for(1, 2)
    next(loader)
    assert (np.random.rand(), torch.rand(1)) == expected
    seed_for(1, 3)
    assert np.random.rand() != expected[0]


def test_seeds_nest():
    with seeded(1):
        first = torch.rand(2)
        with seeded(2):
            torch.rand(5)
        second = torch.rand(2)
    with seeded(1):
        assert torch.equal(torch.rand(4), torch.cat([first, second]))


def take_shared(rank, start):
    records = [{"id": i, "width": 2, "height": 1} for i in range(10)]
    sampler = partial(TrainingSampler, len(records))
    loader = ResumableLoader(records, add_random, sampler, 2, True, 0, seed=4)
    loader.start = start
    return take(loader, 5 - start)


def add_random(record):
    return {**record, "random": np.random.rand()}


def test_processes_share_the_images(run_in_two_processes):
    whole = run_in_two_processes(take_shared, 0)
    # Each image once in five batches of two, half of them in each process.
    ids = [[y["id"] for x in whole[rank] for y in x] for rank in range(2)]
    assert sorted(ids[0] + ids[1]) == sorted([*range(10)] * 2)
    assert len({y["random"] for x in (*whole[0], *whole[1]) for y in x}) == 20
    resumed = run_in_two_processes(take_shared, 2)
    assert [resumed[rank] for rank in range(2)] == [whole[rank][2:] for rank in range(2)]
