"""Files that are no recorded pairs: name -> what writes one into a folder, and a part of the line that refuses it."""

import pathlib
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 240


def rows():
    """Pairs as they should be: a vector, of which a part is sent, and a city that two of its numbers tell."""
    rng = np.random.default_rng(0)
    city, label = rng.integers(0, 3, ROWS), rng.integers(0, 2, ROWS)
    x = rng.normal(size=(ROWS, 6)).astype(np.float32) + 2 * np.eye(6, dtype=np.float32)[city]
    return {
        "z": x[:, :4],
        "x": x,
        "split": np.repeat([0, 1, 2], [150, 40, 50]),
        "s_city": np.array(["Bern", "Lyon", "Rome"])[city],
        "label": label,
        "answer": label,
    }


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (pathlib.Path.touch, (self.folder / "sprung",))


def npz(**changes):
    """Writes the rows with some columns changed; a column that is None is left out."""

    def make(folder):
        columns = {**rows(), **{name: one(folder) if callable(one) else one for name, one in changes.items()}}
        np.savez(folder / "bad.npz", **{name: one for name, one in columns.items() if one is not None})
        return folder / "bad.npz"

    return make


def parquet(**changes):
    def make(folder):
        columns = {name: pa.array(list(values)) for name, values in rows().items()} | changes
        pq.write_table(pa.table(columns), folder / "bad.parquet")
        return folder / "bad.parquet"

    return make


def written(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def scripted(folder):
    """A member that is a pickle by itself, under the name of an array."""
    import pickle

    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("z.npy", pickle.dumps(Trap(folder)))
    return folder / "bad.npz"


Z = rows()["z"]
MALFORMED = {
    "no z": (npz(z=None), "z: is missing among answer, label, s_city, split, x"),
    "no rows": (npz(**{name: values[:0] for name, values in rows().items()}), "z: shape (0, 4)"),
    "no numbers": (npz(z=Z[:, :0]), f"z: shape ({ROWS}, 0)"),
    "not a number": (npz(z=np.where(np.arange(ROWS)[:, None] == 7, np.nan, Z)), "z: row 7 is not"),
    "infinite": (npz(z=np.where(np.arange(ROWS)[:, None] == 9, 1e300, 0.0)), "z: row 9 is not"),
    "text in z": (npz(z=np.full((ROWS, 2), "a")), "of numbers"),
    "complex": (npz(z=Z.astype(np.complex64)), "z: holds complex64"),
    "too short": (npz(s_city=rows()["s_city"][:-1]), f"s_city: shape ({ROWS - 1},)"),
    "x of another length": (npz(x=rows()["x"][:-1]), "x: shape"),
    "one class": (npz(s_city=np.zeros(ROWS, int)), "s_city: has one class, 0"),
    "one class in test": (
        npz(s_city=(rows()["split"] < 2) * (np.arange(ROWS) % 2)),
        "s_city: one class in all test rows",
    ),
    "negative split": (npz(split=rows()["split"] - 1), "split: -1 to 1"),
    "no test": (npz(split=np.minimum(rows()["split"], 1)), "split: 0 rows of 2 (test)"),
    "fractions as classes": (npz(s_city=Z[:, 0]), "s_city: has float32"),
    "nothing to hide": (npz(s_city=None, x=None), "s_NAME: no attribute, and no x"),
    "objects": (npz(s_city=rows()["s_city"].astype(object)), "s_city: holds objects"),
    "ragged": (npz(z=np.array([[1.0], *[[1.0, 2.0]] * (ROWS - 1)], object)), "z: holds objects"),
    "a pickle in an array": (npz(z=lambda folder: np.array([Trap(folder)] * ROWS, object)), "z: holds objects"),
    "a pickle for an array": (scripted, "cannot be read"),
    "no archive": (written("bad.npz", b"Once upon a time"), "cannot be read"),
    "no table": (written("bad.parquet", b"Once upon a time"), "cannot be read"),
    "another format": (written("bad.csv", b"z,s_city\n1,Rome\n"), "ends in '.csv'"),
    "no file": (lambda folder: folder / "absent.npz", "no such file"),
    "ragged lists": (parquet(z=pa.array([[1.0], *[[1.0, 2.0]] * (ROWS - 1)])), "z: rows of 1 to 2 numbers"),
    "a missing value": (parquet(s_city=pa.array([None, *rows()["s_city"][1:].tolist()])), "s_city: has 1 missing"),
    "structs": (parquet(z=pa.array([{"a": 1}] * ROWS)), "z: holds struct"),
}
