import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, load_config, use_clutter
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image

from ohem_d2.commands import compute_proposals
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.data.proposal_file import check_proposals, read_proposals
from ohem_d2.data.selective_search import selective_search

pytestmark = pytest.mark.slow

NAME = "clutter_coco_train"
COUNT = 20


@pytest.fixture
def root(tmp_path):
    generate_clutter(str(tmp_path), 0, {"train": COUNT, "test": 2})
    use_clutter(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch):
    """
    The tool in this process.
    """

    def run(*arguments):
        argv = ["compute_proposals.py", *map(str, arguments), "--processes", "0"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            compute_proposals.main()

    return run


@pytest.fixture
def quick(monkeypatch):
    """
    Another box for each image, without selective search.
    """

    def quick_selective_search(image, mode):
        return np.float32([[0, 0, image.mean() % 200, image.std() % 160]])

    monkeypatch.setattr(compute_proposals, "selective_search", quick_selective_search)


def run_in_a_process_group(output, count):
    partial = output.with_name(f"{output.name}.partial")

    def search(image, mode):
        if partial.exists() and count_images(partial) >= count:
            time.sleep(60)  # until a signal
        return selective_search(image, mode)

    os.setsid()
    # A shell's background jobs ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    compute_proposals.selective_search = search
    sys.argv = ["compute_proposals.py", NAME, str(output), "--processes", "2"]
    compute_proposals.main()


def start(output, count):
    """
    The tool in another process with two workers. After `count` images, or a few more, it sleeps
    until a signal.
    """
    cv2.setNumThreads(1)  # a fork would wait for OpenCV's threads, which it does not have
    process = multiprocessing.get_context("fork").Process(
        target=run_in_a_process_group, args=(output, count)
    )
    process.start()
    return process


def wait_for_images(partial, count):
    deadline = time.monotonic() + 300
    while not partial.exists() or count_images(partial) < count:
        assert time.monotonic() < deadline, "the tool writes nothing"
        time.sleep(0.01)


def count_images(partial):
    return max(partial.read_bytes().count(b"\n") - 1, 0)


def test_continues_after_a_kill_and_an_interrupt(root, run, capfd):
    undisturbed, output = root / "undisturbed.pkl", root / "output.pkl"
    partial = root / "output.pkl.partial"
    run(NAME, undisturbed)

    process = start(output, 2)
    wait_for_images(partial, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.killpg(process.pid, signal.SIGKILL)  # the workers, which sleep
    assert not output.exists()
    killed_after = count_images(partial)
    assert 2 <= killed_after < COUNT
    # A write that the kill interrupted.
    with open(partial, "ab") as file:
        file.write(b'["9", [160, 208], {"npy": "eJyb7B')

    process = start(output, killed_after + 2)
    wait_for_images(partial, killed_after + 2)
    os.killpg(process.pid, signal.SIGINT)  # to the workers, too, as a terminal does
    process.join()
    assert process.exitcode == 1 and not output.exists()
    stopped_after = count_images(partial)
    assert killed_after + 2 <= stopped_after < COUNT
    printed = capfd.readouterr()
    assert "Stopped. Finished images are in" in printed.err and "Traceback" not in printed.err
    assert f"{killed_after} of {COUNT} images are done" in printed.out

    run(NAME, output)
    assert f"{stopped_after} of {COUNT} images are done" in capfd.readouterr().out
    assert output.read_bytes() == undisturbed.read_bytes()
    assert not partial.exists()


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="workers do not see what is patched"
)
def test_a_killed_worker_is_reported(root, monkeypatch):
    def die(image, mode):
        os.kill(os.getpid(), signal.SIGKILL)

    cv2.setNumThreads(1)
    monkeypatch.setattr(compute_proposals, "selective_search", die)
    monkeypatch.setattr(
        sys, "argv", ["compute_proposals.py", NAME, str(root / "out.pkl"), "--processes", "1"]
    )
    with pytest.raises(
        SystemExit, match=r"(?s)worker .* repeat the command to continue.* Fewer --proc"
    ):
        compute_proposals.main()


def test_command_line(root):
    tool = ROOT / "tools/compute_proposals.py"
    output = root / "new" / "output.pkl"
    subprocess.run(
        [sys.executable, "-W", "ignore", tool, "clutter_voc_test", output, "--mode", "quality"],
        env={
            **os.environ,
            "DETECTRON2_DATASETS": str(root),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=True,
        timeout=120,
    )
    assert list(output.parent.iterdir()) == [output]
    proposals = pickle.loads(output.read_bytes())
    assert proposals["bbox_mode"] == 0 == BoxMode.XYXY_ABS
    assert proposals["image_sizes"].tolist() == [[160, 208]] * 2
    dataset_dicts = DatasetCatalog.get("clutter_voc_test")
    assert proposals["ids"] == [x["image_id"] for x in dataset_dicts]
    for i, record in enumerate(dataset_dicts):
        boxes, logits = proposals["boxes"][i], proposals["objectness_logits"][i]
        expected = selective_search(cv2.imread(record["file_name"]), "quality")
        assert np.array_equal(boxes, expected)
        # Strictly decreasing: an unstable sort keeps the order.
        assert boxes.dtype == logits.dtype == np.float32
        assert (np.diff(logits) < 0).all() and logits.shape == (len(boxes),)


def test_fast_rcnn_trains_on_them(root, run):
    output = root / "output.pkl"
    run(NAME, output)
    cfg = load_config(
        "demo/faster_rcnn_R_18_ohem.yaml",
        *("MODEL.DEVICE", "cpu", "MODEL.LOAD_PROPOSALS", True, "SOLVER.IMS_PER_BATCH", 2),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        *("DATASETS.TRAIN", (NAME,), "DATASETS.PROPOSAL_FILES_TRAIN", (str(output),)),
        *("DATALOADER.NUM_WORKERS", 0),
    )
    batch = next(iter(build_detection_train_loader(cfg)))
    assert all(len(x["proposals"]) > 20 for x in batch)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(batch)
    assert {"loss_cls", "loss_box_reg"} == losses.keys()
    sum(losses.values()).backward()
    gradient = model.roi_heads.box_predictor.cls_score.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_broken_images_are_reported_and_the_rest_is_kept(root, run, quick, capsys):
    output = root / "output.pkl"
    images = root / "clutter" / "JPEGImages"
    content = {}
    for i in (1, 4, 6):
        file = images / f"train_{i:06d}.jpg"
        content[file] = file.read_bytes()
    empty, truncated, smaller = content
    empty.unlink()
    with pytest.raises(SystemExit, match="train_000001.jpg, an image of .*, does not exist"):
        run(NAME, output)  # before it takes time
    empty.write_bytes(b"")
    truncated.write_bytes(content[truncated][:2000])
    with Image.open(smaller) as image:
        image.resize((104, 80)).save(smaller)
    with pytest.raises(SystemExit) as error:
        run(NAME, output)
    message = error.value.code
    assert f"3 of {COUNT} images failed" in message and "repeat the command to continue" in message
    assert f"image 2: The image {empty} cannot be used: it is not an image" in message
    assert (
        f"image 5: The image {truncated} cannot be used: OSError: image file is truncated"
        in message
    )
    assert "image 7: " in message and "got (104, 80), expect (208, 160)" in message
    assert not output.exists()

    for file, data in content.items():
        file.write_bytes(data)
    capsys.readouterr()
    run(NAME, output)
    assert f"{COUNT - 3} of {COUNT} images are done" in capsys.readouterr().out
    check_proposals(read_proposals(str(output)), DatasetCatalog.get(NAME))
    # In the dataset's order, although the repaired images came last.
    assert read_proposals(str(output))["ids"] == [str(i + 1) for i in range(COUNT)]
    run(NAME, root / "undisturbed.pkl")
    assert output.read_bytes() == (root / "undisturbed.pkl").read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["clutter_coco_trian", "new.pkl"], "clutter_coco_trian, .* Did you mean clutter_coco_tr"),
        ([NAME, "mine.pkl"], "mine.pkl already exists. Move it away"),
        (["voc_2007_train", "new.pkl"], "voc_2007_train .*needs .*, which does not exist.*DETECTR"),
    ],
)
def test_invalid_arguments(root, run, monkeypatch, arguments, message):
    monkeypatch.chdir(root)
    (root / "mine.pkl").write_text("mine")
    with pytest.raises(SystemExit, match=message):
        run(*arguments)
    assert (root / "mine.pkl").read_text() == "mine"
    assert not list(root.glob("*.partial"))


