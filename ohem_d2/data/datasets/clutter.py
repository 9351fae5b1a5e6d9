"""
Clutter: a small synthetic dataset with rare hard background for mining to find.

A few objects of four classes lie in cluttered, textured scenes, among more unlabeled look-alikes of
the same colors: a green ring is an object, a green disc is not. Color alone shows that most of an
image is background; the look-alikes differ only in shape. Small, occluded and truncated objects are
marked as in PASCAL VOC.

OpenCV is imported where it draws: registering the datasets does not need it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional
from xml.etree import ElementTree

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc

from ...utils import atomic_folder

__all__ = ["CLASS_NAMES", "LOOK_ALIKES", "generate_clutter", "register_clutter"]

FOLDER = "clutter"
CLASS_NAMES = ("triangle", "square", "star", "ring")
# Unlabeled. Each resembles the class at the same place in CLASS_NAMES.
LOOK_ALIKES = ("kite", "pentagon", "spark", "disc")
COLORS = ((60, 60, 210), (210, 110, 50), (50, 200, 220), (70, 190, 70))  # BGR, of both
NUM_IMAGES = {"train": 400, "test": 100}
HEIGHT, WIDTH = 160, 208
# An object below either is marked as difficult.
MIN_VISIBLE_FRACTION, MIN_SIZE = 0.5, 12

VERSION = 2  # A dataset written by another version is replaced.


class Annotation(NamedTuple):
    class_name: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 of the visible part: columns x0 to x1 - 1
    truncated: bool  # cut off by the image border
    occluded: bool  # more than 5 % is covered
    difficult: bool


def register_clutter(root: str) -> None:
    """
    Register clutter_voc_{train,test} and clutter_coco_{train,test}: the same images in the layouts
    of PASCAL VOC and COCO.

    Args:
        root (str): the folder of all datasets.
    """
    folder = os.path.join(root, FOLDER)
    for split in NUM_IMAGES:
        name = f"clutter_voc_{split}"
        # 2012: AP is the area under the curve, not the mean at 11 points.
        register_pascal_voc(name, folder, split, 2012, CLASS_NAMES)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
        register_coco_instances(
            f"clutter_coco_{split}",
            {},
            os.path.join(folder, "coco", f"instances_{split}.json"),
            os.path.join(folder, "JPEGImages"),
        )
        for name in (f"clutter_voc_{split}", f"clutter_coco_{split}"):
            MetadataCatalog.get(name).made_by = "python tools/make_clutter.py"


def generate_clutter(root: str, seed: int = 0, num_images: Optional[dict[str, int]] = None) -> Path:
    """
    Write the dataset, whole or not at all, unless it is already there with the same arguments.

    Args:
        root (str): the folder of all datasets.
        seed (int): the same seed gives the same bytes (with the same version of OpenCV).
        num_images (dict[str, int]): images of each split. Default: NUM_IMAGES.

    Returns:
        Path: the dataset's folder: PASCAL VOC's JPEGImages, Annotations and ImageSets/Main, and
        coco/instances_{split}.json.

    Raises:
        FileExistsError: if something else is in its place.
    """
    num_images = num_images or NUM_IMAGES
    folder = Path(root) / FOLDER
    about = {"version": VERSION, "seed": seed, "num_images": num_images}
    about_file = folder / "about.json"
    if about_file.exists() and json.loads(about_file.read_text()) == about:
        return folder
    if folder.exists() and not about_file.exists():
        raise FileExistsError(
            f"{folder} is not the synthetic dataset that belongs there. Move it away, or set the "
            "environment variable DETECTRON2_DATASETS to another folder."
        )

    with atomic_folder(folder) as unfinished:
        for name in ("JPEGImages", "Annotations", "ImageSets/Main", "coco"):
            (unfinished / name).mkdir(parents=True)
        for split_index, (split, count) in enumerate(num_images.items()):
            _write_split(unfinished, split, count, (seed, split_index))
        (unfinished / "about.json").write_text(json.dumps(about))
    return folder


def _write_split(folder: Path, split: str, count: int, seed: tuple[int, ...]) -> None:
    import cv2

    image_ids = [f"{split}_{i:06d}" for i in range(count)]
    coco: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)],
    }
    for i, image_id in enumerate(image_ids):
        # Each image has its own generator, so it does not depend on those before it.
        image, annotations = draw_scene(np.random.default_rng((*seed, i)))
        file_name = f"{image_id}.jpg"
        cv2.imwrite(str(folder / "JPEGImages" / file_name), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        _write_voc_xml(folder / "Annotations" / f"{image_id}.xml", file_name, annotations)
        coco["images"].append(
            {"id": i + 1, "file_name": file_name, "height": HEIGHT, "width": WIDTH}
        )
        for annotation in annotations:
            x0, y0, x1, y1 = annotation.box
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": CLASS_NAMES.index(annotation.class_name) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    # COCO has no difficult objects; its evaluation ignores crowds.
                    "iscrowd": int(annotation.difficult),
                }
            )
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(image_ids) + "\n")
    (folder / "coco" / f"instances_{split}.json").write_text(json.dumps(coco))


def _write_voc_xml(path: Path, file_name: str, annotations: list[Annotation]) -> None:
    root = _element("annotation", {"folder": FOLDER, "filename": file_name})
    root.append(_element("size", {"width": WIDTH, "height": HEIGHT, "depth": 3}))
    for annotation in annotations:
        x0, y0, x1, y1 = annotation.box
        flags = {x: int(getattr(annotation, x)) for x in ("truncated", "occluded", "difficult")}
        obj = _element("object", {"name": annotation.class_name, "pose": "Unspecified", **flags})
        # VOC counts pixels from 1, and the last one belongs to the box.
        obj.append(_element("bndbox", {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}))
        root.append(obj)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path)


def _element(tag: str, content: dict[str, object]) -> ElementTree.Element:
    element = ElementTree.Element(tag)
    for key, value in content.items():
        ElementTree.SubElement(element, key).text = str(value)
    return element


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[Annotation]]:
    """
    Returns:
        (np.ndarray, list[Annotation]): a BGR image, uint8 (HEIGHT, WIDTH, 3), and its objects.
    """
    image = _texture(rng, (HEIGHT, WIDTH), _dull_color(rng))
    # What each pixel shows: 0 for the background, else an index into `things` + 1.
    owner = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    kinds = ["scrap"] * int(rng.integers(8, 16))
    kinds += list(rng.choice(LOOK_ALIKES, size=rng.integers(2, 6)))
    kinds += list(rng.choice(CLASS_NAMES, size=rng.integers(1, 5)))
    # Scraps lie below, above and between the rest.
    rng.shuffle(kinds)

    things = []
    for kind in kinds:
        size = float(np.exp(rng.uniform(np.log(10), np.log(72))))  # pixels across
        if kind == "scrap":
            color = _dull_color(rng)
        else:
            color = _COLOR_OF[kind] * rng.uniform(0.7, 1.1) + rng.normal(0, 15, size=3)
        center = rng.uniform([0, 0], [WIDTH, HEIGHT])
        mask = _mask(_OUTLINES[kind](rng), size, center, angle=rng.uniform(-0.35, 0.35))
        things.append((kind, mask, size, center))
        owner[mask > 0.5] = len(things)
        ys, xs = np.nonzero(mask)
        if len(ys):
            part = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            alpha = mask[part][:, :, None]
            texture = _texture(rng, alpha.shape[:2], color, contrast=0.4)
            image[part] = (1 - alpha) * image[part] + alpha * texture
    image = image + rng.normal(0, 4, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), _annotate(things, owner)


def _annotate(things: list[tuple], owner: np.ndarray) -> list[Annotation]:
    annotations = []
    for i, (kind, mask, size, center) in enumerate(things):
        ys, xs = np.nonzero(owner == i + 1)
        if kind not in CLASS_NAMES or len(xs) == 0:
            continue
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        visible_fraction = len(xs) / (mask > 0.5).sum()  # of the part inside the image
        inside = (center - size / 2 >= 0).all() and (center + size / 2 <= [WIDTH, HEIGHT]).all()
        small = min(box[2] - box[0], box[3] - box[1]) < MIN_SIZE
        annotations.append(
            Annotation(
                class_name=str(kind),
                box=box,
                truncated=not inside,
                occluded=bool(visible_fraction < 0.95),
                difficult=bool(small or visible_fraction < MIN_VISIBLE_FRACTION),
            )
        )
    return annotations


def _dull_color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(50, 200) + rng.normal(0, 20, size=3)


def _texture(
    rng: np.random.Generator, shape: tuple[int, ...], color: np.ndarray, contrast: float = 1.0
) -> np.ndarray:
    """
    A texture (height, width, 3) around a color: a gradient, waves and smooth noise.
    """
    import cv2

    ys, xs = np.mgrid[0 : shape[0], 0 : shape[1]] / HEIGHT
    angle, phase = rng.uniform(0, 2 * np.pi, size=2)
    along = np.cos(angle) * xs + np.sin(angle) * ys
    waves = np.sin(2 * np.pi * rng.uniform(2, 16) * along + phase)
    noise = cv2.resize(
        rng.normal(size=(int(rng.integers(4, 40)), int(rng.integers(4, 40)))),
        shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    pattern = rng.uniform(0, 30) * along + rng.uniform(0, 20) * waves + rng.uniform(5, 25) * noise
    tint = rng.uniform(0.5, 1, size=3)
    return color + contrast * pattern[:, :, None] * tint


def _mask(outline: list[np.ndarray], size: float, center: np.ndarray, angle: float) -> np.ndarray:
    """
    Coverage (HEIGHT, WIDTH), 0 to 1, of polygons given in a unit circle. Where two overlap is a
    hole.
    """
    import cv2

    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = 4  # fractional bits of the coordinates
    points = [
        np.round((p @ rotation * size / 2 + center) * 2**shift).astype(np.int32) for p in outline
    ]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.fillPoly(mask, points, 255, lineType=cv2.LINE_AA, shift=shift)
    return mask / 255.0


def _regular(corners: int, radius: float = 1.0, start: float = -np.pi / 2) -> np.ndarray:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _pointed(points: int, inner: float) -> np.ndarray:
    outline = _regular(2 * points)
    outline[1::2] *= inner
    return outline


def _scrap(rng: np.random.Generator) -> list[np.ndarray]:
    """
    A shape unlike all classes: a crooked polygon or a bar.
    """
    if rng.random() < 0.4:
        length, width = rng.uniform(1, 2.5), rng.uniform(0.05, 0.25)
        bar = np.array([[-length, -width], [length, -width], [length, width], [-length, width]])
        angle = rng.uniform(0, np.pi)
        return [bar @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]]
    corners = int(rng.integers(5, 10))
    return [_regular(corners) * rng.uniform(0.25, 1, size=(corners, 1))]


_OUTLINES: dict[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "triangle": lambda rng: [_regular(3)],
    "kite": lambda rng: [np.array([[0, -1], [0.75, 0.1], [0, 0.7], [-0.75, 0.1]])],
    "square": lambda rng: [_regular(4, start=-np.pi / 4)],
    "pentagon": lambda rng: [_regular(5)],
    "star": lambda rng: [_pointed(5, inner=0.42)],
    "spark": lambda rng: [_pointed(4, inner=0.42)],
    "ring": lambda rng: [_regular(32), _regular(32, radius=0.5)],
    "disc": lambda rng: [_regular(32)],
    "scrap": _scrap,
}
_COLOR_OF = {
    kind: np.array(color)
    for kinds in (CLASS_NAMES, LOOK_ALIKES)
    for kind, color in zip(kinds, COLORS, strict=True)
}
