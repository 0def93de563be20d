"""One process; several are tested in test_killing.py and tests/experiments/test_together.py."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.training import processes


def test_one_process_is_the_main_one_and_agrees_with_itself():
    tree = {"x": jnp.arange(3), "key": jax.random.key(1)}
    assert processes.count() == 1
    assert processes.is_main()
    assert processes.from_main(tree) is tree
    assert processes.on_main(lambda: 5) == 5
    assert processes.share(lambda: {"loss": 0.1}) == {"loss": 0.1}
    processes.leave()


def test_an_error_of_the_main_process_stays_what_it_is():
    with pytest.raises(OSError, match="full"):
        processes.on_main(_fail)


def _fail():
    raise OSError("full")
