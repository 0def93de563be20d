"""Rows that were recorded: read in every form that they come in, dealt by group, and refused in one line."""

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ani_jax.data.files import DataError
from ani_jax.data.pairs import Pairs, numbers
from tests.data.malformed import MALFORMED, ROWS, rows


def loaded(columns, **most):
    return Pairs.of(columns).data(**{"auxiliary": 10**6, "validation": 10**6, "test": 10**6, **most})[0]


def test_numbers_of_every_kind_are_told_as_they_are():
    z = np.random.default_rng(0).normal(size=(ROWS, 3, 5)).astype(np.float32)
    short = z.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(numbers(short.view(np.uint16), bfloat16=True), short.astype(np.float32))
    flags = z.reshape(ROWS, -1) > 0
    np.testing.assert_array_equal(numbers(np.packbits(flags, axis=1), bits=15), flags)
    for kind in (np.float16, np.float64, np.int8, np.uint8, bool):
        values = (100 * z).astype(kind)
        np.testing.assert_array_equal(numbers(values), values.astype(np.float32))


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_file_is_what_was_written(tmp_path, ending):
    columns = rows()
    path = tmp_path / f"mine.{ending}"
    if ending == "npz":
        np.savez(path, **columns)
    else:
        pq.write_table(pa.table({name: pa.array(list(values)) for name, values in columns.items()}), path)
    read, whole = Pairs.read(path), Pairs.of(columns)
    assert read.name == "mine"
    assert read.tasks == whole.tasks
    for one, other in zip((read.data(99, 99, 99)), (whole.data(99, 99, 99)), strict=True):
        if isinstance(one, int):
            assert one == other
            continue
        np.testing.assert_array_equal(one.test.z, other.test.z)
        np.testing.assert_array_equal(one.auxiliary.stored.image, other.auxiliary.stored.image)
        np.testing.assert_array_equal(one.validation.sensitive["city"], other.validation.sensitive["city"])


def test_splits_are_those_of_the_file():
    columns = rows()
    data = loaded(columns)
    for number, batch in enumerate((data.auxiliary.stored, data.validation, data.test)):
        own = columns["split"] == number
        np.testing.assert_array_equal(batch.z, columns["z"][own])
        np.testing.assert_array_equal(
            np.array(data.sensitive[0].class_names)[batch.sensitive["city"]], columns["s_city"][own]
        )
        np.testing.assert_array_equal(batch.label, columns["label"][own])
        np.testing.assert_array_equal(batch.answer, columns["answer"][own])


def test_absent_splits_are_dealt_by_group():
    columns = {**rows(), "group": np.repeat(np.arange(ROWS // 4), 4)}
    del columns["split"]
    seeds = [loaded(columns), loaded(columns), Pairs.of(columns).data(10**6, 10**6, 10**6, seed=1)[0]]
    for data in seeds:
        sizes = [len(batch.label) for batch in (data.auxiliary.stored, data.validation, data.test)]
        assert np.abs(np.array(sizes) / ROWS - (0.7, 0.1, 0.2)).max() <= 4 / ROWS
        groups = [set(np.asarray(batch.group)) for batch in (data.auxiliary.stored, data.validation, data.test)]
        assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    np.testing.assert_array_equal(seeds[0].test.z, seeds[1].test.z)
    assert not np.array_equal(seeds[0].test.z[:20], seeds[2].test.z[:20])


def test_no_more_rows_are_loaded_than_are_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", **rows())
    pairs = Pairs.read(tmp_path / "a.npz")
    assert isinstance(pairs.z, np.memmap)
    data, originals = pairs.data(50, 30, 40)
    assert [len(b.z) for b in (data.auxiliary.stored, data.validation, data.test)] == [50, 30, 40]
    assert originals == (rows()["split"] == 0).sum()


def test_what_was_not_recorded_is_of_no_numbers_and_said():
    columns = {"z": rows()["z"], "s_city": rows()["s_city"]}
    data = loaded(columns)
    assert data.test.image.shape == (len(data.test.label), 0)
    assert (data.primary.classes, data.test.answer, data.test.group) == (1, None, None)
    assert "x was not recorded" in Pairs.of(columns).notes[0]
    assert Pairs.of(rows()).notes == ()
    shared = {**rows(), "group": np.arange(ROWS) % 7}
    assert "7 groups have rows in test and among those" in Pairs.of(shared).notes[0]


def test_vectors_are_told_in_units_of_their_own_spread_and_images_in_0_to_1():
    columns = rows()
    small, large = (loaded({**columns, "x": scale * columns["x"]}).test.image for scale in (1, 1000))
    np.testing.assert_allclose(small, large, rtol=1e-4)
    bytes_ = np.random.default_rng(0).integers(0, 256, (ROWS, 4, 4, 1), np.uint8)
    np.testing.assert_allclose(
        loaded({**columns, "x": bytes_}).test.image, bytes_[columns["split"] == 2] / 255, rtol=1e-6
    )


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_pairs_file_is_refused_in_one_line(tmp_path, name):
    make, said = MALFORMED[name]
    path = make(tmp_path)
    with pytest.raises(DataError) as error:
        Pairs.read(path).data(100, 100, 100)
    told = str(error.value)
    assert "\n" not in told
    assert told.startswith((f"pairs={path}: ", f"pairs={path.stem}: "))
    assert said in told
    assert not (tmp_path / "sprung").exists()


def test_columns_that_do_not_fit_one_another_are_refused():
    for more, said in (
        ({"label": None}, "answer: stands without label"),
        ({"answer": np.array(["yes"] * ROWS)}, "answer: holds"),
        ({"z": np.zeros((ROWS, 3), np.uint16)}, "z_dtype missing"),
        ({"z_dtype": np.array("bfloat16")}, "bits of bfloat16 must be uint16"),
        ({"z_dtype": np.array("float8")}, "z_dtype: float8"),
        ({"z": np.zeros((ROWS, 3), np.uint8), "z_bits": np.array(25)}, "z_bits: 25 in 24 bits"),
        ({"x": np.zeros((ROWS, 3, 3))}, "x: shape"),
        ({"x": np.full((ROWS, 3, 3, 1), 1.5)}, "leaves"),
        ({"s_city": np.arange(ROWS) - 1}, "s_city: has a class -1"),
    ):
        columns = {name: values for name, values in {**rows(), **more}.items() if values is not None}
        with pytest.raises(DataError, match=said.replace("leaves", "x: row 0 is not")):
            Pairs.of(columns)
