"""
Copies of images, read again.
"""

import numpy as np
import pytest
from PIL import Image

from ohem_d2.visualization.picture_files import read_picture, write_jpeg


def test_a_copy_is_turned_and_made_smaller(tmp_path):
    image = np.zeros((40, 100, 3), dtype=np.uint8)
    image[:, :50, 0] = 255  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    Image.fromarray(image).save(tmp_path / "photo.png", exif=exif)
    picture = read_picture(str(tmp_path / "photo.png"))
    assert picture.size == (40, 100)

    write_jpeg(tmp_path / "copy.jpg", picture, max_size=50)
    copy = np.asarray(Image.open(tmp_path / "copy.jpg"))
    assert copy.shape == (50, 20, 3)
    assert copy[:22, :, 0].min() > 220 and copy[28:, :, 0].max() < 35  # red on top
    write_jpeg(tmp_path / "copy.jpg", picture, max_size=500)
    assert Image.open(tmp_path / "copy.jpg").size == picture.size == (40, 100)


def test_what_is_no_image(tmp_path):
    (tmp_path / "no.jpg").write_text("no")
    for name in ("no.jpg", "none.jpg"):
        with pytest.raises(ValueError, match=f"{name} cannot be used"):
            read_picture(str(tmp_path / name))
