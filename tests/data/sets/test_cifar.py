import numpy as np
import pytest

from ani_jax.data import files
from ani_jax.data.files import DataError, Tally, unwatched
from ani_jax.data.sets import cifar
from tests.data.conftest import write_checked, write_cifar


def read(name, folder):
    return {split: list(examples) for split, examples in cifar.read_cifar(name, folder, Tally(), unwatched).items()}


@pytest.mark.parametrize(
    ("name", "columns"), [("cifar10", {"label": 0}), ("cifar100", {"coarse_label": 0, "label": 1})]
)
def test_cifar_is_planar_rgb_after_its_label_bytes(tmp_path, monkeypatch, name, columns):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = np.stack([np.arange(12) % 10, np.arange(12) * 8], axis=1)[:, : len(columns)]
    write_cifar(tmp_path, images, labels, monkeypatch, name)
    found = read(name, tmp_path)
    rows = {"cifar10": [0, 3, 6, 9, 1, 4, 7, 10], "cifar100": [0, 2, 4, 6, 8, 10]}[name]
    assert np.array_equal([files.decode(example["image"]) for _, example in found["train"]], images[rows])
    for feature, column in columns.items():
        assert [example[feature] for _, example in found["train"]] == labels[rows, column].tolist()
    assert found["test"][0][1]["id"] == "test_00000"


def test_cifar_out_of_range_and_cut_short(tmp_path, monkeypatch):
    images = np.zeros((6, 32, 32, 3), np.uint8)
    write_cifar(tmp_path, images, np.full((6, 1), 11), monkeypatch)
    with pytest.raises(DataError, match=r"label 11 in row 0 is out of range"):
        read("cifar10", tmp_path)
    write_cifar(tmp_path, images[:, :, :-1], np.zeros((6, 1)), monkeypatch)
    with pytest.raises(DataError, match=r"train holds \d+ bytes, not a multiple of 3073"):
        read("cifar10", tmp_path)
    write_checked(tmp_path, {"cifar-10-binary.tar.gz": b"no archive"}, monkeypatch, cifar, "cifar10")
    with pytest.raises(DataError, match="damaged archive"):
        read("cifar10", tmp_path)
