"""The command: what it refuses, what it leaves behind, where it goes on, and what it costs beside separate runs."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import pandas
import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Family
from ani_jax.config import RunConfig
from ani_jax.evaluation.audit import audit
from ani_jax.reporting import frontier_page
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.training.config import TrainConfig
from experiments import frontier, machine, runs

SMALL = (
    *("--width=4", "--expansion=8", "--steps=12", "--reference_steps=12", "--reference_width=4"),
    *("--log_every=3", "--batch_size=16", "--audit=preview"),
)
GRID = ("--defenses=funnel", "--weights=2", "--seeds=1", *SMALL)


def start(*arguments):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", "experiments.frontier", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--defenses=funnel,moat",), "flag --defenses=funnel,moat: must be names, each once, out of ani, funnel"),
        (("--defenses=funnel", "--utility_budget=0.01"), "flag --utility_budget=0.01: a frontier does not take it"),
        (("--defenses=ani", "--beta=1"), "flag --beta"),
        (("--depths=a",), "flag --depths=a: must be whole numbers separated by commas"),
        (("--depths=1", "--weights=3"), "flag --weights=3: does not go with --depths"),
        (("--depths=1", "--defense=ani"), "flag --defense=ani: a frontier does not take it"),
    ],
)
@pytest.mark.slow
def test_mistakes_cost_one_line(arguments, message):
    _, errors = (process := start(*arguments)).communicate(timeout=300)
    assert process.returncode == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_folder_of_another_frontier_is_refused_and_left_alone(tmp_path):
    (tmp_path / "command.txt").write_text("python -m experiments.frontier --defenses=ani")
    _, errors = (process := start(*GRID, f"--cache_dir={tmp_path / 'cache'}", f"--workdir={tmp_path}")).communicate()
    assert process.returncode == 2
    assert errors == f"ani_jax: flag --workdir={tmp_path}: belongs to another frontier; name another folder\n"


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, machine.STOPPED)])
def test_an_interrupted_frontier_goes_on_where_it_stopped(tmp_path, stop, code):
    cache, whole, killed = (tmp_path / name for name in ("cache", "whole", "killed"))
    process = start(*GRID, f"--cache_dir={cache}", f"--workdir={whole}")
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "[2/2] funnel ×10, seed 0: " in errors
    assert f"python -m experiments.frontier {' '.join(GRID[:3])} --audit=preview --width=4 " in output
    found = pandas.DataFrame(json.loads((whole / "frontier.json").read_text())["points"])
    assert [*found.title.unique()] == ["none --width=4 --steps=12", "funnel ×0.1", "funnel ×10"]

    process = start(*GRID, f"--cache_dir={cache}", f"--workdir={killed}")
    deadline = time.monotonic() + 600
    while not list(killed.glob("points/*/evidence.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(stop)
    process.communicate()
    assert process.returncode == code
    (first,) = killed.glob("points/*/evidence.json")
    written = first.stat().st_mtime_ns
    process = start(*GRID, f"--cache_dir={cache}", f"--workdir={killed}")
    assert process.communicate(timeout=900)
    assert first.stat().st_mtime_ns == written
    for name in ("frontier.json", "frontier.csv", "frontier.svg"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


SHORT = RunConfig("funnel", audit="preview", options={"steps": 60})


@pytest.mark.slow
@pytest.mark.parametrize("config", [SHORT, RunConfig("funnel")], ids=["short", "default"])
def test_a_frontier_costs_no_more_than_separate_runs(tmp_path, config):
    """8 weights and 3 seeds of the funnel on digits, trained, audited and reported, against 24 runs in the same process.

    The default one takes an hour and more on two cores; in the short one, what a frontier adds weighs more. The references are
    made before; the first of the two pays for what has to be compiled, so the small grid goes through both beforehand. Both sides
    find the same, to the last bit.
    """
    compare(config, 1, 1, tmp_path / "warm")
    assert compare(config, 8, 3, tmp_path) <= 1.05


def compare(config, weights, seeds, folder):
    """The time of a frontier over that of its members as separate runs, member by member in turns, in one process."""
    rows = frontier.grid([config], weights, seeds, 10.0)
    for row in rows:
        one = row[0].config
        runs.execute(one.reference(), runs.reference_folder(one, folder / "cache"), folder / "cache")
    points, taken = [], {"frontier": 0.0, "separate": 0.0}

    def timed(name, side, *given):
        started = time.perf_counter()
        found = side(*given)
        taken[name] += time.perf_counter() - started
        return found

    def separate(member):
        *_, own = runs.execute(member.config, folder / "separate" / member.place, folder / "cache")
        return own

    for row in rows:
        on_frontier = frontier.execute(row, 1, folder / "frontier", folder / "cache")
        for turn, member in enumerate(row):
            sides = [("frontier", next, on_frontier), ("separate", separate, member)]
            found = {name: timed(name, side, given) for name, side, given in (sides if turn % 2 else reversed(sides))}
            assert found["frontier"][-1].equals(member.point(found["separate"]))
            points += found["frontier"]
            print({name: f"{seconds:.0f} s" for name, seconds in taken.items()}, flush=True)

    def report():
        found = pandas.concat(points).drop_duplicates(["title", "seed", "measure"])
        frontier_page.render(found, dataset=config.dataset, level=config.audit, command="")
        frontier_page.figure(found)

    timed("frontier", report)
    return taken["frontier"] / taken["separate"]


INK = Attribute("ink", 4)
CLOSED = (Family("attribute", INK, (attribute.Probe(INK),)), Family("decoder", Image(), (decoder.Ridge(Image()),)))
TRAIN = TrainConfig(batch_size=16, log_every=2, checkpoint_every=2)
CONFIG = RunConfig("none", image_size=16, audit="preview", options={"width": 4, "steps": 2}, train=TRAIN)


@pytest.mark.slow
def test_every_depth_is_a_run_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "audit", functools.partial(audit, attacks=CLOSED))
    given = (tmp_path / "out", tmp_path / "cache", machine.Machine(), "python -m experiments.frontier --depths=1,3")
    given[0].mkdir()
    found = frontier.cut(frontier.depths(CONFIG, ("1", "3")), *given)
    assert list(found) == ["depth 1", "depth 3"]
    assert found["depth 3"].subject == "depth 3"
    assert found["depth 1"].cost.macs < found["depth 3"].cost.macs
    assert len(list(given[0].glob("points/none-*/evidence.json"))) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("cut      accuracy  ")
    assert f"report:    {given[0] / 'report.html'}" in printed
    assert "depth 3" in (given[0] / "report.html").read_text()
    monkeypatch.setattr(runs, "train", None)
    assert frontier.cut(frontier.depths(CONFIG, ("1", "3")), *given) == found


@pytest.mark.parametrize(
    ("depths", "reason"),
    [
        (("1", "9"), "depth=9: must be 1 to"),
        (("a",), "depths=a: must be whole numbers"),
        ((), "depths=: must be whole numbers"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(depths, reason):
    with pytest.raises(ValueError, match=reason):
        frontier.depths(CONFIG, depths)
