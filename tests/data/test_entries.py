"""Every entry of the catalogue from files in its official layout, or in the layout of its shipped tfds builder, to batches."""

import jax
import numpy as np
import pytest

from ani_jax.data import catalog, files
from tests.data.conftest import write_cifar, write_idx, write_picture
from tests.data.test_prepared import picture, store

COUNT = 240
NUMBERS = np.arange(COUNT)


def fairface(folder):
    ages, races = ("0-2", "20-29", "more than 70"), ("White", "Black", "Latino_Hispanic", "Indian")
    for part, numbers in (("train", range(200)), ("val", range(200, COUNT))):
        lines = ["file,age,gender,race,service_test"]
        for number in numbers:
            write_picture(folder / part / f"{number}.jpg", number)
            gender = ("Male", "Female")[number % 2]
            lines.append(f"{part}/{number}.jpg,{ages[number % 3]},{gender},{races[number % 4]},True")
        (folder / f"fairface_label_{part}.csv").write_text("\n".join(lines) + "\n")


def facescrub(folder):
    for number in range(COUNT):
        person = number % 10
        kind = ("actors", "actresses")[person % 2]
        write_picture(folder / kind / "faces" / f"Person_{person}" / f"{number}.jpeg", number)


def orl_faces(folder):
    for number in range(COUNT):
        write_picture(folder / f"s{number % 20 + 1}" / f"{number // 20 + 1}.pgm", number, size=(9, 11), mode="L")


OWN = {"fairface": fairface, "facescrub": facescrub, "orl_faces": orl_faces}


def shipped(name):
    """Features and rows as the shipped builder of that name makes them."""
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image, tfds.features.ClassLabel
    if name == "emnist":
        features, values = {"image": image(shape=(28, 28, 1)), "label": label(num_classes=47)}, {"label": NUMBERS % 5}
    elif name == "lfw":
        people = [f"Person_{number % 8}" if number < 200 else f"Rare_{number}" for number in NUMBERS]
        features, values = {"image": image(shape=(12, 12, 3)), "label": tfds.features.Text()}, {"label": people}
    elif name == "celeb_a":
        flags, who = ("Smiling", "Male", "Young", "Eyeglasses"), ("Identity_No",)
        features = {
            "image": image(shape=(14, 12, 3), encoding_format="jpeg"),
            "attributes": dict.fromkeys(flags, np.bool_),
            "landmarks": {"nose_x": np.int64},
            "identity": dict.fromkeys(who, np.int64),
        }
        values = {
            "attributes": [{flag: bool(n >> k & 1) for k, flag in enumerate(flags)} for n in NUMBERS],
            "landmarks": [{"nose_x": n} for n in NUMBERS],
            "identity": [{"Identity_No": 7 * (n % 60)} for n in NUMBERS],
        }
    else:
        names = {
            "dsprites": ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position"),
            "shapes3d": ("label_floor_hue", "label_wall_hue", "label_object_hue", "label_scale", "label_shape"),
        }[name]
        channels = 1 if name == "dsprites" else 3
        features = {"image": image(shape=(16, 16, channels)), **{key: label(num_classes=40) for key in names}}
        values = {key: NUMBERS // (k + 1) % 3 for k, key in enumerate(names)}
    shape = features["image"].shape
    rows = [
        {"image": files.encode(picture(n, shape)), **{key: column[n] for key, column in values.items()}}
        for n in NUMBERS
    ]
    return features, rows


def check(data, entry, size):
    assert data.name == entry.name
    assert (data.primary.name, tuple(task.name for task in data.sensitive)) == (entry.primary, entry.sensitive)
    parts = [
        data.budget,
        data.validation,
        data.test,
        *(s.draw(jax.random.key(0), 9) for s in (data.defend, data.auxiliary)),
    ]
    for batch in parts:
        assert batch.image.shape[1:] == (8, 8, 3)
        # Noise made smaller is nearly grey, in the middle of the range.
        assert 0 <= float(batch.image.min()) < 0.45
        assert 0.55 < float(batch.image.max()) <= 1
        assert tuple(batch.sensitive) == entry.sensitive
        for task, labels in ((data.primary, batch.label), *((t, batch.sensitive[t.name]) for t in data.sensitive)):
            assert 0 <= int(labels.min()) <= int(labels.max()) < task.classes
    assert data.defend.size + data.auxiliary.size + sum(len(batch.label) for batch in parts[:3]) == size


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


@pytest.mark.parametrize(
    ("name", "size"), [("emnist", 240), ("lfw", 200), ("celeb_a", 240), ("dsprites", 240), ("shapes3d", 240)]
)
def test_what_shipped_builders_prepare(tmp_path, name, size):
    features, rows = shipped(name)
    store(tmp_path, rows, features, name, "balanced" if name == "emnist" else None)
    check(catalog.load(name, image_size=8, data_dir=tmp_path), catalog.find(name), size)


def test_celeb_a_never_divides_an_identity_and_takes_any_attribute(tmp_path):
    features, rows = shipped("celeb_a")
    store(tmp_path, rows, features, "celeb_a")
    data = catalog.load("celeb_a", image_size=8, primary="Eyeglasses", sensitive=("Smiling",), data_dir=tmp_path)
    parts = (data.defend.stored, data.auxiliary.stored, data.budget, data.validation, data.test)
    groups = [set(np.asarray(part.group).tolist()) for part in parts]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 60
    assert data.primary.class_names == ("no", "yes")
