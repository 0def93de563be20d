"""The toy defence and its data, as the tests of training have them."""

from tests.training.conftest import toy, toy_batch, toy_data

__all__ = ["toy", "toy_batch", "toy_data"]
