"""What tfds's own builders prepare, in the layout in which they do, to batches."""

import numpy as np
import pytest

from ani_jax.data import catalog, files
from tests.data.test_entry import NUMBERS, check
from tests.data.test_prepared import picture, store


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
    splits = (data.defend.stored, data.auxiliary.stored, data.holdout, data.validation, data.test)
    groups = [set(np.asarray(split.group).tolist()) for split in splits]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 60
    assert data.primary.class_names == ("no", "yes")
