import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ani_jax.data import builders, files, prepared
from ani_jax.data.files import DataError
from tests.data.conftest import write_cifar, write_idx, write_picture, write_utkface


def grey(count=30):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"])
def test_our_data_reads_through_the_shipped_builder_of_the_same_name(tmp_path, monkeypatch, name):
    import tensorflow_datasets as tfds

    if name.startswith("cifar"):
        images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
        labels = np.stack([np.arange(30) % 10, np.arange(30)], axis=1)[:, : 1 + (name == "cifar100")]
        write_cifar(tmp_path / name, images, labels, monkeypatch, name)
    else:
        images, labels = grey()
        write_idx(tmp_path / name, images, labels, monkeypatch, name)
    done = builders.prepare(name, tmp_path, tmp_path / "data")
    assert sum(done.sizes.values()) == 30
    assert done.skipped == {}
    shipped = tfds.builder(name, data_dir=tmp_path / "data")
    assert set(shipped.info.features) == set(tfds.builder_from_directory(done.folder).info.features)
    rows = [
        row for split in ("train", "test") for row in tfds.data_source(name, split=split, data_dir=tmp_path / "data")
    ]
    stored = {row["image"].tobytes(): int(row["label"]) for row in rows}
    column = labels if labels.ndim == 1 else labels[:, -1]
    assert stored == {image.tobytes(): int(label) for image, label in zip(images, column)}


def test_a_second_call_finds_what_is_there_and_what_was_left_out(tmp_path):
    write_utkface(tmp_path / "utkface", 12)
    write_picture(tmp_path / "utkface" / "9_1_20170109.jpg", 0)
    first = builders.prepare("utkface", tmp_path, tmp_path / "data")
    assert first.sizes == {"train": 12}
    assert first.skipped == {"malformed name": 1}
    assert builders.prepare("utkface", None, tmp_path / "data") == first


def test_missing_files_are_named_with_place_source_and_licence(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"^manual_dir=: fashion_mnist is made from train-images.*; name the folder"):
        builders.prepare("fashion_mnist", None, tmp_path / "data")
    with pytest.raises(DataError, match=r"^manual_dir=.*absent: no such folder; it should hold train-images"):
        builders.prepare("fashion_mnist", tmp_path / "absent", tmp_path / "data")
    write_idx(tmp_path, *grey(), monkeypatch)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing; get it from https://.*licence: MIT"
    ) as caught:
        builders.prepare("fashion_mnist", tmp_path, tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_a_failure_in_the_middle_leaves_nothing_and_the_next_call_starts_over(tmp_path, monkeypatch):
    images, labels = grey()
    write_idx(tmp_path, images, labels, monkeypatch)
    whole = files.encode

    def break_at(image, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return whole(image)

    monkeypatch.setattr(files, "encode", break_at)
    with pytest.raises(KeyboardInterrupt):
        builders.prepare("fashion_mnist", tmp_path, tmp_path / "data")
    assert list((tmp_path / "data" / "fashion_mnist").iterdir()) == []
    monkeypatch.setattr(files, "encode", whole)
    assert builders.prepare("fashion_mnist", tmp_path, tmp_path / "data").sizes == {"train": 15, "test": 15}


def test_a_killed_preparation_is_swept_away(tmp_path):
    write_utkface(tmp_path / "utkface", 12)
    code = f"""
import os, signal
from ani_jax.data import builders
from ani_jax.data.sets import faces
def written(labelled, written=faces._written):
    for number, example in enumerate(written(labelled)):
        if number == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
faces._written = written
builders.prepare("utkface", {str(tmp_path)!r}, {str(tmp_path / "data")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGKILL
    (left,) = (tmp_path / "data" / "utkface").iterdir()
    assert left.name.startswith("incomplete.")
    with pytest.raises(DataError, match="not prepared"):
        prepared.find("utkface", tmp_path / "data")
    done = builders.prepare("utkface", tmp_path, tmp_path / "data")
    assert done.sizes == {"train": 12}
    assert [path.name for path in done.folder.parent.iterdir()] == ["1.0.0"]


def test_two_preparations_at_once_make_one_data_set(tmp_path):
    write_utkface(tmp_path / "utkface", 60)
    code = "import sys; from ani_jax.data import builders; print(builders.prepare('utkface', *sys.argv[1:]).sizes)"
    arguments = [sys.executable, "-c", code, tmp_path, tmp_path / "data"]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["{'train': 60}"] * 2


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_shipped_builders_ask_for_the_extra_before_they_download(tmp_path):
    started = time.monotonic()
    with pytest.raises(
        DataError, match=r'dataset=dsprites: .* needs TensorFlow to prepare .* pip install "ani-jax\[tf\]"'
    ):
        builders.prepare("dsprites", None, tmp_path)
    assert time.monotonic() - started < 10
    with pytest.raises(DataError, match="dataset=no_such_set: tfds knows no data set of this name"):
        builders.prepare("no_such_set", None, tmp_path)


def test_nothing_is_printed(tmp_path, capfd):
    write_utkface(tmp_path, 6)
    builders.prepare("utkface", tmp_path, tmp_path / "data")
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path / "data" / "utkface") == ["1.0.0"]
    assert pathlib.Path(tmp_path / "data" / "downloads").exists() is False
