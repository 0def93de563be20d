"""Retired: ``experiments.frontier --depths=1,2,3`` does it."""

from experiments.flags import fail

if __name__ == "__main__":
    fail("this command is now python -m experiments.frontier --depths=1,2,3")
