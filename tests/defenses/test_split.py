"""A split is what it says, cut where it says; what baselines add is theirs."""

import jax
import jax.numpy as jnp
import numpy as np

from ani_jax.defenses import registry
from ani_jax.defenses.split import Split
from tests.defenses import baselines


def test_its_shape_is_known_before_there_are_weights():
    for depth, shape in ((1, (4, 4, 2)), (2, (2, 2, 4)), (3, (1, 1, 4))):
        assert baselines.built("nopeek", depth=depth).feature_shape == shape


def test_the_edge_s_features_are_those_that_the_client_has_before_it_protects():
    defense = baselines.built("erasure")
    state, x = baselines.fresh(defense), baselines.pictures().image[:4]
    client = {"params": state.params["client"], "batch_stats": state.statistics["client"]}
    silent = client["batch_stats"] | {"erase": jax.tree.map(jnp.zeros_like, client["batch_stats"]["erase"])}
    sent = defense.client.apply({**client, "batch_stats": silent}, x, None, train=False).z
    np.testing.assert_allclose(defense.features(state, x), sent, rtol=1e-5, atol=1e-6)


def test_most_baselines_are_splits_of_one_size():
    splits = [name for name, kind in registry.DEFENSES.items() if issubclass(kind, Split) and name != "none"]
    assert len(splits) == 14
    assert {(registry.options(name)["width"], registry.options(name)["depth"]) for name in splits} == {(16, 3)}
