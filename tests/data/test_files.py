import hashlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from ani_jax.data import files
from ani_jax.data.files import DataError, Tally
from tests.data.conftest import write_picture


def test_pictures_are_found_in_folders_and_archives_once_and_sorted(tmp_path):
    write_picture(tmp_path / "b" / "2.JPG", 0, format="JPEG")
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "labels.csv").write_text("not a picture")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        archive.write(tmp_path / "a.png", "c/3.png")
        archive.writestr("__MACOSX/c/._3.png", "shadow")
    found = files.pictures(tmp_path)
    assert [picture.name for picture in found] == ["a.png", "b/2.JPG", "c/3.png"]
    assert found[0].read() == found[2].read() == (tmp_path / "a.png").read_bytes()


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "faces.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=r"^manual_dir=.*faces\.zip: damaged archive"):
        files.pictures(tmp_path)


def test_checksums(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"content")
    assert files.verified(path, hashlib.sha256(b"content").hexdigest()) == b"content"
    with pytest.raises(DataError, match=r"x: SHA-256 is ed7002b439e9\.\.\., not 000000000000\.\.\.; fetch"):
        files.verified(path, "0" * 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_encoding_loses_nothing(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    assert np.array_equal(files.decode(files.encode(pixels)), pixels)
    assert files.decode(files.encode(pixels), "L" if channels == 3 else "RGB").shape[-1] == 4 - channels


def test_modes_become_one_or_three_channels(tmp_path):
    for mode, channels in (("L", 1), ("1", 1), ("RGBA", 3), ("P", 3), ("CMYK", 3)):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (3, 4)).save(path)
        assert files.decode(path.read_bytes()).shape == (4, 3, channels)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pictures_are_refused_rather_than_clipped(tmp_path, mode):
    Image.new(mode, (3, 4)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=f"cannot be decoded: mode {mode}; only 8 bits"):
        files.decode((tmp_path / "x.tif").read_bytes())


@pytest.mark.parametrize("part", [0, 20, 200])
def test_a_truncated_picture_is_refused(tmp_path, part):
    write_picture(tmp_path / "x.jpg", 0, size=(40, 40))
    with pytest.raises(ValueError, match="cannot be decoded"):
        files.decode((tmp_path / "x.jpg").read_bytes()[:part])


def test_digests_tell_pixels_and_shapes_apart():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    other = pixels.copy()
    other[1, 1, 2] ^= 1
    assert files.digest(pixels) == files.digest(pixels.copy())
    assert len({files.digest(p) for p in (pixels, other, pixels.reshape(4, 1, 3))}) == 3


def test_the_tally_counts_and_allows_one_in_a_hundred():
    tally = Tally()
    for number in range(20):
        tally.skip("undecodable", f"{number}.jpg")
        tally.skip("malformed name", f"{number}.jpg")
    tally.skip("malformed name", "more.jpg")
    assert tally.counts() == {"undecodable": 20, "malformed name": 21}
    tally.check(2000, "manual_dir=x")
    with pytest.raises(
        DataError, match=r"^manual_dir=x: 20 of 1,999 pictures cannot be decoded \(first: 0\.jpg\); at most 19"
    ):
        tally.check(1999, "manual_dir=x")
