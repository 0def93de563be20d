import gzip

import numpy as np
import pytest

from ani_jax.data import files
from ani_jax.data.files import DataError, Tally, unwatched
from ani_jax.data.sets import grey
from tests.data.conftest import idx_bytes, real, write_checked, write_idx


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30) % 10


def read(reader, name, folder):
    return {split: list(examples) for split, examples in reader(name, folder, Tally(), unwatched).items()}


def test_idx_files_give_back_their_pictures_and_labels(tmp_path, monkeypatch, arrays):
    images, labels = arrays
    write_idx(tmp_path, images, labels, monkeypatch)
    found = read(grey.read_idx, "fashion_mnist", tmp_path)
    for split, rows in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        assert np.array_equal([files.decode(example["image"])[..., 0] for _, example in found[split]], images[rows])
        assert [example["label"] for _, example in found[split]] == labels[rows].tolist()
        assert [key for key, _ in found[split]] == list(range(15))


def test_the_checksum_guards_every_file(tmp_path, monkeypatch, arrays):
    write_idx(tmp_path, *arrays, monkeypatch)
    for file in grey.SHA256["fashion_mnist"]:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[:-1])
        with pytest.raises(DataError, match=rf"{file}: SHA-256 is"):
            read(grey.read_idx, "fashion_mnist", tmp_path)
        (tmp_path / file).write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"plain", "damaged gzip file", id="not gzip"),
        pytest.param(gzip.compress(b"\0\0\x08\x01" + bytes(100))[:-12], "damaged gzip file", id="cut gzip"),
        pytest.param(gzip.compress(b"\0\0\x0d\x01\0\0\0\1\0"), "not an idx file", id="floats"),
        pytest.param(gzip.compress(b"\0\0\x08\x03\0\0"), "truncated", id="cut header"),
        pytest.param(
            gzip.compress(b"\0\0\x08\x01\0\0\0\5\0\0"),
            r"truncated, 2 values where its header says \(5,\)",
            id="cut values",
        ),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        grey.parse_idx(tmp_path, content)


def test_labels_out_of_range_and_of_another_length_are_named(tmp_path, monkeypatch, arrays):
    images, labels = arrays
    write_idx(tmp_path, images, np.where(np.arange(30) == 4, 10, labels), monkeypatch)
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte.gz: label 10 in row 2 is out of range; allowed: 0 to 9"
    ):
        read(grey.read_idx, "fashion_mnist", tmp_path)
    contents = {file: (tmp_path / file).read_bytes() for file in grey.SHA256["fashion_mnist"]}
    contents["t10k-labels-idx1-ubyte.gz"] = idx_bytes(np.zeros(3))
    contents["train-labels-idx1-ubyte.gz"] = idx_bytes(np.zeros(15))
    write_checked(tmp_path, contents, monkeypatch, grey, "fashion_mnist")
    with pytest.raises(DataError, match=r"t10k-labels.*: \(3,\) labels for \(15, 28, 28\) pictures"):
        read(grey.read_idx, "fashion_mnist", tmp_path)


def test_the_real_fashion_mnist_has_60000_and_10000_balanced():
    folder = real("fashion_mnist")
    for split, size in (("train", 6000), ("t10k", 1000)):
        path = folder / f"{split}-labels-idx1-ubyte.gz"
        labels = grey.parse_idx(path, files.verified(path, grey.SHA256["fashion_mnist"][path.name]))
        assert np.bincount(labels).tolist() == [size] * 10
