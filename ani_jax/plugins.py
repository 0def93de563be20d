"""A method is a file: what registers itself is known once the files of its package are imported."""

import importlib
import pkgutil


def import_all(package: str) -> None:
    """Imports every file of a package, in alphabetical order, which is then the order of what they register.

    Args:
        package: its full name.

    Example:
        >>> import_all("ani_jax.targets")
    """
    for found in sorted(pkgutil.iter_modules(importlib.import_module(package).__path__), key=lambda found: found.name):
        importlib.import_module(f"{package}.{found.name}")
