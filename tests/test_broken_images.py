"""
Broken images are named when they are loaded, and other errors stay what they are.
"""

import pytest
from detectron2.data import build_detection_test_loader
from PIL import Image

from ohem_d2.data.broken_images import BrokenImage, CatchingMapper, StoppingLoader
from ohem_d2.utils import InputError


def open_image(record):
    Image.open(record["file_name"]).load()
    return record


@pytest.fixture
def records(tmp_path):
    files = [tmp_path / f"{x}.png" for x in "abc"]
    for x in files:
        Image.effect_noise((30, 20), 50).save(x)
    files[1].write_bytes(files[1].read_bytes()[:100])
    return [{"file_name": str(x), "height": 20, "width": 30} for x in files]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image(records, num_workers):
    loader = build_detection_test_loader(
        records, mapper=CatchingMapper(open_image), num_workers=num_workers
    )
    (first,), (broken,), (last,) = loader
    assert (first, last) == (records[0], records[2])
    assert isinstance(broken, BrokenImage) and broken.file_name == records[1]["file_name"]

    loader = StoppingLoader(loader)
    assert len(loader) == 3
    batches = iter(loader)
    next(batches)
    with pytest.raises(InputError, match="b.png cannot be used: .*`ohem-d2 check` lists") as error:
        next(batches)
    assert "Traceback" not in str(error.value)


def test_another_error_is_passed_on(records):
    with pytest.raises(ZeroDivisionError):
        CatchingMapper(lambda _: 1 / 0)(records[0])
    with pytest.raises(KeyError):
        CatchingMapper(open_image)({})
