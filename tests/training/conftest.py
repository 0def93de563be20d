from tests.toys import toy, toy_batch, toy_data

__all__ = ["toy", "toy_batch", "toy_data"]
