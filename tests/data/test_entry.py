"""Every entry with a recipe from files in their official layout to batches."""

import jax
import numpy as np
import pytest

from ani_jax.data import catalog
from tests.data.conftest import write_cifar, write_idx, write_picture
from tests.data.test_prepared import picture

COUNT = 240
NUMBERS = np.arange(COUNT)


def fairface(folder):
    ages, races = ("0-2", "20-29", "more than 70"), ("White", "Black", "Latino_Hispanic", "Indian")
    for split, numbers in (("train", range(200)), ("val", range(200, COUNT))):
        lines = ["file,age,gender,race,service_test"]
        for number in numbers:
            write_picture(folder / split / f"{number}.jpg", number)
            gender = ("Male", "Female")[number % 2]
            lines.append(f"{split}/{number}.jpg,{ages[number % 3]},{gender},{races[number % 4]},True")
        (folder / f"fairface_label_{split}.csv").write_text("\n".join(lines) + "\n")


def facescrub(folder):
    for number in range(COUNT):
        person = number % 10
        kind = ("actors", "actresses")[person % 2]
        write_picture(folder / kind / "faces" / f"Person_{person}" / f"{number}.jpeg", number)


def orl_faces(folder):
    for number in range(COUNT):
        write_picture(folder / f"s{number % 20 + 1}" / f"{number // 20 + 1}.pgm", number, size=(9, 11), mode="L")


OWN = {"fairface": fairface, "facescrub": facescrub, "orl_faces": orl_faces}


def check(data, entry, size):
    assert data.name == entry.name
    assert (data.primary.name, tuple(task.name for task in data.sensitive)) == (entry.primary, entry.sensitive)
    batches = [
        data.holdout,
        data.validation,
        data.test,
        *(s.draw(jax.random.key(0), 9) for s in (data.defend, data.auxiliary)),
    ]
    for batch in batches:
        assert batch.image.shape[1:] == (8, 8, 3)
        # Noise made smaller is nearly grey, in the middle of the range.
        assert 0 <= float(batch.image.min()) < 0.45
        assert 0.55 < float(batch.image.max()) <= 1
        assert tuple(batch.sensitive) == entry.sensitive
        for task, labels in ((data.primary, batch.label), *((t, batch.sensitive[t.name]) for t in data.sensitive)):
            assert 0 <= int(labels.min()) <= int(labels.max()) < task.classes
    assert data.defend.size + data.auxiliary.size + sum(len(batch.label) for batch in batches[:3]) == size


@pytest.mark.parametrize("name", OWN)
def test_our_builders(tmp_path, name):
    OWN[name](tmp_path / name)
    data = catalog.load(name, image_size=8, manual_dir=tmp_path, data_dir=tmp_path / "data")
    check(data, catalog.find(name), COUNT)


@pytest.mark.parametrize("name", ["mnist", "kmnist", "cifar10", "cifar100"])
def test_official_archives(tmp_path, monkeypatch, name):
    if name.startswith("cifar"):
        labels = NUMBERS[:, None] % 10 if name == "cifar10" else np.stack([NUMBERS % 20, NUMBERS % 100], axis=1)
        write_cifar(tmp_path, picture(0, (COUNT, 32, 32, 3)), labels, monkeypatch, name)
    else:
        write_idx(tmp_path, picture(0, (COUNT, 28, 28)), NUMBERS % 10, monkeypatch, name)
    data = catalog.load(name, image_size=8, manual_dir=tmp_path, data_dir=tmp_path / "data")
    check(data, catalog.find(name), COUNT)
