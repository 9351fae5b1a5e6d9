"""
What is wrong with images, with annotations in the layout of PASCAL VOC, and with those in COCO's
format, for each command that reads a dataset.
"""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from .fault import (
    BINARY,
    COCO,
    VOC,
    Fault,
    Spoil,
    accepted,
    edit,
    nothing,
    readers_of_dataset,
    refused,
    remove,
    replace_by_folder,
    write,
)

__all__ = ["FAULTS"]


def _make_image(size: tuple[int, int], format: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format=format)
    return file.getvalue()


PICTURE = "voc/JPEGImages/a.jpg"

# Missing images are apart: they are found before anything is read.
IMAGES: dict[str, Spoil] = {
    "empty": write(PICTURE, b""),
    "an HTML page": write(PICTURE, "<html>Not found</html>"),
    "truncated in the data": edit(PICTURE, lambda x: x[:-500]),
    "truncated in the header": edit(PICTURE, lambda x: x[:30]),
    "of another size than annotated": write(PICTURE, _make_image((97, 80))),
    "turned": write(PICTURE, _make_image((80, 96))),
    "above Pillow's limit": write(PICTURE, _make_image((19000, 19000), "PNG", "1")),
    "a folder": replace_by_folder(PICTURE),
    "garbage": write(PICTURE, BINARY),
}
# Commands that list broken images on their page, or do not read images.
LISTS = ("compare", "inspect")
READS_NO_IMAGES = ("evaluate", "convert-proposals")


def _rename_to_png(folder: Path) -> None:
    Image.open(folder / PICTURE).save((folder / PICTURE).with_suffix(".png"))
    (folder / PICTURE).unlink()
    edit("coco.json", lambda x: x.replace(b"a.jpg", b"a.png"))(folder)


IMAGES_ACCEPTED: dict[str, Spoil] = {
    "a PNG named .jpg": write(PICTURE, _make_image((96, 80), "PNG")),
    "gray": write(PICTURE, _make_image((96, 80), "JPEG", "L")),
    "CMYK": write(PICTURE, _make_image((96, 80), "JPEG", "CMYK")),
    "with transparency": write(PICTURE, _make_image((96, 80), "PNG", "RGBA")),
    "a .png": _rename_to_png,
}


def image_faults() -> list[Fault]:
    faults = []
    for name, spoil in IMAGES.items():
        for reader, command in readers_of_dataset(VOC).items():
            page = "new/index.html" if reader in LISTS else ""
            expected = "" if reader in READS_NO_IMAGES else r"a\.jpg"
            faults.append(Fault("images", name, command, spoil, expected, page))
    faults += accepted("images", IMAGES_ACCEPTED, readers_of_dataset(VOC).values())
    for dataset in (VOC, COCO):
        for reader, command in readers_of_dataset(dataset).items():
            if dataset == VOC or reader not in ("convert-proposals", "compare"):
                faults.append(Fault("images", "missing", command, remove(PICTURE), r"a\.jpg"))
    return faults


