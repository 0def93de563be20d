"""Retired: ``experiments.report --by=seed`` does it."""

from experiments.flags import fail

if __name__ == "__main__":
    fail("this command is now python -m experiments.report --by=seed")
