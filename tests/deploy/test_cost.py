"""What an artefact costs is measured where nothing else is."""

import pytest

from ani_jax.deploy import artefact, cost
from tests.deploy.exporting import folder


def test_a_process_of_its_own_measures():
    found = cost.measured(folder("memoised"))
    assert set(found) == {"p50_ms", "p95_ms", "peak_mib", "idle_mib"}
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    # Python and jax take that much; flax, optax and the rest of what trains would double it.
    assert 20 < found["idle_mib"] <= found["peak_mib"]
    artefact.Cost(1, 1, 1, 1, **found)


def test_what_cannot_be_measured_is_refused_with_its_reason(tmp_path):
    with pytest.raises(ValueError, match=f"^artefact={tmp_path}: could not be measured .*holds no exported client"):
        cost.measured(tmp_path)
