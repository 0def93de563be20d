import dataclasses

import jax
import numpy as np
import pytest

from ani_jax.data import catalog, digits


@pytest.mark.parametrize("name", catalog.names())
def test_an_entry_tells_the_truth_about_its_data(name):
    entry, data = catalog.find(name), catalog.load(name, seed=1, image_size=8)
    assert data.name == name
    assert data.primary.name == entry.primary
    assert tuple(task.name for task in data.sensitive) == entry.sensitive == tuple(data.test.sensitive)
    originals = [data.defend.stored.group, data.auxiliary.stored.group]
    originals += [part.group for part in (data.budget, data.validation, data.test)]
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
    with pytest.raises(ValueError, match=r"^dataset: 'mnist'; allowed: digits, digits-correlated$"):
        call("mnist")


def test_the_table_has_a_header_and_a_row_a_name_and_prints_nothing(capsys):
    header, *rows = catalog.table()
    assert [row[0] for row in rows] == list(catalog.names())
    assert {len(row) for row in rows} == {len(header)}
    assert all(isinstance(cell, str) and cell for row in rows for cell in row)
    assert capsys.readouterr().out == ""
