import pytest

from ani_jax.attacks.base import Fits


@pytest.fixture(scope="session")
def fit():
    """Fits one attack, and whatever it builds on, with one key."""

    def one(attack, key, asked, emit=lambda event: None):
        return Fits(asked, lambda attack: key, lambda attack, event: emit(event))(attack)

    return one
