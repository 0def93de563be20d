"""The members of a frontier, and how they are brought to their end; training and audits are replaced by their results."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from ani_jax.config import RunConfig
from ani_jax.defenses import registry
from ani_jax.records import Estimate, Evidence
from ani_jax.reporting import frontier_page
from ani_jax.reporting.frontier import point
from ani_jax.training.loop import Stopped, TrainConfig, TrainingError
from experiments import frontier, runs
from experiments.folders import Busy
from experiments.machine import Machine

FUNNEL = RunConfig("funnel", options={"width": 4, "beta": 30.0, "l1": 1.0}, train=TrainConfig(seed=5))


def test_a_member_is_an_ordinary_run_with_scaled_weights():
    rows = frontier.grid([FUNNEL, RunConfig("none", train=FUNNEL.train)], weights=3, seeds=2, span=10.0)
    # Seeds are outermost, and what nothing makes stronger has one point a seed.
    assert [(row[0].config.defense, row[0].config.train.seed, len(row)) for row in rows] == [
        ("funnel", 5, 3),
        ("none", 5, 1),
        ("funnel", 6, 3),
        ("none", 6, 1),
    ]
    low, own, high = rows[2]
    assert own.config == dataclasses.replace(FUNNEL, train=TrainConfig(seed=6))
    assert (low.config.options["beta"], high.config.options["l1"]) == (3.0, 10.0)
    assert low.config.options["alpha"] == own.config.options["alpha"]
    assert len({member.place for row in rows for member in row}) == 8


def test_clients_that_differ_by_more_than_weights_are_rows_of_their_own():
    rows = frontier.grid([RunConfig("quantise"), RunConfig("topk")], weights=3, seeds=1, span=10.0)
    assert [[member.config.options for member in row] for row in rows] == [
        # Less than a bit is one.
        *[[{**rows[0][0].config.options, "release_bits": bits}] for bits in (10, 1)],
        *[[{**rows[2][0].config.options, "kept": kept}] for kept in (160, 16, 2)],
    ]
    assert [row[0].multiplier for row in rows] == [0.1, 1.0, 0.1, 1.0, 10.0]


def test_what_makes_no_grid_is_refused():
    still = RunConfig("funnel", options={"beta": 0.0, "gamma": 0.0, "l1": 0.0})
    for config, options, message in (
        (FUNNEL, {"seeds": 0}, "seeds=0: must be at least 1"),
        (FUNNEL, {"weights": 0}, "weights=0: must be at least 1"),
        (FUNNEL, {"span": 0.5}, "span=0.5: must be"),
        (still, {}, "defenses=funnel: excess, beta, gamma, l1 are 0"),
    ):
        with pytest.raises(ValueError, match=message):
            frontier.grid([config], **{"weights": 2, "seeds": 1, "span": 10.0, **options})


def test_the_command_names_what_is_no_default(tmp_path):
    ani = RunConfig("ani", options={"width": 4}, train=FUNNEL.train)
    line = frontier.command([FUNNEL, ani], ["--defenses=funnel,ani", "--weights=2"])
    assert line == ("python -m experiments.frontier --defenses=funnel,ani --weights=2 --width=4 --beta=30.0 --seed=5")


@pytest.fixture
def executed(monkeypatch):
    """Replaces runs by their evidence; the members that were run, in order."""
    found = []

    def execute(config, folder, cache, machine):
        if config.options["beta"] > 200:
            raise TrainingError("step 3: loss not finite")
        found.append((config, folder))
        utility = {"accuracy": Estimate(0.9), "majority_class": Estimate(0.1)}
        return [
            runs.Run(folder, one, Evidence(one.defense, "digits", one.train.seed, "standard", {}, {}, utility, ()), [])
            for one in (config.reference(), config)
        ]

    monkeypatch.setattr(runs, "execute", execute)
    return found


def test_points_come_with_their_reference_and_failures_are_points_too(executed, tmp_path):
    ((*rest, last),) = [frontier.grid([FUNNEL], weights=3, seeds=1, span=10.0)[0]]
    found = list(frontier.execute([*rest, last], 1, tmp_path, tmp_path))
    reference = point("none", 1.0, {}, 5, 0.9, 0.1)
    assert [points[0].equals(reference) for points in found[:2]] == [True, True]
    assert [points[-1].title.item() for points in found] == ["funnel ×0.1", "funnel ×1", "funnel ×10"]
    assert "not trained: step 3" in found[-1][0].status.item()
    assert last.name == found[-1][0].defense.item()
    assert [folder for _, folder in executed] == [tmp_path / "points" / member.place for member in rest]


def test_a_member_that_diverged_does_not_have_its_group_trained_again(executed, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(
        frontier.sweep, "train_together", lambda members, *rest: called.append(1) or [None] * len(members)
    )
    row = frontier.grid([FUNNEL], weights=2, seeds=1, span=2.0)[0]
    for _ in range(2):
        list(frontier.execute(row, 2, tmp_path, tmp_path))
    assert called == [1]
    assert len(executed) == 4


def test_undefended_members_of_other_training_have_names_of_their_own():
    plain, longer = RunConfig("none"), RunConfig("none", options={"steps": 500})
    (first,), (other,) = (frontier.grid([config], 3, 1, 10.0)[0] for config in (plain, longer))
    assert (first.name, other.name) == ("none", "none --steps=500")


def test_a_group_that_is_told_to_end_does_so_at_its_next_word(tmp_path, monkeypatch):
    monkeypatch.setattr(
        frontier.sweep, "train_together", lambda *given: given[-1](0, {"kind": "start", "step": 0, "total": 1})
    )
    row = frontier.grid([FUNNEL], weights=2, seeds=1, span=2.0)[0]
    with pytest.raises(Stopped, match="a group, which begins anew"):
        list(frontier.execute(row, 2, tmp_path, tmp_path, Machine(stop=lambda: True)))
    # Its folders are free for the same command.
    with pytest.raises(Stopped):
        list(frontier.execute(row, 2, tmp_path, tmp_path, Machine(stop=lambda: True)))


@pytest.mark.slow
def test_a_group_leaves_every_member_its_last_checkpoint(executed, tmp_path, monkeypatch):
    """What is trained together resumes as if it had been trained alone, and only an unfinished group is trained again."""
    config = RunConfig(
        "funnel",
        image_size=16,
        options={"width": 4, "expansion": 4, "channels": 4, "steps": 3},
        train=TrainConfig(batch_size=8, log_every=1),
    )
    row = frontier.grid([config], weights=2, seeds=1, span=2.0)[0]
    list(frontier.execute(row, 2, tmp_path, tmp_path))
    folders = [folder for _, folder in executed]
    assert folders == [tmp_path / "points-of-2" / member.place for member in row]
    for member, folder in zip(row, folders, strict=True):
        assert RunConfig.read((folder / "config.json").read_text()) == member.config
        assert (folder / "metrics.jsonl").read_text().count("\n") == 3
    data, defense = runs.problem(row[1].config)
    saved = runs.Save(runs.Checkpoints(folders[1] / "checkpoints"))
    state = runs.train(defense, data, row[1].config.train, [saved])
    assert int(state.step) == 3
    assert state.weights == pytest.approx(defense.weights.values)
    monkeypatch.setattr(frontier.sweep, "train_together", None)
    list(frontier.execute(row, 2, tmp_path, tmp_path))


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The flags of a frontier whose members are run one by one, and nothing drawn."""
    monkeypatch.setattr(frontier, "FLAGS", type("Flags", (), {"group": 1}))
    monkeypatch.setattr(frontier_page, "figure", lambda points: b"")
    monkeypatch.setattr(frontier_page, "render", lambda points, **told: "")
    return tmp_path


