import dataclasses

import jax
import numpy as np
import pytest

from ani_jax.data import catalog, digits
from ani_jax.data.pictures import DRAWN
from ani_jax.data.sets import cifar, grey

EMBEDDED = [entry.name for entry in catalog.ENTRIES if entry.spec is None]


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_entry_tells_the_truth_about_its_data(name):
    entry, data = catalog.find(name), catalog.load(name, seed=1, image_size=8)
    assert data.name == name
    assert data.primary.name == entry.primary
    assert tuple(task.name for task in data.sensitive) == entry.sensitive == tuple(data.test.sensitive)
    originals = [data.defend.stored.group, data.auxiliary.stored.group]
    originals += [split.group for split in (data.holdout, data.validation, data.test)]
    assert len(np.unique(np.concatenate(originals))) == entry.size


def test_arguments_reach_the_loader():
    ours, theirs = catalog.load("digits", seed=3, image_size=8), digits.load(3, image_size=8)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def test_names_are_unique_and_entries_frozen():
    assert len(set(catalog.names())) == len(catalog.ENTRIES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog.ENTRIES[0].name = "other"


@pytest.mark.parametrize("call", [catalog.load, catalog.find])
def test_an_unknown_name_lists_the_known_ones(call):
    with pytest.raises(
        ValueError, match=r"^dataset=cats: must be one of digits, digits-correlated, .*, or any tfds name with"
    ):
        call("cats")


def test_every_data_set_of_the_issue_has_an_entry_and_a_way_to_get_it():
    wanted = {
        "mnist",
        "fashion_mnist",
        "kmnist",
        "emnist",
        "cifar10",
        "cifar100",
        "celeb_a",
        "lfw",
        "dsprites",
        "shapes3d",
    }
    assert wanted | {"utkface", "fairface", "facescrub", "orl_faces"} <= set(catalog.names()) - set(EMBEDDED)
    for entry in catalog.ENTRIES:
        read = entry.recipe is not None and entry.recipe.made_by is None
        assert ("--manual_dir" in entry.obtain) >= read
        assert ("tf extra" in entry.obtain) == (entry.spec is not None and entry.recipe is None and entry.store is None)
        assert (entry.spec is None) == (entry.embedded is not None)


@pytest.mark.parametrize(
    "entry", [entry for entry in catalog.ENTRIES if entry.recipe is not None], ids=lambda entry: entry.name
)
def test_an_entry_agrees_with_its_recipe(entry):
    assert entry.prepared == entry.name
    features, drawn = set(entry.recipe.features()), set(DRAWN) if entry.spec.painted else set()
    assert "image" in features
    views = {view.name: view for view in entry.spec.views}
    for name in (entry.primary, *entry.sensitive, *entry.others):
        assert views[name].feature in features if name in views else name in features | drawn
    assert {entry.spec.identity} <= features | {None}
    assert entry.recipe.origin.startswith("http")
    assert entry.licence.endswith(")")
    assert all(entry.recipe.needs)


@pytest.mark.parametrize("module", [grey, cifar])
def test_every_official_file_that_a_recipe_needs_has_a_checksum(module):
    recipes = {entry.name: entry.recipe for entry in module.ENTRIES if entry.recipe is not None}
    assert set(recipes) == set(module.SHA256)
    for name, sums in module.SHA256.items():
        assert recipes[name].needs == tuple((file,) for file in sums)
        assert all(len(value) == 64 and int(value, 16) for value in sums.values())


@pytest.mark.parametrize("entry", catalog.ENTRIES, ids=lambda entry: entry.name)
def test_a_view_gives_every_class_of_its_feature_one_place(entry):
    counts = {"label": 10, "coarse_label": 20, "age": 117}
    for view in entry.spec.views if entry.spec else ():
        sources = [source for _, group in view.classes for source in group]
        assert sorted(sources, key=int) == [str(number) for number in range(counts[view.feature])]


@pytest.mark.parametrize(
    ("primary", "sensitive", "chosen"),
    [
        (None, None, ("class", ("group", "ink"))),
        ("group", None, ("group", ("ink",))),
        ("ink", ["class", "paper"], ("ink", ("class", "paper"))),
        (None, [], ("class", ())),
    ],
)
def test_tasks_are_the_given_ones_or_the_entrys(primary, sensitive, chosen):
    assert catalog.find("fashion_mnist").tasks(primary, sensitive) == chosen


@pytest.mark.parametrize(
    ("primary", "sensitive", "message"),
    [
        ("age", None, r"^primary=age: must be one of digit, ink, paper for digits$"),
        (None, ["age"], r"^sensitive=age: must be one of digit, ink, paper for digits$"),
        ("ink", ["ink"], r"^sensitive=ink: is the primary task or named twice"),
        (None, ["ink", "ink"], r"^sensitive=ink: is the primary task or named twice"),
    ],
)
def test_tasks_that_do_not_exist_or_repeat_are_refused(primary, sensitive, message):
    with pytest.raises(ValueError, match=message):
        catalog.load("digits", image_size=8, primary=primary, sensitive=sensitive)


def test_digits_may_have_another_task():
    data = catalog.load("digits", image_size=8, primary="paper", sensitive=("digit",))
    assert (data.primary, data.sensitive) == (digits.PAPER, (digits.DIGIT,))
    assert len(np.unique(data.test.label)) == 4


def test_the_table_has_a_header_and_a_row_a_name_and_prints_nothing(capsys):
    header, *rows = catalog.table()
    assert [row[0] for row in rows] == list(catalog.names())
    assert {len(row) for row in rows} == {len(header)}
    assert all(isinstance(cell, str) and cell for row in rows for cell in row)
    assert capsys.readouterr().out == ""