def test_without_opencvs_contributed_modules(root, run, monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(SystemExit, match=r'pip install "opencv-contrib-python<5"'):
        run(NAME, root / "output.pkl")


def test_a_partial_file_of_another_run_is_left_alone(root, run, quick):
    output, partial = root / "output.pkl", root / "output.pkl.partial"
    about = json.loads(compute_proposals.describe_run(NAME, DatasetCatalog.get(NAME), "fast"))
    others = [{**about, key: "other"} for key in ("dataset", "images", "mode", "opencv")]
    for other in map(json.dumps, others):
        partial.write_text(other + "\n...")
        with pytest.raises(SystemExit, match=r"partial is from another command"):
            run(NAME, output)
        assert partial.read_text() == other + "\n..."
    partial.unlink()
    (root / "clutter" / "JPEGImages" / "train_000000.jpg").write_bytes(b"")
    with pytest.raises(SystemExit, match=f"1 of {COUNT} images failed"):
        run(NAME, output)
    with pytest.raises(SystemExit, match='it has .*"mode": "fast"'):
        run(NAME, output, "--mode", "quality")


def test_a_run_killed_at_its_very_end(root, run, quick):
    # The proposals are written, but the partial file is still there.
    output, partial = root / "output.pkl", root / "output.pkl.partial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(NAME, output)
    before = output.read_bytes()
    with pytest.raises(SystemExit, match="output.pkl already exists"):
        run(NAME, output)
    output.unlink()
    run(NAME, output)
    assert output.read_bytes() == before and not partial.exists()
