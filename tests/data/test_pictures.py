import jax
import numpy as np
import pytest

from ani_jax.data import builders, catalog, files, pictures, prepared, splits
from ani_jax.data.files import DataError
from ani_jax.data.pictures import Spec, View
from ani_jax.data.prepared import Column
from ani_jax.data.render import Pictures
from ani_jax.defenses import registry
from ani_jax.training.loop import TrainConfig, evaluate, train
from ani_jax.types import Source
from tests.data.conftest import real, write_idx, write_picture, write_utkface
from tests.data.test_prepared import picture, store


def every_split(data):
    return [data.defend.stored, data.auxiliary.stored, data.holdout, data.validation, data.test]


def labels_of(split, primary):
    return np.asarray(split.classes[primary] if isinstance(split, Pictures) else split.label)


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_utkface(folder / "utkface", 240)
    builders.prepare("utkface", folder, folder / "data")
    return folder / "data"


def test_utkface_by_its_entry(faces_dir):
    data = catalog.load("utkface", image_size=8, data_dir=faces_dir)
    assert (data.name, data.primary.name, data.primary.class_names) == ("utkface", "gender", ("male", "female"))
    assert [task.name for task in data.sensitive] == ["race", "age"] == list(data.test.sensitive)
    assert [task.classes for task in data.sensitive] == [5, 6]
    assert data.test.image.shape[1:] == (8, 8, 3)
    for split in every_split(data):
        share = np.bincount(labels_of(split, "gender"), minlength=2) / len(labels_of(split, "gender"))
        assert np.all(np.abs(share - 0.5) < 0.08)


def test_ages_fall_into_their_bins(faces_dir):
    raw = prepared.find("utkface", faces_dir).read(("age",), 8).columns["age"]
    view = catalog.find("utkface").spec.views[0]
    years = np.array([int(name) for name in raw.names])[raw.values]
    assert np.array_equal(view.apply("utkface", raw).values, np.searchsorted([13, 20, 30, 40, 60], years, side="right"))
    with pytest.raises(DataError, match=r"dataset=utkface: age '117' in row 1 is out of range for age"):
        view.apply("utkface", Column(np.array([0, 1], np.int32), ("5", "117")))


def test_splits_are_disjoint_seeded_and_complete(faces_dir):
    one, same, other = (catalog.load("utkface", seed, 8, data_dir=faces_dir) for seed in (0, 0, 1))
    groups = [set(np.asarray(split.group).tolist()) for split in every_split(one)]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 240
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one.defend.stored.group, other.defend.stored.group)


def pixels_of(batch):
    return {image.tobytes() for image in np.asarray(batch.image)}


def test_the_vault_is_the_same_whatever_is_asked_of_it(faces_dir):
    def vault(seed=0, size=8, **asked):
        return pixels_of(catalog.load("utkface", seed, size, data_dir=faces_dir, **asked).test)

    whole = vault()
    assert whole == vault(seed=1) == vault(primary="race", sensitive=("gender",))
    assert vault(originals=200) <= whole
    assert len(vault(size=16)) == len(whole)
    practice = catalog.load("utkface", splits.PRACTICE, 8, data_dir=faces_dir)
    for split in (practice.defend, practice.auxiliary):
        assert not whole & pixels_of(split.render(jax.random.key(0), split.stored))
    for batch in (practice.holdout, practice.validation, practice.test):
        assert not whole & pixels_of(batch)


def test_tasks_may_be_chosen_and_the_splits_follow_the_primary(faces_dir):
    data = catalog.load("utkface", image_size=8, primary="race", sensitive=("gender",), data_dir=faces_dir)
    assert (data.primary.name, [task.name for task in data.sensitive]) == ("race", ["gender"])
    *rest, vault = (np.bincount(labels_of(split, "race"), minlength=5) for split in every_split(data))
    assert np.array_equal(sum(rest) + vault, np.full(5, 48))
    for counts in rest:
        assert np.all(np.abs(counts - counts.sum() * sum(rest) / sum(rest).sum()) <= 2)


