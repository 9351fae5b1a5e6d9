"""
The page that compares two runs, of made runs and images.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pages import fits_its_window
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from ohem_d2.evaluation.compared_dataset import ComparedDataset, ComparedImage
from ohem_d2.evaluation.error_breakdown import ErrorCounts
from ohem_d2.visualization.comparison import (
    Row,
    TrainedRun,
    choose_images,
    compare_configs,
    compare_results,
    write_comparison,
)
from ohem_d2.visualization.judged_image import describe, outline, points

pytest_plugins = ["pages"]

ODD = ["<img src=x onerror=alert(1)>", "\"&amp;'", "卷心菜" + "_long" * 15]
PHONE = {"width": 390, "height": 844}
OBJECT, FAR = [10, 10, 60, 50], [120, 60, 180, 110]
SIZE = (120, 200)


def make_boxes(boxes):
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def make_image(file_name, of_a, of_b, ignored=()):
    """
    An image with an object of class 0, and detections: box, score and class.
    """

    def detections(found):
        return Instances(
            SIZE,
            pred_boxes=make_boxes([x[0] for x in found]),
            scores=torch.tensor([x[1] for x in found]),
            pred_classes=torch.tensor([x[2] for x in found], dtype=torch.int64),
        )

    objects = Instances(SIZE, gt_boxes=make_boxes([OBJECT]), gt_classes=torch.tensor([0]))
    found = detections(of_a), detections(of_b)
    return ComparedImage(str(file_name), *SIZE, objects, make_boxes(ignored), found)


def make_run(name, heads, aps):
    metrics = dict(zip(["AP", "AP50", *[f"AP50-{x}" for x in ODD]], aps, strict=True))
    result = {"test": "plain", "dataset": ODD[0], "results": {"bbox": metrics}}
    config = {"MODEL": {"NAME": heads}, "OUTPUT_DIR": name}
    lines = [{"iteration": i, "total_loss": 1.0} for i in (19, 39)]
    return TrainedRun(name, Path(name), config, lines, [result])


RUNS = (
    make_run(ODD[0], ODD[1], [30.0, 50.0, 60.0, 40.0, None]),
    make_run(ODD[2], "Heads", [31.0, 49.96, 61.0, 45.0, None]),
)


@pytest.fixture
def dataset(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    files = [tmp_path / f"{x}.png" for x in ODD]
    for file in files:
        file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return ComparedDataset(
        ODD[0],
        ODD,
        [
            # A has two errors more than B, which has none.
            make_image(files[0], [(OBJECT, 0.9, 1), (FAR, 0.8, 2)], [(OBJECT, 0.7, 0)], [FAR]),
            # Both are right.
            make_image(files[1], [(OBJECT, 0.9, 0)], [(OBJECT, 0.7, 0)]),
            # B is wrong about the place, so an object is missed as well.
            make_image(files[2], [(OBJECT, 0.9, 0)], [([10, 10, 60, 25], 0.7, 0)]),
        ],
    )


@pytest.fixture
def write(tmp_path, dataset):
    def write(runs=RUNS, dataset=dataset, num_images=24, **kwargs):
        folder = tmp_path / "page"
        folder.mkdir()
        write_comparison(folder, tuple([x] for x in runs), [dataset], num_images, **kwargs)
        return folder / "index.html"

    return write


@pytest.mark.parametrize("scheme, viewport", [("light", None), ("dark", PHONE)])
def test_page(write, open_page, scheme, viewport):
    page = open_page(write(), color_scheme=scheme, viewport=viewport)
    assert page.title() == f"{ODD[0]} and {ODD[2]}"
    assert fits_its_window(page)
    assert page.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    assert page.locator("dd b").all_text_contents() == [ODD[0], ODD[2]]
    assert page.locator("h2").all_text_contents()[2:] == [ODD[0]]
    assert page.locator("h4").all_text_contents() == [f"{ODD[0]}.png", f"{ODD[2]}.png"]

    def rows(table):
        cells = table.locator("tbody tr").all()
        return [[y.strip() for y in x.locator("td, th").all_text_contents()] for x in cells]

    config, of_all, of_a_class, errors = map(rows, page.locator("table").all())
    assert config == [["MODEL.NAME", ODD[1], "Heads"]]
    assert of_all == [["AP", "30.0", "31.0", "+1.0"], ["AP50", "50.0", "50.0", "0.0"]]
    assert of_a_class == [
        [ODD[1], "40.0", "45.0", "+5.0"],
        [ODD[0], "60.0", "61.0", "+1.0"],
        [ODD[2], "-", "-", "-"],
    ]
    # Right, missed, background, localization, class, duplicate; precision 2/3, recall 2/3, F1 2/3.
    assert errors[0] == ["0.1", "A", "2", "1", "0", "0", "1", "0", "67 %", "67 %", "67 %"]
    assert errors[1] == ["", "B", "2", "1", "0", "1", "0", "0", "67 %", "67 %", "67 %"]
    # Nothing has a score of .9 in B. Without detections there is no precision.
    assert errors[9] == ["", "B", "0", "3", "0", "0", "0", "0", "-", "0 %", "0 %"]
    assert [x[0] for x in errors[10:12]] == ["0.90, best F1", "0.70"]
    assert [x[0] for x in errors[12:]] == ["0.90, same precision", "0.70"]
    # It begins with this, and a list of contents.
    (verdict,) = page.locator("dl + p").all_text_contents()
    assert verdict == (
        f"{ODD[0]}: AP 30.0 (A), 31.0 (B), +1.0. At the same precision, 67%, scores of at least "
        "0.90 (A), 0.70 (B), and a recall of 67% (A), 67% (B)."
    )
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1

    groups = page.locator("details:has(.pair)").all()
    summaries = [x.locator("summary").text_content() for x in groups]
    assert summaries == [f"B is better: {ODD[2]}", f"A is better: {ODD[0]}"]
    of_b, of_a = (x.locator("figcaption").all_inner_texts() for x in groups)
    assert of_b == [f"A: 1 missed, 1 class\n{ODD[0]}", f"B: 1 right\n{ODD[2]}"]
    assert of_a == [f"A: 1 right\n{ODD[0]}", f"B: 1 missed, 1 localization\n{ODD[2]}"]
    labels = [
        (x.locator("xpath=..").get_attribute("class"), x.text_content())
        for x in groups[0].locator("text").all()
    ]
    # On the crowd nothing counts; its label is there.
    assert labels == [
        ("missed", f"missed: {ODD[0]}"),
        ("class", f"{ODD[1]} 90 %"),
        ("right", f"{ODD[0]} 70 %"),
    ]


def test_boxes_lie_on_the_picture(write, open_page):
    page = open_page(write(score_thresh=0.1), viewport=PHONE)
    assert "from a score of 0.1." in page.locator("section").text_content()
    picture = page.locator(".picture").first
    image = picture.locator("img").bounding_box()
    scale = image["width"] / SIZE[1]
    assert image["height"] == pytest.approx(scale * SIZE[0], rel=0.01)
    x0, y0, x1, y1 = OBJECT
    place = [image["x"] + x0 * scale, image["y"] + y0 * scale]
    size = [(x1 - x0) * scale, (y1 - y0) * scale]
    box = picture.locator("g.missed rect").evaluate(
        "x => (b => [b.x, b.y, b.width, b.height])(x.getBoundingClientRect())"
    )
    assert box == pytest.approx(place + size, abs=4)  # its line is 3 pixels wide
    # Both that A has, the ignored one too.
    kinds = [x.get_attribute("class") for x in picture.locator("g:has(rect)").all()]
    assert kinds == ["ignored", "missed", "ignored", "class"]
    # A and B below each other.
    of_a, of_b = (x.bounding_box() for x in page.locator(".picture").all()[:2])
    assert of_a["x"] == of_b["x"] and of_b["y"] > of_a["y"] + of_a["height"]


def test_labels_lie_on_the_picture(write, dataset, open_page):
    # Boxes in all corners: missed objects have their labels below, detections above.
    corners = [(x, y, x + 20, y + 15) for x in (0, 180) for y in (0, 105)]
    found = [(x, 0.9, 0) for x in corners]
    images = []
    for corner in (corners[1], corners[3]):
        image = make_image(dataset.images[0].file_name, [], found)
        image.objects.gt_boxes = make_boxes([corner])
        images.append(image)
    names = ["cat", "dog", "cow"]
    page = open_page(write(dataset=dataset._replace(images=images, class_names=names)))
    places = page.evaluate(
        """[...document.querySelectorAll(".picture text")].map(x => {
          const a = x.getBoundingClientRect(), b = x.closest("svg").getBoundingClientRect();
          return [a.left - b.left, a.top - b.top, b.right - a.right, b.bottom - a.bottom];
        })"""
    )
    # Four detections in each of two images, and the object that A misses.
    assert len(places) == 10
    assert min(map(min, places)) > -4  # the font's own space around it


def add_shapes(image):
    """
    Masks and keypoints: of objects and detections, their box and its corners.
    """
    for x, prefix in ((image.objects, "gt"), *((x, "pred") for x in image.detections)):
        boxes = x.get(f"{prefix}_boxes").tensor
        masks = np.zeros((len(x), *SIZE), np.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        rles = [mask_utils.encode(np.asfortranarray(y)) for y in masks]
        x.set(f"{prefix}_masks", rles)
        corners = torch.cat([boxes.reshape(-1, 2, 2), torch.ones(len(x), 2, 1)], dim=2)
        x.set(f"{prefix}_keypoints", corners)
    image.objects.gt_areas = image.objects.gt_boxes.area()


def test_masks_and_keypoints(write, dataset, open_page):
    for image in dataset.images:
        add_shapes(image)
    shapes = dataset._replace(tasks=["bbox", "segm", "keypoints"], keypoint_sigmas=[0.1, 0.1])
    page = open_page(write(dataset=shapes, score_thresh=0.1), viewport=PHONE)
    assert fits_its_window(page)
    assert page.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    headings = page.locator("h3:text('Errors') ~ h4").all_text_contents()
    assert headings[:3] == ["By boxes", "By masks", "By keypoints"]
    assert "judged by keypoints" in page.locator("section").text_content()
    # Both corners of the missed object: 40 high, 50 wide, at (10, 10).
    assert (
        page.locator(".picture g.missed path.points").first.get_attribute("d")
        == "M10.0 10.0h0M60.0 50.0h0"
    )


def test_outlines_of_masks(write, dataset, open_page):
    for image in dataset.images:
        add_shapes(image)
    page = open_page(write(dataset=dataset._replace(tasks=["bbox", "segm"]), score_thresh=0.1))
    assert "judged by masks" in page.locator("section").text_content()
    group = page.locator(".picture g.missed").first
    box, shape = (
        group.locator(x).evaluate(
            "x => (b => [b.x, b.y, b.width, b.height])(x.getBoundingClientRect())"
        )
        for x in ("rect", "path")
    )
    assert shape == pytest.approx(box, abs=4)


@pytest.mark.parametrize(
    "mask",
    [
        np.pad(np.ones((8, 9)), ((0, 4), (0, 3))),  # at two edges
        1 - np.pad(np.ones((3, 4)), 4),  # with a hole
        np.eye(9),  # parts that touch at corners
        np.hypot(*np.mgrid[-12:12, -15:15]) < 10,
        np.zeros((5, 6)),
    ],
)
def test_an_outline_surrounds_its_mask(mask):
    path = outline(mask_utils.encode(np.asfortranarray(mask, np.uint8)))
    # Filled as browsers do, at ten times the size: what an odd number of lines surrounds.
    height, width = mask.shape
    filled = np.zeros((10 * height, 10 * width), bool)
    for line in path.split("Z")[:-1]:
        vertices = [[10 * float(v) for v in x.split()] for x in line.lstrip("M").split("L")]
        picture = Image.new("1", filled.shape[::-1])
        ImageDraw.Draw(picture).polygon([tuple(x) for x in vertices], fill=1)
        filled ^= np.array(picture)
    middles = filled[5::10, 5::10]
    assert (middles == (mask > 0)).all()


def test_points():
    keypoints = torch.tensor([[1.0, 2.0, 0.5], [3.0, 4.0, 0.0], [5.25, 6.0, 2.0]])
    assert points(keypoints) == "M1.0 2.0h0M5.2 6.0h0"


def test_nothing_differs(write, dataset, open_page):
    image = dataset.images[1]
    a, b = (run._replace(config={"OUTPUT_DIR": run.name}) for run in RUNS)
    b = b._replace(results=[])
    page = open_page(write((a, b), dataset._replace(images=[image])))
    text = " ".join(page.locator("body").text_content().split())
    assert "Only the output folder." in text
    assert "no test on this dataset in common" in text
    assert text.count("On no image.") == 2 and page.locator(".pair").count() == 0


def test_images_are_shown_once(dataset, tmp_path):
    other = dataset._replace(name="other", images=dataset.images[::-1])
    folder = tmp_path / "page"
    folder.mkdir()
    lines = write_comparison(folder, tuple([x] for x in RUNS), [dataset, other], 24)
    assert lines[1] == "other: no test in common."
    text = (folder / "index.html").read_text()
    assert text.count("<h3>Errors</h3>") == 1
    assert "These are the images of &lt;img" in text


def test_a_run_without_detections(write, dataset):
    images = [x._replace(detections=(x.detections[0], x.detections[1][:0])) for x in dataset.images]
    text = write(dataset=dataset._replace(images=images)).read_text()
    assert "B has no detections on these images" in text
    assert "A has no detections" not in text and "same precision" not in text


def test_broken_images_are_listed(write, dataset, open_page):
    missing, other = (Path(dataset.images[i].file_name) for i in (2, 0))
    missing.unlink()
    cv2.imwrite(str(other), np.zeros((7, 5, 3), np.uint8))
    page = open_page(write())
    assert page.locator("details summary").first.inner_text() == "Images that cannot be read: 2"
    listed = "".join(page.locator("details li").all_text_contents())
    assert f"{missing} cannot be used: " in listed
    assert f"{other} has 5 x 7 pixels, but is annotated as " in listed
    # What was detected is still shown.
    assert page.locator(".picture img:not([src])").count() == 4


def test_pictures_are_small_and_made_once(write, dataset, tmp_path):
    large = np.full((1200, 2000, 3), 200, np.uint8)
    file = tmp_path / "large.png"
    file.write_bytes(cv2.imencode(".png", large)[1].tobytes())
    image = make_image(file, [], [(OBJECT, 0.7, 0)])._replace(height=1200, width=2000)
    folder = write(dataset=dataset._replace(images=[image, image])).parent
    assert sorted(x.name for x in folder.glob("*.jpg")) == ["image_1.jpg"]
    assert cv2.imread(str(folder / "image_1.jpg")).shape == (480, 800, 3)


def test_chosen_images():
    #         0  1  2  3  4  5
    a, b = [3, 0, 5, 1, 1, 2], [0, 4, 0, 1, 2, 1]
    # By difference: 3, -4, 5, 0, -1, 1
    assert choose_images(a, b, 24) == {"B": [2, 0, 5], "A": [1, 4]}
    assert choose_images(a, b, 3) == {"B": [2, 0], "A": [1]}
    assert choose_images(a, b, 0) == {"B": [], "A": []}
    # Of the same difference the first.
    assert choose_images([1, 1, 0, 0], [0, 0, 1, 1], 2) == {"B": [0], "A": [2]}


def test_configs():
    a = {"MODEL": {"X": {"Y": [1, 2]}, "Z": 1}, "OUTPUT_DIR": "a", "SEED": 1}
    b = {"MODEL": {"X": {"Y": [1, 3]}, "Z": 1, "W": None}, "OUTPUT_DIR": "b", "SEED": 1}
    assert compare_configs(a, b) == {"MODEL.X.Y": ("[1, 2]", "[1, 3]"), "MODEL.W": ("-", "None")}


def test_results_that_both_have():
    def result(test, dataset, **results):
        return {"test": test, "dataset": dataset, "results": results}

    both = {"AP": 1.0, "AP-t-shirt": 1.0}
    a = [result("plain", "x", bbox=both, segm={"AP": 3.0}), result("plain", "y", bbox={"AP": 9.0})]
    a += [result("voting", "x", bbox={"AP": 5.0}), result("2 rounds", "x", bbox={"AP": 5.0})]
    b = [result("2 rounds", "x", bbox={"AP": 6.0}), result("plain", "x", bbox=both)]
    assert compare_results([a], [b], "x") == {
        "plain, bbox": {
            "of all classes": [Row("AP", 1.0, 1.0)],
            "AP of a class": [Row("t-shirt", 1.0, 1.0)],
        },
        "2 rounds, bbox": {"of all classes": [Row("AP", 5.0, 6.0)]},
    }


@pytest.mark.parametrize(
    "a, b, cells",
    [
        (1.0, 3.26, ["1.0", "3.3", "+2.3"]),
        (3.0, 1.0, ["3.0", "1.0", "-2.0"]),
        (1.02, 1.0, ["1.0", "1.0", "0.0"]),
        (None, 1.0, ["-", "1.0", "-"]),
    ],
)
def test_row(a, b, cells):
    assert Row("AP", a, b).cells() == cells


def test_means_over_runs():
    def results(*values):
        return [
            [{"test": "plain", "dataset": "x", "results": {"bbox": {"AP": x, "AP50": 1.0}}}]
            for x in values
        ]

    tables = compare_results(results(1.0, 3.0), results(5.0, None), "x")
    ap, ap50 = tables["plain, bbox"]["of all classes"]
    assert ap.cells() == ["2.0 ± 1.4", "5.0", "+3.0"]
    assert ap50.cells() == ["1.0 ± 0.0", "1.0 ± 0.0", "0.0"]


def test_counts_in_words():
    wrong = {"background": 2, "localization": 0, "class": 0, "duplicate": 1}
    words = describe(ErrorCounts(right=3, missed=0, wrong=wrong))
    assert words == "3 right, 2 background, 1 duplicate"
    nothing = ErrorCounts(0, 0, dict.fromkeys(wrong, 0))
    assert describe(nothing) == "nothing to find, and no error"
