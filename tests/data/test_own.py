import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from ani_jax.config import RunConfig
from ani_jax.data import catalog, own
from ani_jax.data.files import DataError, encode
from ani_jax.data.own import Folder, from_arrays

COUNT = 120


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def made(images=None, label=None, **more):
    images = noise((COUNT, 8, 8, 3)) if images is None else images
    return from_arrays(images, np.arange(COUNT) % 3 if label is None else label, **more)


def every_split(data):
    drawn = [source.render(None, source.stored) for source in (data.defend, data.auxiliary)]
    return [*drawn, data.holdout, data.validation, data.test]


def test_each_image_keeps_its_label_and_is_in_one_split():
    images, odd = noise((COUNT, 8, 8, 3)), np.arange(COUNT) % 2 == 1
    data = made(images, np.array(["x", "y", "z"])[np.arange(COUNT) % 3], sensitive={"odd": odd})
    assert (data.primary.class_names, data.sensitive[0].class_names) == (("x", "y", "z"), ("no", "yes"))
    place, seen = {image.tobytes(): row for row, image in enumerate(images)}, []
    for split in every_split(data):
        rows = [place[image.tobytes()] for image in np.rint(np.asarray(split.image) * 255).astype(np.uint8)]
        assert np.array_equal(split.label, np.array(rows) % 3)
        assert np.array_equal(split.sensitive["odd"], np.array(rows) % 2)
        seen += rows
    assert sorted(seen) == list(range(COUNT))