def test_augmentation_is_for_the_defender_and_attackers_turn_their_own(faces_dir):
    plain, changed = (
        catalog.load("utkface", image_size=8, augment=names, data_dir=faces_dir) for names in ((), ("crop",))
    )
    assert changed.defend.render != plain.defend.render
    # Whatever the defender chose.
    assert changed.auxiliary.render == plain.auxiliary.render
    index = np.arange(20)
    for source in (changed.defend, plain.auxiliary):
        first, second = (source.batch(jax.random.key(seed), index).image for seed in (0, 1))
        assert not np.array_equal(first, second)
    drawn, stored = plain.auxiliary.batch(jax.random.key(0), index).image, plain.defend.render
    still = Source(plain.auxiliary.stored, stored).batch(jax.random.key(0), index).image
    turned = [np.array_equal(one, own[:, ::-1]) for one, own in zip(drawn, still, strict=True)]
    assert 0 < sum(turned) < 20
    assert all(mirrored or np.array_equal(*pair) for mirrored, pair in zip(turned, zip(drawn, still), strict=True))


def test_the_balance_is_that_of_the_labels(faces_dir):
    spec = catalog.find("utkface").spec
    shares = pictures.balance(spec, prepared.find("utkface", faces_dir), ("gender", "age"))
    assert shares["gender"] == {"male": 0.5, "female": 0.5}
    data = catalog.load("utkface", image_size=8, primary="age", sensitive=(), data_dir=faces_dir)
    counts = sum(np.bincount(labels_of(split, "age"), minlength=6) for split in every_split(data))
    assert list(shares["age"].values()) == pytest.approx(counts / 240)


def test_fewer_originals_are_a_sample_split_in_the_same_shares(faces_dir):
    data = catalog.load("utkface", image_size=8, originals=100, data_dir=faces_dir)
    assert sum(len(labels_of(split, "gender")) for split in every_split(data)) == 100
    assert abs(len(data.test.label) - 20) <= 2


@pytest.fixture
def people(tmp_path):
    """60 identities with 4 pictures each, two of which are the same picture under two identities."""
    import tensorflow_datasets as tfds

    rows = [
        {"image": files.encode(picture(number)), "label": number % 2, "who": f"p{number % 60}"} for number in range(240)
    ]
    rows[0]["image"] = rows[31]["image"]
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
        "who": tfds.features.Text(),
    }
    store(tmp_path, rows, features, name="people")
    return tmp_path


def test_no_identity_and_no_twin_is_in_two_splits(people):
    spec, stored = Spec("people", identity="who"), prepared.find("people", people)
    data = pictures.load(spec, stored, seed=0, image_size=8, primary="label", sensitive=())
    groups = [set(np.asarray(split.group).tolist()) for split in every_split(data)]
    # p0 and p31 share a picture, so they are one group.
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 59
    images = [np.asarray(split.image) for split in every_split(data)]
    images = [np.round(255 * one).astype(np.uint8) if one.dtype != np.uint8 else one for one in images]
    keys = [{image.tobytes() for image in split} for split in images]
    assert sum(len(key) for key in keys) == len(set.union(*keys)) == 239
    assert sum(len(split) for split in images) == 240


def test_an_identity_that_is_a_task_is_split_by_picture_and_needs_enough_of_them(people):
    stored = prepared.find("people", people)
    spec = Spec("people", identity="who", least=4)
    data = pictures.load(spec, stored, seed=0, image_size=8, primary="who", sensitive=("label",))
    assert data.primary.classes == 60
    assert len(set(labels_of(data.defend.stored, "who").tolist())) > 40
    with pytest.raises(DataError, match="dataset=people: no who has 5 pictures or more"):
        pictures.load(
            Spec("people", identity="who", least=5), stored, seed=0, image_size=8, primary="who", sensitive=()
        )


def test_rare_identities_leave_and_the_others_are_renumbered():
    column = Column(np.array([0, 1, 1, 2, 2, 2], np.int32), ("rare", "some", "many"))
    label = Column(np.array([0, 1, 0, 1, 0, 1], np.int32), ("a", "b"))
    examples = prepared.Examples(np.arange(6)[:, None, None, None], {}, np.array([0, 5, 1, 2, 2, 3]), 0)
    columns, kept = pictures._frequent(
        Spec("x", identity="who", least=2), {"who": column, "label": label}, examples, {"who": "who", "label": "label"}
    )
    assert columns["who"].values.tolist() == [0, 0, 1, 1, 1]
    assert columns["who"].names == ("some", "many")
    assert columns["label"].values.tolist() == [1, 0, 1, 0, 1]
    assert kept.image.ravel().tolist() == [1, 2, 3, 4, 5]
    assert kept.content[2] == kept.content[3]


