import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ani_jax.data import splits

SEEDS = st.integers(0, 2**32)


@st.composite
def label_sets(draw):
    classes = draw(st.integers(1, 8))
    return np.array(draw(st.lists(st.integers(0, classes - 1), min_size=300, max_size=500)))


def sizes_of(dealt):
    return {name: len(index) for name, index in dealt.items()}


def test_fractions_are_those_of_the_threat_model():
    assert dict(splits.FRACTIONS) == pytest.approx(
        {"defend": 0.36, "holdout": 0.04, "auxiliary": 0.30, "validation": 0.10, "test": 0.20}
    )
    assert sum(splits.FRACTIONS.values()) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(SEEDS, label_sets())
def test_disjoint_complete_and_stratified_within_rounding(seed, labels):
    dealt = splits.split(seed, labels)
    assert sorted(np.concatenate(list(dealt.values()))) == list(range(len(labels)))
    for name, index in dealt.items():
        assert np.all(np.diff(index) > 0)
        assert abs(len(index) - splits.FRACTIONS[name] * len(labels)) < 4
        for label in np.unique(labels):
            ideal = splits.FRACTIONS[name] * np.sum(labels == label)
            assert abs(np.sum(labels[index] == label) - ideal) < 1 + 1e-6


@settings(max_examples=25, deadline=None)
@given(SEEDS, SEEDS, label_sets())
def test_the_seed_decides_who_goes_where_but_not_how_many(seed, other, labels):
    dealt, again, others = (splits.split(s, labels) for s in (seed, seed, other))
    assert all(np.array_equal(dealt[name], again[name]) for name in dealt)
    assert sizes_of(dealt) == sizes_of(others)
    if seed != other:
        assert not np.array_equal(dealt["defend"], others["defend"])


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 9), min_size=150, max_size=200), st.integers(1, 4))
def test_groups_stay_whole_and_near_their_share(seed, sizes, classes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = groups % classes
    dealt = splits.split(seed, labels, groups)
    assert sorted(np.concatenate(list(dealt.values()))) == list(range(len(labels)))
    owners = [set(groups[index]) for index in dealt.values()]
    assert sum(len(owner) for owner in owners) == len(sizes)
    for name, index in dealt.items():
        for label in range(classes):
            ideal = splits.FRACTIONS[name] * np.sum(labels == label)
            assert abs(np.sum(labels[index] == label) - ideal) <= max(sizes) + 1


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_move_a_group(seed, random):
    groups = np.repeat(np.arange(120), 3)
    labels = np.arange(360) % 2
    order = np.array(random.sample(range(360), 360))
    dealt = splits.split(seed, labels, groups)
    shuffled = splits.split(seed, labels[order], groups[order])
    for name, index in dealt.items():
        assert set(groups[index]) == set(groups[order][shuffled[name]])


def test_group_names_may_be_strings():
    names = np.array([f"person-{i % 60:02d}" for i in range(240)])
    numbers = np.array([int(name[-2:]) for name in names])
    by_name, by_number = (splits.split(3, numbers % 2, groups) for groups in (names, numbers))
    assert all(np.array_equal(by_name[name], by_number[name]) for name in by_name)


def test_a_group_counts_under_its_most_frequent_label_and_the_smallest_of_equals():
    owner = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    labels = np.array([1, 5, 5, 7, 2, 3, 3, 0, 0])
    assert splits._majority_label(labels, owner, 3).tolist() == [5, 2, 0]


def test_many_tiny_classes_do_not_starve_a_split():
    dealt = splits.split(0, np.repeat(np.arange(200), 2))
    for name, index in dealt.items():
        assert abs(len(index) - 400 * splits.FRACTIONS[name]) < 6


CONTENT = [f"original {number}".encode() for number in range(500)]


def test_content_alone_decides_what_is_locked():
    vault = splits.locked(CONTENT)
    assert abs(vault.mean() - 0.2) < 5 * np.sqrt(0.16 / len(vault))
    order = np.random.default_rng(0).permutation(500)[:200]
    assert np.array_equal(splits.locked([CONTENT[row] for row in order]), vault[order])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, splits.PRACTICE - 1), st.integers(splits.PRACTICE, 2**32), st.integers(2, 9))
def test_reports_test_on_the_vault_and_practice_leaves_it_out(seed, practice, classes):
    vault, labels = splits.locked(CONTENT), np.arange(500) % classes
    dealt, other = splits.split(seed, labels, vault=vault), splits.split(practice, labels, vault=vault)
    assert np.array_equal(dealt["test"], np.flatnonzero(vault))
    assert sorted(np.concatenate(list(dealt.values()))) == list(range(500))
    assert sorted(np.concatenate(list(other.values()))) == np.flatnonzero(~vault).tolist()
    for found, whole in ((dealt, 0.8), (other, 1.0)):
        for name in ("defend", "auxiliary", "validation"):
            assert abs(len(found[name]) - splits.FRACTIONS[name] / whole * (~vault).sum()) < 4


def test_a_group_is_locked_as_a_whole():
    groups = np.arange(500) // 5
    vault = np.zeros(500, bool)
    vault[::50] = True
    assert np.array_equal(splits.split(0, groups % 3, groups, vault)["test"], np.flatnonzero(groups % 10 == 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, np.arange(100) % 2), r"seed: -1; allowed"),
        ((0, np.zeros((10, 2), int)), r"labels: shape \(10, 2\)"),
        ((0, np.zeros(100)), r"labels: shape \(100,\) of float64"),
        ((0, np.zeros(100, int), np.zeros(99, int)), r"groups: shape \(99,\); allowed: that of labels, \(100,\)"),
        ((0, np.zeros(100, int), None, np.ones(99, bool)), r"vault: shape \(99,\); allowed: that of labels, \(100,\)"),
        ((0, np.zeros(8, int)), r"8 originals in 8 groups are too few, 'holdout' would be empty"),
        ((0, np.zeros(100, int), np.arange(100) // 50), r"100 originals in 2 groups are too few"),
        ((0, np.zeros(0, int)), r"0 originals in 0 groups are too few"),
    ],
)
def test_errors_are_one_line_that_names_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        splits.split(*arguments)
    assert "\n" not in str(caught.value)
