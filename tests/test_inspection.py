"""
The page of hard examples, in Chromium.
"""

import contextlib
import csv
import io

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from pages import ODD_NAMES, fits_its_window
from pycocotools.coco import COCO

from ohem_d2.evaluation import HardExample
from ohem_d2.evaluation.hard_examples import KINDS
from ohem_d2.visualization.inspection import write_inspection

pytest_plugins = ["pages"]

PHONE = {"width": 390, "height": 844}
SIZE = (120, 80)  # width and height of the images
OBJECT = [10.0, 10.0, 30.0, 40.0]


def make_example(kind, file_name, loss, gt_class=0, pred_class=1, score=0.5):
    pred_box = [12.0, 10.0, 30.0, 40.0]
    gt_box = None if kind == "nothing annotated" else OBJECT
    return HardExample(
        kind, file_name, [9.0, 9, 31, 40 + loss], None if gt_box is None else gt_class, gt_box,
        pred_class, pred_box, score, loss, 0.5 * loss, 0.3 * loss, 0.2 * loss,
    )  # fmt: skip


def make_records(names):
    annotation = {"bbox": OBJECT, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    crowd = {
        "bbox": [50, 50, 20, 10],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "iscrowd": 1,
    }
    return {
        str(x): {
            "file_name": str(x), "width": SIZE[0], "height": SIZE[1],
            "annotations": [annotation, crowd],
        }
        for x in names
    }  # fmt: skip


def write_image(path):
    path.parent.mkdir(exist_ok=True)
    image = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image[10:40, 10:30] = 255
    assert cv2.imwrite(str(path), image)


BROKEN = ["<img src=x onerror=alert(2)>.png: empty"]


def write(folder, examples, records, class_names=ODD_NAMES):
    count = []
    num_found = dict(zip(KINDS, (9, 2, 2, 2), strict=True))
    write_inspection(
        folder, examples, records, class_names, str(folder.parent), num_found, BROKEN,
        'Hard <b>"examples"</b>', {"Model": "<i>m</i>"}, lambda: count.append(1),
    )  # fmt: skip
    return folder / "index.html", len(count)


# File names with special characters of HTML, JavaScript and URLs.
FILES = [
    "<img src=x onerror=alert(1)>.jpg",
    "100%25 #1?.jpg",
    "卷心菜 &amp; 'ключ'.jpg",
    "plain.jpg",
]


@pytest.fixture
def small(tmp_path):
    """
    A page of eight examples, two of each kind, on four images.
    """
    names = [tmp_path / "photos" / x for x in FILES]
    for x in names:
        write_image(x)
    (tmp_path / "page").mkdir()
    examples = [
        make_example(kind, str(names[k]), loss, gt_class=k, pred_class=5 - k, score=(9 - loss) / 10)
        for k, kind in enumerate(KINDS)
        for loss in (4.0 + k, 3.0 - 0.5 * k)
    ]
    page, advanced = write(tmp_path / "page", examples, make_records(names))
    assert advanced == 4
    return page, examples


def losses(page):
    # Not inner_text: tiles far below are not laid out.
    return [float(x.removeprefix("loss ")) for x in page.locator(".loss").all_text_contents()]


def test_names_are_shown_and_not_executed(small, open_page):
    path, _ = small
    page = open_page(path)
    assert page.title() == page.locator("h1").inner_text() == 'Hard <b>"examples"</b>'
    assert page.locator("dd").all_text_contents() == ["<i>m</i>"]
    assert page.locator("details li").all_text_contents() == BROKEN
    assert page.locator("#class option").all_text_contents() == ["all", *ODD_NAMES]
    assert page.locator("section h2").all_text_contents() == [
        "Missed object (2)", "Wrong class (2)", "Poor localization (2)", "Nothing annotated (2)",
    ]  # fmt: skip
    # Of the first kind, not all were kept.
    notes = page.locator("section .note").all_text_contents()
    assert [x.endswith("The hardest 2 of 9.") for x in notes] == [True, False, False, False]
    assert page.locator(".tile .score").all_text_contents()[0] == "score 50\u00a0%"
    assert page.locator(".tile .file").all_text_contents() == [x for x in FILES for _ in range(2)]
    described = [x.split("loss ")[0] for x in page.locator(".tile .text").all_text_contents()]
    assert described[0] == f"{ODD_NAMES[0]}: not found"
    assert described[2] == f"{ODD_NAMES[1]} → {ODD_NAMES[4]} 40\u00a0%"
    assert described[4] == f"{ODD_NAMES[2]}, IoU 0.90"  # 18 of 20 columns
    assert described[6] == f"nothing → {ODD_NAMES[2]} 20\u00a0%"
    titles = [x.get_attribute("title") for x in page.locator(".tile").all()]
    assert titles == [f"photos/{x}" for x in FILES for _ in range(2)]
    # All pictures exist.
    assert page.evaluate(
        "[...document.images].every(x => x.complete && x.naturalWidth > 0 || x.loading === 'lazy')"
    )


def test_filters(small, open_page):
    path, examples = small
    page = open_page(path)
    assert losses(page) == [4, 3, 5, 2.5, 6, 2, 7, 1.5]
    assert page.locator("#count").inner_text() == "8 of 8"
    kinds = page.locator("#kinds input")
    kinds.nth(0).uncheck()
    kinds.nth(3).uncheck()
    assert losses(page) == [5, 2.5, 6, 2]
    assert page.locator("#count").inner_text() == "4 of 8"
    # The class may be the annotated or the predicted one.
    page.select_option("#class", "1")
    assert losses(page) == [5, 2.5]
    page.select_option("#class", "3")
    assert losses(page) == [6, 2]
    page.select_option("#class", "")
    kinds.nth(0).check()
    page.fill("#search", "КЛЮЧ")
    assert losses(page) == [6, 2]
    page.fill("#search", "no such file")
    assert losses(page) == [] and page.locator("#count").inner_text() == "0 of 8"
    page.fill("#search", "100%25 #1?")
    page.press("#search", "Enter")
    assert losses(page) == [5, 2.5]
    assert len(examples) == 8


def test_order(small, open_page):
    path, _ = small
    page = open_page(path)
    page.select_option("#sort", "-loss")
    assert losses(page) == [3, 4, 2.5, 5, 2, 6, 1.5, 7]
    page.select_option("#sort", "score")
    assert losses(page) == [3, 4, 2.5, 5, 2, 6, 1.5, 7]  # scores fall as losses grow
    page.select_option("#sort", "image")
    assert losses(page) == [4, 3, 5, 2.5, 6, 2, 7, 1.5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, {"width": 1280, "height": 800}], ids=["phone", "desk"])
