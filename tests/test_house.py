"""Promises about the tree itself: what WORKSPACE.md says is true, every file has its tests, imports stay light."""

import pathlib
import re
import subprocess
import sys

import pytest

import ani_jax

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "ani_jax").rglob("*.py"))


def test_every_path_that_workspace_names_exists():
    text = (ROOT / "WORKSPACE.md").read_text()
    named = set(re.findall(r"`((?:ani_jax|experiments|tests|\.ci)/[\w./-]*|[\w-]+\.(?:md|toml|txt))`", text))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists() and path not in GENERATED] == []


GENERATED = {"metrics.jsonl"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_library_file_is_in_workspace_and_has_tests(path):
    relative = path.relative_to(ROOT)
    if path.name == "__init__.py":
        return
    assert f"`{relative.as_posix()}`" in (ROOT / "WORKSPACE.md").read_text()
    folder = ROOT / "tests" / relative.relative_to("ani_jax").parent
    assert any(path.stem in test.stem for test in folder.glob("test_*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.name)
def test_every_command_is_in_workspace(path):
    if path.name != "__init__.py":
        assert f"`experiments/{path.name}`" in (ROOT / "WORKSPACE.md").read_text()


def test_public_names_resolve():
    for name in ani_jax.__all__:
        assert getattr(ani_jax, name) is not None
    assert set(ani_jax.__all__) <= set(dir(ani_jax))
    with pytest.raises(AttributeError, match="has no attribute 'absent'; it has Batch"):
        ani_jax.absent  # noqa: B018


def test_import_is_light():
    heavy = ["flax", "orbax", "tensorflow_datasets", "sklearn", "matplotlib", "grain"]
    code = f"import sys, ani_jax; print([name for name in {heavy!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_quick_start_is_two_commands():
    section = re.search(r"^## Quick start\s*$(.*?)(?=^## )", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\s*\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) == 2
    assert "experiments.main --defense=funnel" in blocks[0]
    assert "pytest" in blocks[1]


def test_no_file_names_a_registry():
    # Spelled so that this file does not name one itself.
    address = re.compile("|".join(("pypi" + r"\.org", "index" + "-url", "files.python" + "hosted")))
    files = [
        p
        for p in ROOT.rglob("*")
        if p.is_file()
        and ".git" not in p.relative_to(ROOT).parts[:1]
        and p.suffix in (".txt", ".toml", ".md", ".py", ".yaml")
    ]
    assert [p for p in files if address.search(p.read_text())] == []