def test_a_constant_attribute_and_too_few_pictures_are_named(tmp_path):
    for number in range(4):
        write_picture(tmp_path / f"{20 + number}_1_{number % 2}_{number}.jpg", number)
    builders.prepare("utkface", tmp_path, tmp_path / "data")
    with pytest.raises(DataError, match=r"^primary=gender: constant, all 4 pictures are 'female'; name another$"):
        catalog.load("utkface", image_size=8, data_dir=tmp_path / "data")
    with pytest.raises(DataError, match=r"^sensitive=gender: constant"):
        catalog.load("utkface", image_size=8, primary="race", sensitive=("gender",), data_dir=tmp_path / "data")
    with pytest.raises(DataError, match=r"^dataset=utkface: labels: 4 originals in 4 groups are too few"):
        catalog.load("utkface", image_size=8, primary="race", sensitive=(), data_dir=tmp_path / "data")


def test_fashion_mnist_is_painted_and_grouped(tmp_path, monkeypatch):
    write_idx(tmp_path, picture(0, (400, 28, 28)), np.arange(400) % 10, monkeypatch)
    load = {"seed": 0, "image_size": 16, "data_dir": tmp_path / "data"}
    data = catalog.load("fashion_mnist", manual_dir=tmp_path, **load)
    assert data.primary.class_names[9] == "ankle boot"
    assert [task.name for task in data.sensitive] == ["group", "ink"]
    expected = np.array([0, 1, 0, 1, 0, 2, 0, 2, 3, 2])[np.asarray(data.test.label)]
    assert np.array_equal(data.test.sensitive["group"], expected)
    index = np.arange(30)
    first, second = (data.defend.batch(jax.random.key(seed), index) for seed in (0, 1))
    assert np.array_equal(first.label, second.label)
    assert not np.array_equal(first.sensitive["ink"], second.sensitive["ink"])
    assert data.defend.stored.image.shape[-1] == 1
    drawn = catalog.load("fashion_mnist", primary="ink", sensitive=("class",), **load)
    assert drawn.primary.name == "ink"
    assert int(drawn.test.label.max()) == 3


def test_a_set_that_the_catalogue_does_not_know_needs_only_a_feature(people):
    data = catalog.load("people", image_size=8, primary="label", sensitive=("who",), data_dir=people)
    assert (data.name, data.primary.classes, data.sensitive[0].classes) == ("people", 2, 60)


def test_a_view_that_misses_a_class_is_refused():
    view = View("half", "label", (("low", ("0", "1")),))
    numbered = Column(np.array([0, 2], np.int32), ("cat", "dog", "emu"), numbered=True)
    with pytest.raises(DataError, match=r"dataset=x: label 'emu' in row 1 is out of range for half"):
        view.apply("x", numbered)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("utkface", 9572), ("fashion_mnist", 70_000)])
def test_the_real_sets_prepare_load_split_and_train(tmp_path, name, size):
    done = builders.prepare(name, real(name), tmp_path)
    assert sum(done.sizes.values()) == size
    data = catalog.load(name, data_dir=tmp_path)
    sizes = [len(labels_of(split, data.primary.name)) for split in every_split(data)]
    assert sum(sizes) == size
    groups = [set(np.asarray(split.group).tolist()) for split in every_split(data)]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert data.test.image.shape[1:] == (32, 32, 3)
    defense = registry.build("none", data.primary.classes, (32, 32, 3), width=8, steps=60, learning_rate=3e-3)
    events = []
    state = train(defense, data, TrainConfig(batch_size=32), on_event=events.append)
    losses = [event["metrics"]["loss"] for event in events if event["kind"] == "metrics"]
    assert losses[-1] < losses[0]
    majority = float(np.bincount(np.asarray(data.validation.label)).max()) / len(data.validation.label)
    assert evaluate(defense, state, data.validation, jax.random.key(0)) > majority + 0.02
