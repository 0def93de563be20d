"""The benchmark as a command: its flags, its table, its JSON, and the sides that it asks."""

import dataclasses
import doctest
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ani_jax.modules.kernels import convolution, pool
from experiments.benchmark import __main__ as command
from experiments.benchmark import cases, sides, suites
from experiments.benchmark.__main__ import Config
from experiments.benchmark.sides import Shape, Side, SideError
from experiments.benchmark.suites import Row
from experiments.benchmark.timing import Spread

ROOT = pathlib.Path(__file__).parents[3]
# One device and the machine's own threads: a side must not see the tests' eight.
ALONE = {"XLA_FLAGS": "", "NPROC": ""}


def run(*options):
    command = [sys.executable, "-m", "experiments.benchmark", *options]
    environment = {name: value for name, value in os.environ.items() if name not in ALONE}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"batch_size": 3}, "batch_size=3: must be at least 4"),
        ({"cases": ("plain", "fast")}, "cases=fast: must be names out of plain, funnel, "),
        ({"suite": "start", "cases": ("plain",)}, "cases=plain: must be names out of none"),
    ],
)
def test_mistakes_are_one_line(options, reason):
    with pytest.raises(ValueError, match=reason):
        Config(**options)


def test_without_torch_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^against=torch: PyTorch is not installed; pip install ani-jax\[bench\]$"):
        Config(against="torch")
    assert Config().against == ""


def test_a_mistake_on_the_command_line_costs_one_line():
    done = run("--rounds=0")
    assert (done.returncode, done.stderr) == (2, "ani_jax: flag --rounds=0: must be at least 1\n")
    done = run("--against=tensorflow")
    assert done.returncode == 2
    assert done.stderr.startswith("ani_jax: flag --against=tensorflow: ")
    assert done.stderr.count("\n") == 1


def test_the_command_reproduces_itself():
    config = Config(against="torch", cases=("plain", "ani"), rounds=3)
    assert config.command == "python -m experiments.benchmark --against=torch --cases=plain,ani --rounds=3"
    assert Config().command == "python -m experiments.benchmark"


def test_every_row_has_its_cases_on_every_side_that_it_names():
    known = {
        "ours": cases.ours(),
        "stock": cases.ours(),
        "torch": pytest.importorskip("experiments.benchmark.peers.cases").peers(),
    }
    for entry in (*suites.STEPS.values(), suites.MATMUL):
        for side in entry.sides:
            assert entry.case in known[side]
        for side in entry.base_sides if entry.base else ():
            assert entry.base in known[side]
    assert {case for case, _, _ in suites.SCALING.values()} <= set(known["ours"])


class Fake:
    """A side whose units take a fixed time."""

    def __init__(self, costs):
        self.costs, self.asked = costs, []

    def build(self, case, shape):
        self.asked.append((case, shape))

    def run(self, case, count):
        return [self.costs[case]] * count

    def facts(self, case):
        return {"macs": 2e9, "xla_flops": 4e9, "temporary_bytes": 1e6}

    def forget(self):
        self.asked.clear()


def rows():
    costs = {"funnel": 0.5, "funnel_base": 0.4, "matmul": 0.1}
    made = {name: Fake({case: cost * factor for case, cost in costs.items()}) for name, factor in FACTORS.items()}
    return [
        suites.step_row(name, entry, Shape(), made, 3, lambda line: None)
        for name, entry in (("matmul", suites.MATMUL), ("funnel", suites.STEPS["funnel"]))
    ]


FACTORS = {"ours": 1.0, "stock": 2.0, "torch": 0.5}


def test_a_row_holds_what_is_over_what():
    matmul, funnel = rows()
    assert {label: spread.median for label, spread in funnel.ratios.items()} == pytest.approx(
        {
            "ours funnel / torch funnel": 2.0,
            "stock funnel / torch funnel": 4.0,
            "ours funnel / stock funnel": 0.5,
            "ours funnel / ours funnel_base": 1.25,
            "torch funnel / torch funnel_base": 1.25,
        }
    )
    assert funnel.goals == {"ours funnel / torch funnel": 1.0, "ours funnel / ours funnel_base": 1.15}
    assert len(funnel.seconds["ours funnel"]) == 3
    # The limit is the faster library's.
    assert command.limit([matmul, funnel]) == pytest.approx(2048**3 / 0.05)


def test_the_table_says_how_far_the_limit_is():
    lines = command.table(Config(), rows()).splitlines()
    assert lines[0].split()[:4] == ["case", "ms", "torch", "ms"]
    assert lines[2].startswith("funnel (cnn)")
    for part in ("500", "250", "2.00 [2.00, 2.00]", "1.25 [1.25, 1.25]", "1.15"):
        assert part in lines[2]
    share = 2e9 / 0.5 / (2048**3 / 0.05)
    assert f"{share:.0%}" in lines[2]