def _replace(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        text = content.decode()
        assert old in text, old
        return text.replace(old, new, 1).encode()

    return change


XML = "voc/Annotations/a.xml"
SPLIT = "voc/ImageSets/Main/all.txt"
FIRST_BOX = r"<bndbox>.*?</bndbox>"


def _box(*corners: object) -> Spoil:
    names = ("xmin", "ymin", "xmax", "ymax")
    text = "".join(f"<{k}>{x}</{k}>" for k, x in zip(names, corners, strict=True))
    return edit(
        XML,
        lambda x: re.sub(FIRST_BOX, f"<bndbox>{text}</bndbox>", x.decode(), count=1).encode(),
    )


# What is wrong with the file of an image, and what the message must match besides its name.
VOC_XML: dict[str, tuple[Spoil, str]] = {
    "empty": (write(XML, ""), ""),
    "cut in the middle": (edit(XML, lambda x: x[: len(x) // 2]), ""),
    "not XML": (write(XML, "not XML"), ""),
    "binary": (write(XML, BINARY), ""),
    "missing": (remove(XML), ""),
    "a folder": (replace_by_folder(XML), ""),
    "without <size>": (edit(XML, lambda x: re.sub(rb"<size>.*</size>", b"", x)), "size"),
    "without <height>": (edit(XML, lambda x: re.sub(rb"<height>.*</height>", b"", x)), "height"),
    "width 0": (edit(XML, _replace("<width>96<", "<width>0<")), "width"),
    "width in words": (edit(XML, _replace("<width>96<", "<width>wide<")), "width"),
    "height negative": (edit(XML, _replace("<height>80<", "<height>-80<")), "height"),
    "object without <bndbox>": (
        edit(XML, lambda x: re.sub(rb"<bndbox>.*?</bndbox>", b"", x, count=1)),
        "object 1",
    ),
    "object without <name>": (edit(XML, _replace("<name>cat</name>", "")), "object 1"),
    "object with an empty name": (edit(XML, _replace("<name>cat<", "<name> <")), "object 1"),
    "box without <xmax>": (
        edit(XML, lambda x: re.sub(rb"<xmax>40</xmax>", b"", x, count=1)),
        "object 1",
    ),
    "coordinate in words": (_box("left", 11, 40, 40), "object 1"),
    "coordinate empty": (_box("", 11, 40, 40), "object 1"),
    "coordinate NaN": (_box("nan", 11, 40, 40), "object 1"),
    "coordinate infinite": (_box("1e999", 11, 40, 40), "object 1"),
    "corners swapped in x": (_box(40, 11, 11, 40), "object 1"),
    "corners swapped in y": (_box(11, 40, 40, 11), "object 1"),
    "decimal comma": (_box("11,5", 11, 40, 40), "object 1"),
    "second object broken": (
        edit(XML, _replace("<xmin>51</xmin>", "<xmin>x</xmin>")),
        "object 2",
    ),
    "<difficult> in words": (
        edit(XML, _replace("<difficult>0<", "<difficult>no<")),
        "difficult",
    ),
    "<difficult> 2": (edit(XML, _replace("<difficult>0<", "<difficult>2<")), "difficult"),
}
VOC_ACCEPTED: dict[str, Spoil] = {
    "box beyond the image": _box(11, 11, 140, 40),
    "box at 0": _box(0, 0, 40, 40),
    "coordinates with decimals": _box("11.0", "11.5", "40.25", "40"),
    "<difficult> with blanks": edit(XML, _replace("<difficult>0<", "<difficult> 1 <")),
    "without <difficult>": edit(XML, _replace("<difficult>0</difficult>", "")),
    "image without objects": edit(
        XML, lambda x: re.sub(rb"<object>.*</object>", b"", x, flags=re.S)
    ),
    "comments and new lines": edit(XML, _replace("<object>", "<!-- x -->\n\t<object>\n")),
}
SPLITS: dict[str, tuple[Spoil, str]] = {
    "image set missing": (remove(SPLIT), r"all\.txt"),
    "image set empty": (write(SPLIT, ""), r"all\.txt"),
    "image set of blank lines": (write(SPLIT, "\n\n"), r"all\.txt"),
    "image twice": (write(SPLIT, "a\nb\na\n"), r"all\.txt"),
    "image that does not exist": (write(SPLIT, "a\nb\nnone\n"), "none"),
}


def voc_faults() -> list[Fault]:
    kind = "PASCAL VOC's files"
    readers = readers_of_dataset(VOC).values()
    faults = [
        *refused(kind, VOC_XML, readers, r"a\.xml"),
        *accepted(kind, VOC_ACCEPTED, readers),
        *refused(kind, SPLITS, readers),
    ]
    # Where a module of the user registers the classes, another one is a mistake.
    import_data = ["--import", "my_data"]
    unknown = edit(XML, _replace("<name>cat<", "<name>cats<"))
    for reader, (command, *arguments) in readers_of_dataset("pets").items():
        if reader not in ("compare", "evaluate"):
            faults.append(
                Fault(
                    kind,
                    "unknown class",
                    [command, *import_data, *arguments],
                    unknown,
                    r"(?s)a\.xml.*cats",
                )
            )
    return faults


def _coco(change: Callable[[dict], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "coco.json").read_text())
        change(content)
        (folder / "coco.json").write_text(json.dumps(content))

    return spoil


def _set(key: str, field: str, value: object) -> Spoil:
    return _coco(lambda x: x[key][0].update({field: value}))


def _drop(key: str, field: str) -> Spoil:
    return _coco(lambda x: x[key][0].pop(field))


def _twice(key: str) -> Spoil:
    return _coco(lambda x: x[key].append(dict(x[key][0])))


NAN = float("nan")
# What is wrong, and what the message must match besides the name of the file.
COCO_JSON: dict[str, tuple[Spoil, str]] = {
    "missing": (remove("coco.json"), ""),
    "empty": (write("coco.json", ""), ""),
    "cut in the middle": (edit("coco.json", lambda x: x[: len(x) // 2]), ""),
    "not JSON": (write("coco.json", "images:"), ""),
    "binary": (write("coco.json", BINARY), ""),
    "a list": (write("coco.json", "[]"), "format"),
    "null": (write("coco.json", "null"), "format"),
    "without images": (_coco(lambda x: x.pop("images")), "images"),
    "without annotations": (_coco(lambda x: x.pop("annotations")), "annotations"),
    "without categories": (_coco(lambda x: x.pop("categories")), "categories"),
    "images null": (_coco(lambda x: x.update(images=None)), "images"),
    "annotations a dict": (_coco(lambda x: x.update(annotations={})), "annotations"),
    "image without id": (_drop("images", "id"), "image 0"),
    "image without height": (_drop("images", "height"), "image 1"),
    "image without file_name": (_drop("images", "file_name"), "image 1"),
    "image of width 0": (_set("images", "width", 0), "image 1"),
    "image with its height as text": (_set("images", "height", "80"), "image 1"),
    "image twice": (_twice("images"), "1"),
    "category without name": (_drop("categories", "name"), "category 1"),
    "category without id": (_drop("categories", "id"), "category 0"),
    "category twice": (_twice("categories"), "1"),
    "annotation twice": (_twice("annotations"), "1"),
    "annotation without id": (_drop("annotations", "id"), "annotation 0"),
    "annotation of an unknown image": (_set("annotations", "image_id", 99), "annotation 1"),
    "annotation without image_id": (_drop("annotations", "image_id"), "annotation 1"),
    "annotation of an unknown category": (_set("annotations", "category_id", 9), "annotation 1"),
    "annotation without category_id": (_drop("annotations", "category_id"), "annotation 1"),
    "annotation without bbox": (_drop("annotations", "bbox"), "annotation 1"),
    "bbox of three numbers": (_set("annotations", "bbox", [1, 2, 3]), "annotation 1"),
    "bbox of text": (_set("annotations", "bbox", ["1", "2", "3", "4"]), "annotation 1"),
    "bbox with NaN": (_set("annotations", "bbox", [1, 2, NAN, 4]), "annotation 1"),
    "bbox of negative width": (_set("annotations", "bbox", [9, 9, -5, 5]), "annotation 1"),
    "iscrowd 2": (_set("annotations", "iscrowd", 2), "annotation 1"),
}
COCO_ACCEPTED: dict[str, Spoil] = {
    "box beyond the image": _set("annotations", "bbox", [10, 10, 500, 30]),
    "bbox with decimals": _set("annotations", "bbox", [10.5, 10, 20.25, 30]),
    "a crowd without mask": _set("annotations", "iscrowd", 1),
    "more fields": _coco(lambda x: x.update(info={}, licenses=[])),
    "image without objects": _coco(
        lambda x: x.update(annotations=[y for y in x["annotations"] if y["image_id"] != 3])
    ),
}
# Without them only COCO's evaluation fails.
EVALUATES = ("train", "evaluation", "ablation", "evaluate")


def coco_faults() -> list[Fault]:
    kind = "COCO json"
    readers = readers_of_dataset(COCO)
    del readers["convert-proposals"]
    faults = [
        *refused(kind, COCO_JSON, readers.values(), r"coco\.json"),
        *accepted(kind, COCO_ACCEPTED, readers.values()),
    ]
    for field in ("iscrowd", "area"):
        for reader, command in readers.items():
            message = rf"annotation 1 has no {field}" if reader in EVALUATES else ""
            name = f"annotation without {field}"
            faults.append(Fault(kind, name, command, _drop("annotations", field), message))
    for name, path in {
        "wrong image folder": "coco:coco.json:none",
        "a form that is none": "coco:a:b:c:d",
        "unknown name": "none",
    }.items():
        for reader, command in readers_of_dataset(path).items():
            if reader not in ("compare", "evaluate"):
                message = "none" if "none" in path else "coco:JSON"
                faults.append(Fault(kind, name, command, nothing, message))
    return faults


FAULTS = [*image_faults(), *voc_faults(), *coco_faults()]
