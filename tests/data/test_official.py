import gzip

import numpy as np
import pytest

from ani_jax.data import files, official
from ani_jax.data.files import DataError, Tally, unwatched
from tests.data.conftest import idx_bytes, real, write_checked, write_cifar, write_idx


@pytest.fixture
def grey():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30) % 10


def read(reader, name, folder):
    return {split: list(examples) for split, examples in reader(name, folder, Tally(), unwatched).items()}


def test_idx_files_give_back_their_pictures_and_labels(tmp_path, monkeypatch, grey):
    images, labels = grey
    write_idx(tmp_path, images, labels, monkeypatch)
    found = read(official.read_idx, "fashion_mnist", tmp_path)
    for split, part in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        assert np.array_equal([files.decode(example["image"])[..., 0] for _, example in found[split]], images[part])
        assert [example["label"] for _, example in found[split]] == labels[part].tolist()
        assert [key for key, _ in found[split]] == list(range(15))


@pytest.mark.parametrize(
    ("name", "columns"), [("cifar10", {"label": 0}), ("cifar100", {"coarse_label": 0, "label": 1})]
)
def test_cifar_is_planar_rgb_after_its_label_bytes(tmp_path, monkeypatch, name, columns):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = np.stack([np.arange(12) % 10, np.arange(12) * 8], axis=1)[:, : len(columns)]
    write_cifar(tmp_path, images, labels, monkeypatch, name)
    found = read(official.read_cifar, name, tmp_path)
    rows = {"cifar10": [0, 3, 6, 9, 1, 4, 7, 10], "cifar100": [0, 2, 4, 6, 8, 10]}[name]
    assert np.array_equal([files.decode(example["image"]) for _, example in found["train"]], images[rows])
    for feature, column in columns.items():
        assert [example[feature] for _, example in found["train"]] == labels[rows, column].tolist()
    assert found["test"][0][1]["id"] == "test_00000"


def test_the_checksum_guards_every_file(tmp_path, monkeypatch, grey):
    write_idx(tmp_path, *grey, monkeypatch)
    for file in official.SHA256["fashion_mnist"]:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[:-1])
        with pytest.raises(DataError, match=rf"{file}: SHA-256 is"):
            read(official.read_idx, "fashion_mnist", tmp_path)
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
        official.parse_idx(tmp_path, content)


def test_labels_out_of_range_and_of_another_length_are_named(tmp_path, monkeypatch, grey):
    images, labels = grey
    write_idx(tmp_path, images, np.where(np.arange(30) == 4, 10, labels), monkeypatch)
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte.gz: label 10 in row 2 is out of range; allowed: 0 to 9"
    ):
        read(official.read_idx, "fashion_mnist", tmp_path)
    contents = {file: (tmp_path / file).read_bytes() for file in official.SHA256["fashion_mnist"]}
    contents["t10k-labels-idx1-ubyte.gz"] = idx_bytes(np.zeros(3))
    contents["train-labels-idx1-ubyte.gz"] = idx_bytes(np.zeros(15))
    write_checked(tmp_path, contents, monkeypatch, "fashion_mnist")
    with pytest.raises(DataError, match=r"t10k-labels.*: \(3,\) labels for \(15, 28, 28\) pictures"):
        read(official.read_idx, "fashion_mnist", tmp_path)


def test_cifar_out_of_range_and_cut_short(tmp_path, monkeypatch):
    images = np.zeros((6, 32, 32, 3), np.uint8)
    write_cifar(tmp_path, images, np.full((6, 1), 11), monkeypatch)
    with pytest.raises(DataError, match=r"label 11 in row 0 is out of range"):
        read(official.read_cifar, "cifar10", tmp_path)
    write_cifar(tmp_path, images[:, :, :-1], np.zeros((6, 1)), monkeypatch)
    with pytest.raises(DataError, match=r"train holds \d+ bytes, not a multiple of 3073"):
        read(official.read_cifar, "cifar10", tmp_path)
    write_checked(tmp_path, {"cifar-10-binary.tar.gz": b"no archive"}, monkeypatch, "cifar10")
    with pytest.raises(DataError, match="damaged archive"):
        read(official.read_cifar, "cifar10", tmp_path)


def test_the_real_fashion_mnist_has_60000_and_10000_balanced():
    folder = real("fashion_mnist")
    for split, size in (("train", 6000), ("t10k", 1000)):
        path = folder / f"{split}-labels-idx1-ubyte.gz"
        labels = official.parse_idx(path, files.verified(path, official.SHA256["fashion_mnist"][path.name]))
        assert np.bincount(labels).tolist() == [size] * 10
