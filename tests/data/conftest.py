"""Tiny official files, byte for byte in the layout of the real ones, and the real ones where this machine has them."""

import gzip
import hashlib
import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from ani_jax.data.sets import cifar, grey

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"


def real(name):
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def write_idx(folder, images, labels, monkeypatch, name="fashion_mnist"):
    """Four files as the official ones, and their checksums in place of the official ones."""
    contents = {}
    for prefix, rows in (("train", slice(0, None, 2)), ("t10k", slice(1, None, 2))):
        contents[f"{prefix}-images-idx3-ubyte.gz"] = idx_bytes(images[rows])
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = idx_bytes(labels[rows])
    write_checked(folder, contents, monkeypatch, grey, name)


def write_cifar(folder, images, labels, monkeypatch, name="cifar10"):
    """The archive of the binary version; ``labels`` has one column a label byte."""
    rows = np.concatenate([labels, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).astype(np.uint8)
    members = {"data_batch_1.bin": rows[0::3], "data_batch_2.bin": rows[1::3], "test_batch.bin": rows[2::3]}
    if name == "cifar100":
        members = {"train.bin": rows[0::2], "test.bin": rows[1::2]}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, records in members.items():
            info = tarfile.TarInfo(f"cifar-batches-bin/{member}")
            info.size = records.size
            archive.addfile(info, io.BytesIO(records.tobytes()))
    file = next(iter(cifar.SHA256[name]))
    write_checked(folder, {file: buffer.getvalue()}, monkeypatch, cifar, name)


def write_checked(folder, contents, monkeypatch, module, name):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(module, "SHA256", {**module.SHA256, name: sums})


def write_picture(path, seed, size=(12, 10), mode="RGB", **options):
    """A random picture; equal seeds give equal pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path, **options)


def write_utkface(folder, count=240):
    """``count`` faces with every gender and race, ages 0 to 89."""
    for number in range(count):
        name = f"{number * 7 % 90}_{number % 2}_{number // 2 % 5}_2017011{number:010d}.jpg.chip.jpg"
        write_picture(folder / name, number)
