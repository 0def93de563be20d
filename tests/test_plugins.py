"""A folder's files are imported by name, so what registers itself does so in one order, whoever was asked for first."""

import subprocess
import sys

import pytest

from ani_jax.plugins import import_all


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose files write down that they were imported; its last file needs its first."""
    folder = tmp_path / "toy_plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text("ORDER = []\n")
    for name in ("zebra", "ant", "mole"):
        (folder / f"{name}.py").write_text(f"from toy_plugins import ORDER\nORDER.append({name!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_plugins"]:
        del sys.modules[name]


def test_files_are_imported_in_alphabetical_order_and_once(package):
    import_all("toy_plugins")
    import_all("toy_plugins")
    assert sys.modules["toy_plugins"].ORDER == ["ant", "mole", "zebra"]


def test_a_package_that_imports_all_of_itself_has_one_order_whichever_file_is_asked_for_first(package):
    own = "ORDER = []\nfrom ani_jax.plugins import import_all\nimport_all(__name__)\n"
    (package / "__init__.py").write_text(own)
    __import__("toy_plugins.zebra")
    assert sys.modules["toy_plugins"].ORDER == ["ant", "mole", "zebra"]


def test_a_file_that_cannot_be_imported_is_no_secret(package):
    (package / "broken.py").write_text("import absent_library\n")
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        import_all("toy_plugins")


CODE = """
import {first}
from ani_jax.attacks.base import ATTACKS
from ani_jax.targets.base import KINDS
print([kind.__name__ for kind in KINDS], [[attack.__name__ for attack in ATTACKS[kind]] for kind in KINDS])
"""


def test_attacks_and_targets_stand_in_one_order_whichever_file_is_asked_for_first():
    said = {
        subprocess.run(
            [sys.executable, "-c", CODE.format(first=first)], capture_output=True, text=True, check=True
        ).stdout
        for first in ("ani_jax.attacks.base", "ani_jax.attacks.likelihood", "ani_jax.attacks.decoder")
    }
    assert len(said) == 1
    assert said.pop().startswith(
        "['Attribute', 'Image', 'Vector'] "
        "[['Probe', 'Reader', 'Voting', 'Discriminant', 'Likelihood', 'Boosted', 'Within'], ['Ridge', "
    )
