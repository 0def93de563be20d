import jax
import jax.numpy as jnp
import pytest

from ani_jax.losses import checks


def test_require_names_the_argument_its_value_and_what_is_allowed():
    checks.require(True, "clip", 1, "above 0")
    with pytest.raises(ValueError, match=r"^clip=-1: must be above 0$"):
        checks.require(False, "clip", -1, "above 0")


@pytest.mark.parametrize(("given", "computed"), [("bfloat16", "float32"), ("int32", "float32"), ("float32", "float32")])
def test_floating_is_at_least_float32(given, computed):
    assert checks.floating(jnp.ones(3, given)).dtype == computed


def test_floating_keeps_float64():
    with jax.enable_x64(True):
        assert checks.floating(jnp.ones(3, "float64")).dtype == "float64"


def test_shapes():
    x, z = jnp.ones((2, 3)), jnp.ones((3, 2))
    checks.require_rank(x, "x", 2, 3)
    with pytest.raises(ValueError, match=r"x.shape=\(2, 3\): must be of rank 3 or 4"):
        checks.require_rank(x, "x", 3, 4)
    with pytest.raises(ValueError, match=r"x.shape=\(2, 3\): must be z's, \(3, 2\)"):
        checks.require_same_shape(x, "x", z, "z")
    with pytest.raises(ValueError, match=r"len\(x\)=2: must be z's, 3"):
        checks.require_batch(x, "x", z, "z")
    with pytest.raises(ValueError, match=r"z.shape=.* rank 1 or more"):
        checks.require_batch(x, "x", jnp.ones(()), "z")