def test_scaling_and_start_are_a_line_a_value():
    spread = Spread(2.0, 1.5, 2.5)
    seconds = {"batch 16": [1.0], "batch 32": [2.0]}
    row = Row("batch", Shape(), seconds, {"batch 32 / batch 16": spread}, {"batch 32 / batch 16": 3.0}, {})
    lines = command.table(Config("scaling"), [row]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["batch", "16", "1"],
        ["batch", "32", "2", "batch", "16", "2.00", "[1.50,", "2.50]", "3"],
    ]


def test_the_examples_hold():
    assert [doctest.testmod(module).failed for module in (command, sides)] == [0, 0]


def test_a_side_that_fails_says_why_in_one_line(monkeypatch):
    with Side("ours") as side:
        with pytest.raises(SideError, match=r"^ours: KeyError: 'nothing'$"):
            side.build("nothing", Shape())
        side.build("matmul", Shape(count=4))
        seconds = side.run("matmul", 3)
        assert len(seconds) == 3
        assert min(seconds) > 0
        assert side.facts("matmul")["macs"] == 64
        side.forget()
        with pytest.raises(SideError, match="'matmul'"):
            side.run("matmul", 1)
        side._process.kill()
        with pytest.raises(SideError, match="its process ended"):
            side.build("matmul", Shape())
    monkeypatch.setitem(sides.SIDES, "broken", "experiments.nothing:ours")
    with Side("broken") as side, pytest.raises(SideError, match="broken: ModuleNotFoundError"):
        side.build("matmul", Shape())


def test_stock_is_xlas_own_convolution_and_pooling(monkeypatch):
    # Set to what they are, so that both are put back.
    monkeypatch.setattr(convolution, "known", convolution.known)
    monkeypatch.setattr(pool, "largest", pool.largest)
    shape = Shape(batch=4, width=4, image=8)

    def program():
        release = cases._undefended(shape)
        return str(jax.make_jaxpr(lambda x: release(x, jax.random.key(0)))(jnp.zeros((4, 8, 8, 3))))

    ours = program()
    assert set(cases.stock()) == set(cases.ours())
    stock = program()
    assert "convolution[" in ours
    assert "reduce_window_max" not in ours
    assert "convolution[" not in stock
    assert "conv_general_dilated[" in stock
    assert "reduce_window_max" in stock


def test_frozen_kernels_do_not_count():
    shape = Shape(batch=4, width=4, image=16, count=1)
    facts = cases.inversion(shape).facts()
    # conv 3 -> 4 at 16x16 and 4 -> 8 at 8x8: an output and an input gradient each.
    assert facts["macs"] == 2 * 9 * (16 * 16 * 3 * 4 + 8 * 8 * 4 * 8)


@pytest.mark.slow
def test_the_whole_command(tmp_path):
    options = ("--against=torch", "--cases=plain,forward_1", "--rounds=1", "--batch_size=4", "--width=4")
    done = run(*options, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["case", "matmul", "plain", "forward_1"]
    assert table[-1] == f"reproduce: {Config('steps', 'torch', 'cnn', ('plain', 'forward_1'), 1, 4, 4).command}"
    record = json.loads((tmp_path / "steps.json").read_text())
    assert record["command"] in table[-1]
    assert set(record["rows"][1]["seconds"]) == {"ours plain", "stock plain", "torch plain"}
    assert record["rows"][1]["ratios"]["ours plain / torch plain"]["median"] > 0
    assert "plain, cnn: round 1 of 1" in done.stderr


@pytest.mark.slow
def test_scaling_has_a_process_for_every_value(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(suites.SCALING, "members", ("members", "count", (1, 2)))
    monkeypatch.setitem(suites.SCALING, "devices", ("devices", "count", (1, 2)))
    monkeypatch.setitem(suites.SCALING, "points", ("frontier", "count", (1, 2)))
    shape = Shape(batch=4, width=4, image=16)
    found = list(suites.scaling_rows(("members", "devices", "points"), shape, {}, 1, lambda line: None))
    assert [row.name for row in found] == ["members", "devices", "points"]
    assert [list(row.seconds) for row in found] == [[f"{row.name} {value}" for value in (1, 2)] for row in found]
    assert found[0].ratios["members 1 / members 1"].median == 1


@pytest.mark.slow
def test_the_first_step_is_seen_and_the_run_ended():
    assert suites.first_step({}, "--defense=none", "--image_size=16", "--width=2", "--steps=3") > 0
    with pytest.raises(RuntimeError, match="ended before its first step"):
        suites.first_step({}, "--defense=nothing")


def test_shapes_are_what_sides_share():
    image, label, attribute = sides.pictures(5, dataclasses.replace(Shape(), image=8))
    assert image.shape == (5, 8, 8, 3)
    assert (image == sides.pictures(5, dataclasses.replace(Shape(), image=8))[0]).all()
    assert label.max() < 10
    assert attribute.max() < sides.ATTRIBUTES
