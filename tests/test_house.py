"""Promises about the tree itself: WORKSPACE.md is true, its recipes work, the house is no harder to live in than it was."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax
import pytest

import ani_jax

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "ani_jax").rglob("*.py"))
WORKSPACE = (ROOT / "WORKSPACE.md").read_text()
GENERATED = {"config.json", "metrics.jsonl", "evidence.json", "timing.json", "report.html"}


def test_every_path_that_workspace_names_exists():
    named = set(re.findall(r"`((?:ani_jax|experiments|tests|docs|\.ci)/[\w./-]*|[\w-]+\.(?:md|toml|txt))`", WORKSPACE))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists() and path not in GENERATED] == []


def test_every_folder_is_in_workspace_and_the_page_is_short():
    folders = {path.parent.relative_to(ROOT) for path in LIBRARY} | {pathlib.Path("experiments"), pathlib.Path("docs")}
    top = {folder for folder in folders if len(folder.parts) == 2 or folder.parts[0] != "ani_jax"}
    assert [str(folder) for folder in sorted(top) if f"`{folder.as_posix()}/`" not in WORKSPACE] == []
    assert len(WORKSPACE.encode()) <= 8 * 1024


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_library_file_says_what_it_is_for_and_has_tests(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "its first line"
    if path.name != "__init__.py":
        folder = ROOT / "tests" / path.relative_to(ROOT / "ani_jax").parent
        assert any(path.stem in test.stem for test in folder.glob("test_*.py"))


@pytest.fixture(scope="module")
def census():
    spec = importlib.util.spec_from_file_location("census", ROOT / "tests" / "census.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_house_is_no_harder_to_live_in(census):
    counted = census.census(ROOT)
    # Of the lines of experiments, 500 are the gate's and the three commands that take a client to a device.
    limits = {
        "branches on the target": 0,
        "parameters of train": 5,
        "functions that take data folders": 4,
        "lines of experiments outside the benchmark": 2010,
        "of these named once": 60,
        "nine in ten functions are under": 60,
        "WORKSPACE.md, bytes": 8192,
    }
    assert {name: counted[name] for name, limit in limits.items() if counted[name] > limit} == {}
    assert 0.02 <= counted["comment share of the library"] <= 0.05
    assert not any(name.startswith("*") for name in census.parameters_of_train(census.sources(ROOT, "ani_jax")))


def test_the_census_sees_what_it_counts(census):
    """Each kind of branch and of parameter, so that a count of 0 means something."""
    code = """
def told(evidence, target, data_dir=None):
    if target == "image":
        return 1
    if isinstance(target, Image):
        return 2
    if evidence.target != "image":
        return 3
    if target in ("image", "ink"):
        return 4
    match target:
        case Image():
            return _once(target)

def _once(x):
    # A reason.
    return x
"""
    files = {pathlib.Path("ani_jax/reporting/x.py"): ast.parse(code)}
    assert len(census.branches_on_the_target(files)) == 5
    assert census.takes_folders(files) == ["ani_jax/reporting/x.py:told"]
    assert census.private(files) == (["ani_jax/reporting/x.py:_once"],) * 2


RECIPES = re.findall(r"^```python\n(.*?)^```", WORKSPACE, re.M | re.S)
LAUNCH = "import runpy, sys, coarse, centroid; runpy.run_module(f'experiments.{sys.argv.pop(1)}', run_name='__main__')"
"""What a newcomer's own start looks like: the files of the methods are imported, and nothing else of the house is touched."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command that knows WORKSPACE's two recipes, each as the one file that a newcomer writes; what it printed."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, source in zip(("coarse", "centroid"), RECIPES, strict=True):
        (folder / f"{name}.py").write_text(source)
    places = os.pathsep.join((str(folder), str(ROOT)))
    cache = str(jax.config.jax_compilation_cache_dir)
    environment = {
        **os.environ,
        "PYTHONPATH": places,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }

    def run(*arguments):
        command = [sys.executable, "-c", LAUNCH, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_a_defence_and_an_attack_are_a_file_each(run):
    """The recipes go through main, table, audit and report; no other file knows their names."""
    workdir = run.folder / "run"
    # Measured against an undefended split as wide, or narrow, as it is.
    small = (
        "--side=4",
        "--width=4",
        "--image_size=16",
        "--steps=4",
        "--reference_steps=12",
        "--reference_width=4",
        "--batch_size=16",
        "--log_every=2",
        "--audit=preview",
    )
    table = run("main", "--defense=coarse", *small, f"--cache_dir={run.folder / 'cache'}", f"--workdir={workdir}")
    assert re.search(r"none +coarse", table)
    evidence = json.loads((workdir / "evidence.json").read_text())
    assert evidence["subject"] == "coarse"
    found = {result["target"]: result for result in evidence["attacks"] if result["attack"] == "attribute"}
    for target in ("ink", "paper"):
        by_name = {attacker["name"]: attacker for attacker in found[target]["attackers"]}
        assert by_name["centroid"]["status"] == "ok"
        # Means of pixels hide no colour, and a nearest mean reads what it can.
        assert by_name["centroid"]["test"] > 0.4
    again = run("audit", f"--workdir={workdir}", f"--cache_dir={run.folder / 'cache'}", "--audit=preview")
    assert "balanced accuracy" in again
    kept = json.loads((workdir / "audits" / "preview" / "evidence.json").read_text())
    assert kept["attacks"] == evidence["attacks"]
    assert "coarse" in run("report", str(workdir))
    page = (workdir / "report.html").read_text()
    assert "centroid" in page
    assert "A recipe." in page
    mistaken = subprocess.run(
        [sys.executable, "-c", LAUNCH, "main", "--defense=coarse", "--side=3"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(run.folder), str(ROOT)))},
    )
    assert (mistaken.returncode, mistaken.stderr.strip()) == (2, "ani_jax: flag --side=3: must be 1, 2 or 4")


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


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name in set(extras) - {"test", "docs"} for line in extras[name]]
    declared = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}
    imported = set()
    for path in [*LIBRARY, *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    # A distribution need not bear the name of what it installs: PIL comes with pillow.
    sources = importlib.metadata.packages_distributions()
    others = imported - sys.stdlib_module_names - {"ani_jax", "experiments"}
    assert {"jax", "numpy", "sklearn"} <= others
    found = {name: {one.lower().replace("_", "-") for one in sources.get(name, [name])} for name in others}
    assert {name for name, known in found.items() if not known & declared} == set()


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
        and "node_modules" not in p.parts
        and p.suffix in (".txt", ".toml", ".md", ".py", ".yaml")
    ]
    assert [p for p in files if address.search(p.read_text())] == []