def test_a_click_shows_the_whole_image(small, open_page, scheme, viewport):
    path, _ = small
    page = open_page(path, color_scheme=scheme, viewport=viewport)
    assert fits_its_window(page)
    page.locator(".tile").nth(2).click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible() and fits_its_window(page)
    inside = viewer.bounding_box()
    assert inside["x"] >= 0 and inside["x"] + inside["width"] <= viewport["width"]
    assert page.locator("#caption").inner_text() == (
        f"wrong class: {ODD_NAMES[1]} → {ODD_NAMES[4]} 40\u00a0%"
    )
    cells = page.locator("#facts td").all_text_contents()
    facts = dict(zip(cells[::2], cells[1::2], strict=True))
    assert facts == {
        "Annotated": ODD_NAMES[1], "Predicted": f"{ODD_NAMES[4]}, 40\u00a0%",
        "IoU of the two boxes": "0.90", "Object or background": "2.500", "Which class": "1.500",
        "Box": "1.000", "Loss": "5.000",
    }  # fmt: skip
    assert f"photos/{FILES[1]}" in page.locator("#facts").inner_text()
    assert "1 more on this image" in page.locator("#facts").inner_text()

    # The boxes lie on the image: the annotated one on the white object.
    image = page.locator("#whole img")
    assert image.evaluate("x => x.decode().then(() => [x.naturalWidth, x.naturalHeight])") == [
        *SIZE
    ]
    frame = image.bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(SIZE[0] / SIZE[1], rel=0.01)
    scale = frame["width"] / SIZE[0]
    for name, (x0, y0, x1, y1) in (("annotated", OBJECT), ("predicted", [12, 10, 30, 40])):
        box = page.locator(f"#whole rect.{name}").evaluate(
            "x => (r => [r.x, r.y, r.width, r.height])(x.getBoundingClientRect())"
        )
        expected = [frame["x"] + scale * x0, frame["y"] + scale * y0]
        expected += [scale * (x1 - x0), scale * (y1 - y0)]
        assert box == pytest.approx(expected, abs=6)  # the width of the line
    assert page.locator("#whole rect.ignored").count() == 1


def test_keys(small, open_page):
    path, _ = small
    page = open_page(path)
    page.locator(".tile").nth(6).click()
    caption = page.locator("#caption")
    page.keyboard.press("ArrowRight")
    assert "nothing annotated" in caption.inner_text()
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")  # there is no next one
    page.keyboard.press("ArrowLeft")
    page.locator("#previous").click()
    assert "poor localization" in caption.inner_text()
    assert "6 of 8" in page.locator("#facts").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # Only through the filtered examples.
    page.locator("#kinds input").nth(0).uncheck()
    page.locator(".tile").nth(0).click()
    assert page.locator("#previous").is_disabled()
    page.locator("#close").click()
    assert not page.locator("#viewer").is_visible()


