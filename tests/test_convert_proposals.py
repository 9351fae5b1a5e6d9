import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import use_clutter
from detectron2.data import DatasetCatalog, get_detection_dataset_dicts
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy.io import loadmat, savemat

from ohem_d2.commands import convert_proposals
from ohem_d2.commands.convert_proposals import convert_boxes
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.data.proposal_file import read_proposals

PHOTOGRAPHS = Path(__file__).parent.parent.parent / "shared" / "data" / "selective_search"
NAME = "clutter_voc_train"
COUNT = 4


@pytest.fixture
def root(tmp_path, monkeypatch):
    generate_clutter(str(tmp_path), 0, {"train": COUNT, "test": 2})
    use_clutter(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch):
    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["convert_proposals.py", *map(str, arguments)])
            convert_proposals.main()

    return run


def cells(values):
    """
    Values as a column of MATLAB cells, as in the authors' files.
    """
    array = np.empty((len(values), 1), dtype=object)
    for i, value in enumerate(values):
        array[i, 0] = value
    return array


def labeled_boxes(root):
    """
    The boxes (R, 4) of the images' XML files, y first, as in the authors' files. Both count pixels
    from 1 and include the last one.
    """
    boxes = []
    for i in range(COUNT):
        tree = ElementTree.parse(root / "clutter" / "Annotations" / f"train_{i:06d}.xml")
        boxes.append(
            [
                [float(x.find(f"bndbox/{key}").text) for key in ("ymin", "xmin", "ymax", "xmax")]
                for x in tree.findall("object")
            ]
        )
    return [np.array(x) for x in boxes]


IDS = [f"train_{i:06d}" for i in range(COUNT)]


@pytest.mark.parametrize("dtype", ["float64", "uint16"])
@pytest.mark.parametrize("order", [None, [0, 1, 2, 3], [2, 0, 3, 1]])
def test_boxes_match_detectron2s_objects(root, run, dtype, order):
    boxes = [x.astype(dtype) for x in labeled_boxes(root)]
    content = {"boxes": cells(boxes).T}
    if order is not None:
        more = "000001"  # of another split
        content["boxes"] = cells([boxes[i] for i in order] + [boxes[0]]).T
        content["images"] = cells([IDS[i] for i in order] + [more])
    savemat("selective_search.mat", content)
    run(NAME, "selective_search.mat", "new/out.pkl")
    loaded = get_detection_dataset_dicts(
        [NAME], filter_empty=False, proposal_files=[str(root / "new" / "out.pkl")]
    )
    assert [x["image_id"] for x in loaded] == IDS and any(x["annotations"] for x in loaded)
    for record in loaded:
        assert record["proposal_boxes"].tolist() == [x["bbox"] for x in record["annotations"]]
    assert read_proposals(str(root / "new" / "out.pkl"))["image_sizes"].tolist() == [[160, 208]] * 4


@given(
    corners=arrays.arrays(np.int64, (5, 2, 2), elements=st.integers(1, 60_000)),
    dtype=st.sampled_from([np.uint16, np.float64]),
)
def test_boxes_cover_the_same_pixels(corners, dtype):
    first, last = corners.min(axis=1), corners.max(axis=1)  # y, x
    boxes = convert_boxes("a", np.concatenate([first, last], axis=1).astype(dtype))
    assert boxes.dtype == np.float32
    # The center of pixel 1 is at 0.5.
    assert np.array_equal((boxes[:, :2] + boxes[:, 2:]) / 2, (first + last)[:, ::-1] / 2 - 0.5)
    num_pixels = (last - first + 1).prod(axis=1)
    assert np.allclose(Boxes(boxes).area(), num_pixels)


def test_images_without_boxes(root, run):
    boxes = labeled_boxes(root)
    boxes[1] = np.zeros((0, 0))  # MATLAB's []
    savemat("selective_search.mat", {"boxes": cells(boxes)})
    run(NAME, "selective_search.mat", "out.pkl")
    assert read_proposals("out.pkl")["boxes"][1].shape == (0, 4)