def test_what_another_process_is_at_is_put_off_and_then_waited_for(executed, asked, monkeypatch):
    """Whoever comes second takes what is left, and ends with every point."""
    rows, real, tried = frontier.grid([FUNNEL], weights=3, seeds=1, span=2.0), runs.execute, []

    def busy(config, folder, cache, machine):
        tried.append((config.options["beta"], machine.wait))
        if config.options["beta"] == 30.0 and not machine.wait:
            raise Busy("workdir=there: another process is using it")
        return real(config, folder, cache, machine)

    monkeypatch.setattr(runs, "execute", busy)
    frontier.weighed(rows, asked, asked, Machine(), "command")
    assert tried == [(15.0, False), (30.0, False), (60.0, False), (30.0, True)]
    points = json.loads((asked / "frontier.json").read_text())["points"]
    assert sorted(point["multiplier"] for point in points if point["defense"] == "funnel") == [0.5, 1.0, 2.0]


def test_all_means_every_defence(monkeypatch):
    monkeypatch.setattr(frontier.flags, "from_flags", lambda name, without: RunConfig(name))
    names = [config.defense for config in frontier.configs(["all"])]
    assert names == list(registry.DEFENSES)


TOGETHER = """
import pathlib, sys, time
from ani_jax.config import RunConfig
from ani_jax.records import Estimate, Evidence, to_json
from experiments import folders, frontier, runs
from experiments.machine import Machine

place, mine, pace = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

def execute(config, folder, cache, machine):
    # A run without its training: claimed, and finished once its evidence is there.
    with folders.claim(folder, config, wait=machine.wait):
        evidence = Evidence(config.defense, "digits", 0, "preview", {}, {}, {"accuracy": Estimate(0.9)}, ())
        if not (folder / "evidence.json").exists():
            (place / f"{config.digest}.begun").open("a").write(f"{mine}\\n")
            print("begun", flush=True)
            time.sleep(pace)
            folders.write(folder / "evidence.json", to_json(evidence))
            (place / f"{config.digest}.ended").open("a").write(f"{mine}\\n")
    return [runs.Run(folder, config, evidence, [])]

runs.execute = execute
frontier.FLAGS = type("Flags", (), {"group": 1})
config = RunConfig("funnel", options={"width": 4})
frontier.weighed(frontier.grid([config], 4, 1, 2.0), place, place, Machine(), "command")
"""


def test_two_processes_share_a_folder_and_what_a_killed_one_leaves_is_taken_over(tmp_path):
    def start(name, pace):
        command = [sys.executable, "-c", TOGETHER, str(tmp_path), name, pace]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start("killed", "600")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "begun\n"
    others = [start(name, "0.5") for name in ("second", "third")]
    # It holds one point; the others do all the rest, and wait.
    deadline = time.monotonic() + 300
    while len([*tmp_path.glob("*.ended")]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    killed.kill()
    for process in others:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    killed.communicate()
    ended = [path.read_text().split() for path in tmp_path.glob("*.ended")]
    assert len(ended) == 4
    # Every member was finished once, and begun once but for the one that was taken over.
    assert all(len(names) == 1 and names[0] != "killed" for names in ended)
    begun = sorted(len(path.read_text().split()) for path in tmp_path.glob("*.begun"))
    assert begun == [1, 1, 1, 2]
