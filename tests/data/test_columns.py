"""Files of arrays: what they hold comes back, stored arrays stay in them, and nothing in them is run."""

import pathlib
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ani_jax.data.columns import read
from ani_jax.data.files import DataError

ARRAYS = {
    "z": np.arange(24, dtype=np.float16).reshape(4, 3, 2),
    "turned": np.asfortranarray(np.arange(12, dtype=">i4").reshape(4, 3)),
    "s_city": np.array(["a", "bcd", "é", "f"]),
    "one": np.array(7),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_archive_come_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read(tmp_path / "a.npz")
    assert set(found) == set(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert isinstance(found["z"], np.memmap) == (save is np.savez)
    assert set(read(tmp_path / "a.npz", lambda name: name == "z")) == {"z"}


def test_columns_of_a_table_come_back(tmp_path):
    nested = pa.array(ARRAYS["z"].astype(np.float32).tolist(), pa.list_(pa.list_(pa.float32(), 2)))
    columns = {
        "z": nested,
        "code": pa.array([b.tolist() for b in np.eye(4, dtype=np.uint8)], pa.list_(pa.uint8())),
        "s_city": pa.array(ARRAYS["s_city"].tolist()).dictionary_encode(),
        "group": pa.array([1, 1, 2, 2]),
    }
    table = pa.table(columns).replace_schema_metadata({"z_bits": "12"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    found = read(tmp_path / "a.parquet")
    np.testing.assert_array_equal(found["z"], ARRAYS["z"])
    assert found["z"].dtype == np.float32
    np.testing.assert_array_equal(found["code"], np.eye(4))
    assert found["code"].dtype == np.uint8
    np.testing.assert_array_equal(found["s_city"], ARRAYS["s_city"])
    np.testing.assert_array_equal(found["group"], [1, 1, 2, 2])
    assert str(found["z_bits"]) == "12"


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "a.npz", z=np.array([Trap()], object))
    with pytest.raises(DataError, match=r"^z: holds objects, which would have to be unpickled"):
        read(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "b.npz")
    assert not (tmp_path / "sprung").exists()


def test_what_is_cut_short_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", z=np.zeros((100, 100)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for name in ("cut.npz", "cut.parquet"):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)
    # A header that claims more than there is.
    (tmp_path / "lie.npz").write_bytes(whole.replace(b"(100, 100)", b"(900, 100)"))
    with pytest.raises(DataError, match="its header says 720,000 bytes"):
        read(tmp_path / "lie.npz")
