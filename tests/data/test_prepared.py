import numpy as np
import pytest

from ani_jax.data import builders, files, prepared
from ani_jax.data.files import DataError
from tests.data.conftest import write_idx


def store(folder, rows, features, name="anything", config=None):
    """Prepares rows as any tfds builder would."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")
        pkg_dir_path = None
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": enumerate(rows[::2]), "test": enumerate(rows[1::2])}

        def _generate_examples(self):
            raise NotImplementedError

    Builder.name = name
    tfds.disable_progress_bar()
    Builder(data_dir=folder, file_format="array_record").download_and_prepare()


def picture(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def nested(tmp_path):
    """As celeb_a: nested booleans, an integer identity, a text; not square."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(10, 8, 3)),
        "attributes": {"Male": np.bool_, "Young": np.bool_},
        "identity": {"Number": np.int64},
        "name": tfds.features.Text(),
        "box": tfds.features.Tensor(shape=(2,), dtype=np.float32),
    }
    rows = [
        {
            "image": files.encode(picture(number // 2, (10, 8, 3))),
            "attributes": {"Male": number % 2 == 0, "Young": number % 3 == 0},
            "identity": {"Number": 100 + number % 4},
            "name": f"n{number % 5}",
            "box": np.zeros(2, np.float32),
        }
        for number in range(12)
    ]
    store(tmp_path, rows, features)
    return tmp_path


def test_features_are_found_by_path_or_last_part_and_become_classes(nested):
    found = prepared.find("anything", nested).read(("Male", "attributes/Young", "identity/Number", "name"), 8)
    assert {key: column.names for key, column in found.columns.items()} == {
        "Male": ("no", "yes"),
        "attributes/Young": ("no", "yes"),
        "identity/Number": ("100", "101", "102", "103"),
        "name": ("n0", "n1", "n2", "n3", "n4"),
    }
    male, number = found.columns["Male"].values, found.columns["identity/Number"].values
    assert np.array_equal(male, number % 2 == 0)
    assert found.image.dtype == np.uint8
    assert found.skipped == 0


def test_pictures_are_cropped_to_their_centre_and_twins_are_told_by_full_pixels(nested):
    found = prepared.find("anything", nested).read(("Male",), 8)
    expected = {picture(seed, (10, 8, 3))[1:9].tobytes() for seed in range(6)}
    assert {image.tobytes() for image in found.image} == expected
    assert np.unique(found.content, return_counts=True)[1].tolist() == [2] * 6
    by_twin = {}
    for image, twin in zip(found.image, found.content):
        by_twin.setdefault(twin, set()).add(image.tobytes())
    assert all(len(images) == 1 for images in by_twin.values())


def test_scaling_keeps_the_mean_and_the_constant(tmp_path):
    import tensorflow_datasets as tfds

    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).astype(np.uint8)
    rows = [{"image": files.encode(pixels), "label": 0} for pixels in (smooth, np.full((64, 64, 1), 77, np.uint8))]
    store(
        tmp_path,
        rows,
        {"image": tfds.features.Image(shape=(64, 64, 1)), "label": tfds.features.ClassLabel(num_classes=2)},
    )
    small = prepared.find("anything", tmp_path).read(("label",), 16).image
    assert small.shape == (2, 16, 16, 1)
    assert abs(float(small[0].mean()) - smooth.mean()) < 1
    assert np.all(small[1] == 77)


def test_the_limit_takes_evenly_from_all_splits(nested):
    assert len(prepared.find("anything", nested).read((), 8, limit=6).image) == 6
    assert len(prepared.find("anything", nested).read((), 8, limit=100).image) == 12


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            ("Beard",),
            r"has no feature 'Beard'; it has image, attributes/Male|has no feature 'Beard'; it has .*attributes/Male",
        ),
        (("box",), r"feature 'box' is no class \(shape \(2,\), float32\)"),
    ],
)
def test_features_that_are_no_task_are_named(nested, features, message):
    with pytest.raises(DataError, match=message):
        prepared.find("anything", nested).read(features, 8)


def test_labels_out_of_range_a_missing_set_and_a_foreign_format(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.Scalar(np.int64)}
    rows = [{"image": files.encode(picture(number)), "label": number - 1} for number in range(4)]
    store(tmp_path, rows, features)
    column = prepared.find("anything", tmp_path).read(("label",), 8).columns["label"]
    assert column.names == ("-1", "0", "1", "2")
    labelled = {**features, "label": tfds.features.ClassLabel(num_classes=3)}
    store(tmp_path, rows, labelled, name="unlabelled")
    with pytest.raises(DataError, match=r"dataset=unlabelled: label -1 in row \d is out of range; allowed: 0 to 2"):
        prepared.find("unlabelled", tmp_path).read(("label",), 8)
    with pytest.raises(
        DataError, match=r"dataset=absent: not prepared under .*--dataset=absent --data_dir=.*--manual_dir"
    ):
        prepared.find("absent", tmp_path).read((), 8)


def test_our_idx_data_comes_back_pixel_for_pixel(tmp_path, monkeypatch):
    images = picture(0, (30, 28, 28))
    write_idx(tmp_path, images, np.arange(30) % 10, monkeypatch)
    builders.prepare("fashion_mnist", tmp_path, tmp_path / "data")
    found = prepared.find("fashion_mnist", tmp_path / "data").read(("label",), 28)
    stored = {image.tobytes(): int(label) for image, label in zip(found.image, found.columns["label"].values)}
    assert stored == {image.tobytes(): number % 10 for number, image in enumerate(images)}
    assert found.columns["label"].numbered


def test_a_format_that_needs_tensorflow_is_named(nested):
    info = nested / "anything" / "1.2.3" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        DataError, match=r"dataset=anything: prepared as tfrecord in .*; prepare it again as array_record"
    ):
        prepared.find("anything", nested)


def test_damaged_pictures_are_skipped_and_counted_up_to_a_limit(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=20)}
    rows = [{"image": files.encode(picture(number)), "label": number} for number in range(20)]
    for row in rows[:4]:
        row["image"] = row["image"][:60]
    store(tmp_path, rows, features)
    found = prepared.find("anything", tmp_path).read(("label",), 8)
    assert found.skipped == 4
    expected = {picture(number).tobytes(): number for number in range(4, 20)}
    assert {image.tobytes(): int(label) for image, label in zip(found.image, found.columns["label"].values)} == expected
    for row in rows[:11]:
        row["image"] = row["image"][:60]
    store(tmp_path, rows, features, name="worse")
    with pytest.raises(DataError, match=r"^dataset=worse: 11 of 20 pictures cannot be decoded \(first: train row 0 \+"):
        prepared.find("worse", tmp_path).read(("label",), 8)