def test_floats_stay_as_fine_as_they_are():
    images = (0.5 + 1e-4 * np.arange(COUNT)[:, None, None] + np.zeros((1, 8, 8))).astype(np.float64)
    found = np.concatenate([np.asarray(split.image)[:, 0, 0, 0] for split in every_split(made(images))])
    assert np.allclose(np.sort(found), images[:, 0, 0], atol=1e-7)
    # Grey comes as three equal channels.
    assert made(images).test.image.shape[1:] == (8, 8, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_are_cropped_and_scaled(kind, channels):
    ramp = np.broadcast_to(np.linspace(0, 1, 12)[:, None, None], (12, 20, channels))
    images = np.stack([ramp * (number + COUNT) / (2 * COUNT) for number in range(COUNT)])
    images = np.rint(images * 255).astype(np.uint8) if kind is np.uint8 else images.astype(kind)
    data = made(images, image_size=6)
    # Each is scaled by its own number, so a picture's largest value says what its rows must be.
    rows = np.asarray(data.test.image)[:, :, 0, 0]
    wanted = np.asarray(jax.image.resize(ramp[:, 4:16, :1], (6, 6, 1), "linear"))[:, 0, 0]
    assert data.test.image.shape[1:] == (6, 6, 3)
    assert np.allclose(rows / rows[:, -1:], wanted / wanted[-1], atol=0.05 if kind is np.uint8 else 1e-5)


def test_no_identity_and_no_twin_is_divided():
    images = noise((COUNT, 8, 8))
    images[1::4] = images[::4]
    writer = np.array([f"writer {number // 2 % 40}" for number in range(COUNT)])
    plain, owned = made(images), made(images, group=writer)
    for data, least in ((plain, COUNT // 4), (owned, COUNT // 40)):
        groups = [set(np.asarray(split.group).tolist()) for split in every_split(data)]
        assert sum(map(len, groups)) == len(set.union(*groups)) < COUNT
        assert len(set.union(*groups)) >= least - COUNT // 4


def test_the_vault_is_the_same_for_every_seed_and_order():
    images, order = noise((COUNT, 8, 8)), np.random.default_rng(1).permutation(COUNT)

    def vault(data):
        return {image.tobytes() for image in np.asarray(data.test.image)}

    first = vault(made(images))
    assert first == vault(made(images, seed=3)) == vault(made(images[order], np.arange(COUNT)[order] % 3, seed=1))
    assert first.isdisjoint(vault(made(images, seed=100)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": noise((COUNT, 8))}, r"images: shape \(120, 8\); allowed: \(n, height, width\)"),
        ({"images": noise((COUNT, 8, 8, 2))}, r"images: shape \(120, 8, 8, 2\)"),
        ({"images": noise((0, 8, 8))}, "none empty"),
        ({"images": noise((COUNT, 8, 8)).astype(np.float32)}, r"images: floats of 255; allowed: \[0, 1\], so divide"),
        ({"images": noise((COUNT, 8, 8)) / -255.0}, r"images: floats of -1; allowed: \[0, 1\]"),
        ({"images": np.full((COUNT, 8, 8), np.nan)}, "images: not every number is finite"),
        ({"images": noise((COUNT, 8, 8)).astype(np.int64)}, "images: int64; allowed: uint8, or floats"),
        ({"images": [["a"] * 8] * COUNT}, r"images: shape \(120, 8\)"),
        ({"label": np.zeros(COUNT, int)}, "primary=label: constant, all 120 pictures are '0'"),
        ({"label": np.arange(COUNT - 1)}, r"label: shape \(119,\); allowed: \(120,\), a value for every image"),
        ({"label": np.linspace(0, 1, COUNT)}, "feature 'label' is no class .*float64"),
        ({"label": np.array([0, "a"] * (COUNT // 2), object)}, "feature 'label' mixes kinds of values"),
        ({"sensitive": {"age": np.arange(3)}}, r"age: shape \(3,\)"),
        ({"sensitive": {"label": np.arange(COUNT) % 2}}, "sensitive: 'label' is the task"),
        ({"group": np.zeros(COUNT, int)}, "are too few"),
        ({"seed": -1}, "seed=-1: must be 0 or more"),
        ({"image_size": 0}, "image_size=0: must be 1 or more"),
        ({"images": noise((3, 8, 8)), "label": np.arange(3)}, "are too few"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(change, words):
    with pytest.raises(DataError, match=words) as caught:
        made(**change)
    assert "\n" not in str(caught.value)


def test_a_thousand_classes_are_refused():
    with pytest.raises(DataError, match="primary=label: has 1,001 values; a task has at most 1,000"):
        from_arrays(noise((1001, 2, 2)), np.arange(1001))


def test_an_identity_may_be_one_of_many():
    data = from_arrays(noise((1001, 4, 4)), np.arange(1001) % 2, group=np.arange(1001))
    assert data.test.group is not None


@pytest.fixture
def folder(tmp_path):
    """Pictures in a folder a class, each with a size of its own."""
    for number, image in enumerate(noise((COUNT, 9, 9, 3))):
        place = tmp_path / "pics" / "abc"[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode(image[: 8 + number % 2]))
    return tmp_path / "pics"


def listed(folder, columns="path,kind,who", row=lambda number: f"{number % 2},w{number // 3}"):
    """A table of the same pictures."""
    lines = [f"{'abc'[number % 3]}/{number}.png,{row(number)}" for number in range(COUNT)]
    (folder / "labels.csv").write_text("\n".join((columns, *lines)) + "\n")


def test_a_folder_of_classes(folder):
    config = RunConfig(dataset=f"folder:{folder}", image_size=16)
    data = config.load(0)
    assert (data.primary.name, data.primary.class_names, data.sensitive) == ("label", ("a", "b", "c"), ())
    assert data.test.image.shape[1:] == (16, 16, 3)
    assert config.stem == f"folder-{config.contents}"
    assert RunConfig.read(config.json()) == config


def test_a_table_names_task_attributes_and_identity(folder):
    listed(folder)
    asked = {"primary": "kind", "sensitive": ("who",)}
    data = RunConfig(dataset=f"folder:{folder}", image_size=16, **asked).load(0)
    assert (data.primary.class_names, data.sensitive[0].classes) == (("0", "1"), 40)
    # Three pictures of each, which stay together.
    data = RunConfig(dataset=f"folder:{folder}", image_size=16, group_column="who").load(0)
    assert data.primary.name == "kind"
    groups = [np.asarray(split.group) for split in every_split(data)]
    assert all((np.unique(group, return_counts=True)[1] == 3).all() for group in groups)


def test_what_a_folder_holds_names_its_runs_wherever_it_lies(folder, tmp_path):
    config = RunConfig(dataset=f"folder:{folder}")
    moved = RunConfig(dataset=f"folder:{shutil.copytree(folder, tmp_path / 'moved')}")
    assert (config.contents, config.stem) == (moved.contents, moved.stem)
    (tmp_path / "moved" / "a" / "0.png").write_bytes(encode(noise((4, 4, 3), 7)))
    assert RunConfig(dataset=moved.dataset).contents != config.contents
    with pytest.raises(DataError, match="its files are no longer those of this config"):
        moved.load(0)


def test_pictures_below_a_class_are_of_that_class(folder):
    (folder / "a" / "deeper").mkdir()
    (folder / "a" / "0.png").rename(folder / "a" / "deeper" / "0.png")
    assert "a/deeper/0.png" in Folder(folder).table["path"].tolist()
    assert Folder(folder).columns(("label",))["label"].names == ("a", "b", "c")


def broken(folder, name, content=b"not a picture"):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "asked", "words"),
    [
        (shutil.rmtree, {}, "folder:.*pics: no such folder"),
        (
            lambda folder: [shutil.rmtree(folder / name) for name in "abc"],
            {},
            "holds neither a labels.csv with rows nor",
        ),
        (lambda folder: broken(folder, "a/0.png"), {}, "a/0.png cannot be decoded"),
        (
            lambda folder: listed(folder, "file,kind,who"),
            {},
            "labels.csv has the columns file, kind, who; it needs 'path'",
        ),
        (listed, {}, "primary=: folder:.* has the columns kind, who; name the one to predict"),
        (listed, {"primary": "size"}, "primary=size: must be one of kind, who"),
        (listed, {"primary": "kind", "sensitive": ("ink",)}, "sensitive=ink: must be one of kind, who"),
        (listed, {"primary": "kind", "group_column": "x"}, "group_column=x: must be one of kind, who"),
        (
            lambda folder: listed(folder, row=lambda number: "0,"),
            {"primary": "kind"},
            "labels.csv has no who in line 2",
        ),
        (lambda folder: listed(folder, row=lambda number: "0,w"), {"primary": "kind"}, "primary=kind: constant"),
        (lambda folder: broken(folder, "labels.csv", b"path,kind\na/999.png,1\n"), {}, "a/999.png is not there"),
        (lambda folder: broken(folder, "labels.csv", b"path,kind\n../x.png,1\n"), {}, "../x.png is outside the folder"),
        (lambda folder: broken(folder, "labels.csv", b""), {}, "labels.csv cannot be read"),
        (lambda folder: broken(folder, "labels.csv", b"\xff\xfe\x00"), {}, "labels.csv cannot be read"),
        (lambda folder: broken(folder, "labels.csv", b"path,kind\n"), {}, "holds neither a labels.csv with rows nor"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_line(folder, spoil, asked, words):
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        RunConfig(dataset=f"folder:{folder}", image_size=16, **asked).load(0)
    assert "\n" not in str(caught.value)


def test_a_group_column_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match="group_column=who: belongs to a folder:PATH"):
        RunConfig(group_column="who")


def test_a_folder_is_an_entry_like_others(folder):
    listed(folder, "path,kind", lambda number: str(number % 2))
    entry = catalog.find(f"{own.PREFIX}{folder}")
    assert (entry.primary, entry.sensitive, entry.size, entry.prepared) == ("kind", (), COUNT, None)
    assert isinstance(entry.store, Folder)
    assert dataclasses.asdict(entry.spec) == dataclasses.asdict(type(entry.spec)(entry.name))
    assert pathlib.Path(entry.name.removeprefix(own.PREFIX)) == folder