@pytest.mark.parametrize(
    "third_boxes, message",
    [
        (np.ones((3, 5)), r"Image train_000002: its boxes have shape \(3, 5\)"),
        (cells([1, 2, 3, 4]).T, r"Image train_000002: its boxes have .* type object"),
        ([[0, 1, 5, 5]], "Image train_000002: .* coordinate 0, .* from 1"),
        # x first.
        (
            [[1, 1, 200, 150]],
            "mat cannot be used with clutter_voc_train. Image train_000002: .* reaches beyond",
        ),
        ([[9, 9, 3, 3]], "Image train_000002: box 0 .* ends before it begins"),
        ([[1, 1, np.nan, 9]], "Image train_000002: box 0 .* is not finite"),
    ],
)
def test_invalid_boxes(root, run, third_boxes, message):
    boxes = labeled_boxes(root)
    boxes[2] = np.array(third_boxes)
    savemat("selective_search.mat", {"boxes": cells(boxes)})
    with pytest.raises(SystemExit, match=message):
        run(NAME, "selective_search.mat", "out.pkl")
    assert not list(root.glob("out.pkl*"))


BOXES = [np.array([[1.0, 1, 9, 9]])] * COUNT


@pytest.mark.parametrize(
    "content, message",
    [
        ({"boxes": cells(BOXES[:3])}, "boxes of 3 images, but clutter_voc_train has 4"),
        (
            {"boxes": cells(BOXES), "images": cells(IDS[:3])},
            "boxes of 4 images, but the ids of 3",
        ),
        (
            {"boxes": cells(BOXES), "images": cells([*IDS[:3], "000005"])},
            "lacks 1 of the 4 images of clutter_voc_train, such as image train_000003",
        ),
        ({"other": cells(BOXES)}, r"has no cell array 'boxes' .* It has other \(4, 1\)"),
        ({"boxes": np.ones((7, 4))}, r"has no cell array 'boxes' .* It has boxes \(7, 4\)"),
    ],
)
def test_boxes_of_another_dataset(root, run, content, message):
    savemat("selective_search.mat", content)
    with pytest.raises(SystemExit, match=message):
        run(NAME, "selective_search.mat", "out.pkl")
    assert not list(root.glob("out.pkl*"))


@pytest.mark.parametrize(
    "content, message",
    [
        # The header of MATLAB 7.3: text, and version 2 in the byte order of "IM".
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF", "7.3, .* option -v7"),
        (b"", "is not a MATLAB file"),
        (b"\x80\x04 something else" * 20, "is not a MATLAB file"),
    ],
)
def test_other_files(root, run, content, message):
    (root / "file.mat").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        run(NAME, "file.mat", "out.pkl")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["clutter_voc_trian", "a.mat", "out.pkl"], "not registered. Did you mean clutter_voc_tr"),
        ([NAME, "gone.mat", "out.pkl"], "gone.mat does not exist"),
        ([NAME, "a.mat", "mine.pkl"], "mine.pkl already exists. Move it away"),
        (["voc_2007_test", "a.mat", "out.pkl"], "voc_2007_test .*needs .*, which does not exist"),
    ],
)
def test_arguments(root, run, arguments, message):
    savemat("a.mat", {"boxes": cells(BOXES)})
    (root / "mine.pkl").write_text("mine")
    with pytest.raises(SystemExit, match=message):
        run(*arguments)
    assert (root / "mine.pkl").read_text() == "mine"


def test_without_scipy(root, run, monkeypatch):
    savemat("a.mat", {"boxes": cells(BOXES)})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SystemExit, match="MATLAB files need SciPy: pip install scipy"):
        run(NAME, "a.mat", "out.pkl")


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="needs photographs in ../shared/data")
def test_boxes_of_fast_rcnns_authors(tmp_path, run, monkeypatch, request):
    ids = ["000004", "001551"]
    sizes = [Image.open(PHOTOGRAPHS / f"{x}.jpg").size for x in ids]
    dataset = [
        {"image_id": x, "height": height, "width": width}
        for x, (width, height) in zip(ids, sizes, strict=True)
    ]
    DatasetCatalog.register("photographs", lambda: dataset)
    request.addfinalizer(lambda: DatasetCatalog.remove("photographs"))
    monkeypatch.chdir(tmp_path)
    # The files of their demo have one image each, x first, and count from 0.
    files = [PHOTOGRAPHS / f"{x}_boxes.mat" for x in ids]
    for file in files:
        with pytest.raises(SystemExit, match=r"has no cell array 'boxes'.* boxes \(\d+, 4\)"):
            run("photographs", file, "out.pkl")

    # The same boxes in the format of their dataset files.
    demo = [loadmat(file)["boxes"] for file in files]
    savemat("all.mat", {"boxes": cells([x[:, [1, 0, 3, 2]] + 1 for x in demo])})
    run("photographs", "all.mat", "out.pkl")
    for boxes, expected in zip(read_proposals("out.pkl")["boxes"], demo, strict=True):
        assert np.array_equal(boxes[:, :2], expected[:, :2])
        assert np.array_equal(boxes[:, 2:] - 1, expected[:, 2:])
