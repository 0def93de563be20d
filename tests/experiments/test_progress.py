"""What is said while something goes on: a line now and then outside a terminal, bars on one; the log is the source of truth."""

import json
import sys

import pytest

from experiments import progress
from experiments.progress import Bar, Progress, log, watch

METRICS = {"loss": 1.0, "accuracy": 0.5}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only the test moves on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_outside_a_terminal_training_says_how_far_it_is(tmp_path, clock, capsys):
    with Progress(tmp_path, "ani") as listen:
        listen({"kind": "start", "step": 0, "total": 200})
        for step in range(10, 201, 10):
            clock[0] += 10
            phase = "pretraining" if step <= 100 else "train"
            listen({"kind": "metrics", "step": step, "phase": phase, "metrics": METRICS})
        listen({"kind": "end", "step": 200, "total": 200})
    assert capsys.readouterr().err.splitlines() == [
        "ani_jax: ani: training, 0 of 200",
        "ani_jax: ani: training, 40 of 200",
        "ani_jax: ani: training, 80 of 200",
        "ani_jax: ani: training, train, 110 of 200",
        "ani_jax: ani: training, train, 150 of 200",
        "ani_jax: ani: training, train, 190 of 200",
    ]
    assert [line["step"] for line in log(tmp_path / "metrics.jsonl")] == list(range(10, 201, 10))
    assert listen.times[:2] == [(10, 10.0), (20, 20.0)]


def test_an_attack_is_a_line_whatever_its_members(tmp_path, clock, capsys):
    listen = Progress(tmp_path, "none")
    for member in ("probe", "network-0", "network-1"):
        listen({"kind": "attack_start", "name": f"attribute ink: {member}", "total": 400})
        for step in range(50, 401, 50):
            clock[0] += 2
            listen({"kind": "attack_step", "name": member, "step": step, "loss": 0.1})
        listen({"kind": "attack_end", "name": member})
    listen({"kind": "attack_start", "name": "criterion", "total": 0})
    listen({"kind": "of somebody else"})
    assert capsys.readouterr().err.splitlines() == [
        "ani_jax: none: attribute ink",
        "ani_jax: none: attribute ink: network-0, 400 of 400",
        "ani_jax: none: criterion",
    ]


def test_a_long_loop_is_told_of_and_a_short_one_is_not(clock, capsys):
    def slowly(seconds):
        for number in range(4):
            clock[0] += seconds
            yield number

    assert list(watch(slowly(1), "faces")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    assert list(watch([1, 2, 3], "faces")) == [1, 2, 3]
    assert list(watch(slowly(20), "faces")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == "ani_jax: faces, 2\nani_jax: faces, 4\n"


def test_a_terminal_shows_bars(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Bar()
    bar.open("none: training", 10, 2)
    assert (bar.bar.n, bar.bar.total, bar.bar.desc) == (2, 10, "none: training")
    bar.move(7, {"loss": "0.1"})
    assert bar.bar.n == 7
    bar.open("none: attribute ink: probe")
    assert bar.bar.total is None
    bar.close()
    assert bar.bar.disable
    assert "ani_jax" not in capsys.readouterr().err


def test_the_log_is_cut_back_to_where_training_goes_on(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "phase": "train", "loss": 0.1 + 0.2}) for step in (10, 20, 30)]
    file.write_text("\n".join([*lines, '{"step": 40, "lo']))
    assert [line["step"] for line in log(file)] == [10, 20, 30]
    with Progress(tmp_path, "none") as listen:
        listen({"kind": "start", "step": 20, "total": 40})
    assert file.read_text() == "".join(f"{line}\n" for line in lines[:2])
    assert log(tmp_path / "absent") == []