def test_marks_are_kept_and_exported(small, open_page):
    path, _ = small
    page = open_page(path)
    assert page.locator("#csv").is_disabled() and page.locator("#marked-count").inner_text() == (
        "0 marked"
    )
    page.locator(".tile").nth(0).click()
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    page.locator("#marks button.unsure").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    page.keyboard.press("r")  # takes it back
    page.keyboard.press("Escape")
    page.locator(".tile").nth(6).click()
    page.keyboard.press("r")
    assert page.locator("#marks button.right").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")

    page.reload()
    assert page.locator("#marked-count").inner_text() == "3 marked"
    marks = [x for x in page.locator(".tile .mark").all_text_contents() if x]
    assert marks == ["mistake", "unsure", "right"]
    page.select_option("#marked", "none")
    assert page.locator("#count").inner_text() == "5 of 8"
    page.select_option("#marked", "right")
    assert losses(page) == [7]

    with page.expect_download() as download:
        page.locator("#csv").click()
    with open(download.value.path(), newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [x["mark"] for x in rows] == ["mistake", "unsure", "right"]
    assert rows[0]["file_name"] == f"photos/{FILES[0]}" and rows[0]["gt_class"] == ODD_NAMES[0]
    # Of a missed object, the object; otherwise the prediction.
    corners = [[float(x[k]) for k in ("x0", "y0", "x1", "y1")] for x in rows]
    assert corners == [OBJECT, OBJECT, [12, 10, 30, 40]]

    with page.expect_download() as download:
        page.locator("#coco").click()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(download.value.path())
    assert [x["file_name"] for x in coco.loadImgs([1, 4])] == [
        f"photos/{x}" for x in (FILES[0], FILES[3])
    ]
    annotations = coco.loadAnns([1, 2, 3])
    assert [x["attributes"]["mark"] for x in annotations] == ["mistake", "unsure", "right"]
    assert annotations[2]["bbox"] == [12, 10, 18, 30]
    names = [coco.cats[x["category_id"]]["name"] for x in annotations]
    assert names == [ODD_NAMES[0], ODD_NAMES[0], ODD_NAMES[2]]


def test_ten_thousand_examples(tmp_path, open_page):
    path = tmp_path / "photo.jpg"
    write_image(path)
    examples = [
        make_example(KINDS[i // 2500], str(path), loss=10.0 - i % 2500 / 1000)
        for i in range(10_000)
    ]
    index, _ = write(tmp_path, examples, make_records([path]), ["cat", "dog"])
    page = open_page(index)
    # The number of tiles does not grow with the list.
    assert page.locator(".tile").count() == 240
    more = page.locator("section").nth(1).locator(".more")
    assert more.inner_text() == "Show 60 of 2440 more"
    more.press("Enter")  # a click misses it if pictures that load move it
    page.locator(".tile").nth(299).wait_for()
    assert page.locator(".tile").count() == 300
    page.locator("section").nth(1).locator(".tile").nth(119).click()
    assert "2620 of 10000" in page.locator("#facts").inner_text()
    page.keyboard.press("Escape")
    page.select_option("#sort", "-loss")
    assert losses(page)[0] == pytest.approx(7.501, abs=0.01)
    for _ in range(3):
        page.locator("#kinds input:checked").first.uncheck()
    assert page.locator("#count").inner_text() == "2500 of 10000"


def test_pictures(tmp_path):
    path = tmp_path / "photo.png"
    image = np.zeros((1200, 1800, 3), dtype=np.uint8)
    image[300:600, 600:1000] = 255
    cv2.imwrite(str(path), image)
    box = [600.0, 300.0, 1000.0, 600.0]
    example = make_example("missed object", str(path), 1.0)
    example = example._replace(roi=box, gt_box=box, pred_box=[650.0, 300, 1000, 500])
    records = make_records([path])
    records[str(path)].update(width=1800, height=1200)
    write(tmp_path, [example], records)

    whole = cv2.imread(str(tmp_path / "images/000000.jpg"))
    assert whole.shape == (683, 1024, 3)  # 1200 x 1800, shrunk
    # A margin of .4 x 400 around the boxes: 720 x 620 pixels, shrunk by 240 / 720.
    crop = cv2.imread(str(tmp_path / "crops/000000.jpg"))
    assert crop.shape == (207, 240, 3)
    assert crop[:50].max() < 20 and crop[60:145, 60:180].min() > 235

    # Existing pictures are kept, so an interrupted run can continue.
    (tmp_path / "images/000000.jpg").unlink()
    (tmp_path / "crops/000000.jpg").write_text("mine")
    write(tmp_path, [example], records)
    assert (tmp_path / "crops/000000.jpg").read_text() == "mine"
    assert cv2.imread(str(tmp_path / "images/000000.jpg")).shape == (683, 1024, 3)


def test_without_examples(tmp_path, open_page):
    index, _ = write(tmp_path, [], {})
    page = open_page(index)
    assert page.locator("#count").inner_text() == "0 of 0" and page.locator(".tile").count() == 0
