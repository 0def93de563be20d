"""Exports a finished run: its client for a device, its server for a provider, as files that run without this code.

    python -m experiments.export --workdir=RUN --output=DIR [--onnx] [--attacker] [--bits=8|1 --audit=standard]

Measures what client and undefended split cost in a process of their own, and prints the card. With --bits the client sends so few
bits of every feature, and is audited as it then is. With --attacker the strongest decoder of the audit is trained once more and
put into the folder too, for whoever would see what it makes of a picture. ``ani_jax.deploy.artefact.load`` reads the folder.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

from ani_jax.attacks.base import LEVELS, families, level_named
from ani_jax.attacks.query import CHUNK, as_predictor
from ani_jax.config import AuditConfig
from ani_jax.deploy import artefact, export
from ani_jax.deploy.artefact import Card, Cost, Found
from ani_jax.deploy.cost import measured
from ani_jax.deploy.quantise import BITS, quantised
from ani_jax.evaluation import contest
from ani_jax.evaluation.cost import cost_card
from ani_jax.evaluation.scene import Scene
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting.text import aligned
from ani_jax.targets import base as targets
from ani_jax.types import Data, Knowledge, Release
from experiments import flags, runs
from experiments.audit import again
from experiments.folders import WorkdirError, write
from experiments.progress import Progress, say
from experiments.runs import Run, Sent

AUXILIARY = 8 * CHUNK
"""Images that a grid is calibrated on."""


def main(_: list[str]) -> None:
    """Exports what the flags name."""
    cache, values = flags.cache(), flags.FLAGS
    for name in ("workdir", "output"):
        if not values[name].value:
            raise ValueError(f"{name}=: name a folder")
    run, folder = flags.placed(runs.load(Path(values.workdir))), Path(values.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output={folder}: is there already; name an empty or a new folder")
    level, bits = values.audit or AuditConfig.audit, int(values.bits or 0)
    sent = fewer(run, bits) if bits else None
    evidence = again(run, level, cache, sent=sent, name=f"{level}-{bits}bit") if bits else known(run, values.audit)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, and under its name once it is whole.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as place:
            partial = Path(place) / "artefact"
            partial.mkdir()
            write(partial / "evidence.json", to_json(evidence))
            card = exported(run, partial, evidence, sent, values.onnx, evidence.level if values.attacker else None)
            card = export.seal(partial, dataclasses.replace(card, undefended=undefended(run, cache)))
            if folder.exists():
                folder.rmdir()
            partial.replace(folder)
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror}); name a folder that can") from None
    print(f"{told(card)}\n\nartefact: {folder}")


def fewer(run: Run, bits: int) -> Sent:
    """What makes fewer bits of a run's client and of its random copy; the images are those that attackers own."""

    def sent(release: Any, predict: Any) -> Any:
        images = data.auxiliary.draw(key, AUXILIARY).image
        return quantised(release, predict, images, bits, key)

    data, defense = runs.problem(run.config)
    own, key = grid(defense), jax.random.key(run.config.train.seed)
    if own[2] and own[2] <= 2**bits:
        raise ValueError(
            f"bits={bits}: this client has a grid of {own[2]:,} values of its own; must be fewer bits, or none"
        )
    return sent


def grid(defense: Any) -> tuple[float | None, float | None, int]:
    """Smallest and largest number that a client sends, where it has bounds, and how many there are; 0 for any."""
    return getattr(defense.client, "grid", (None, None, 0))


def known(run: Run, level: str | None) -> Evidence:
    """The evidence of a finished run at some level, else at the highest that is there."""
    for name in [level] if level else reversed(LEVELS):
        kept = run.folder / "audits" / str(name) / "evidence.json"
        if kept.exists():
            return from_json(Evidence, kept.read_text())
        if run.evidence.level == name:
            return run.evidence
    raise WorkdirError(
        f"audit={level}: is not there; first python -m experiments.audit --workdir={run.folder} --audit={level}"
    )


def exported(
    run: Run,
    folder: Path,
    evidence: Evidence | None = None,
    sent: Sent | None = None,
    onnx: bool = False,
    attack: str | None = None,
) -> Card:
    """Writes the folder of a finished run, with the decoder of a level where one is named, and measures it."""
    data, defense, state = runs.trained(run)
    release, predict = runs.freeze(defense, state.params, state.statistics)
    low, high, levels = grid(defense)
    height, width, channels = data.test.image.shape[1:]
    counted = cost_card(release, (height, width, channels))
    if sent is not None:
        release, predict = sent(release, predict)
        low, high, levels = dataclasses.astuple(release.apply.grid)  # type: ignore[attr-defined]
    one, name = (None, "") if attack is None else decoder(run, release, predict, data, attack)
    accuracy = None if evidence is None else evidence.utility.get("accuracy")
    gate = run.folder / "gate.json"
    card = Card(
        defence=defense.name,
        dataset=data.name,
        classes=data.primary.class_names,
        image_shape=(height, width, channels),
        noise="memoised" if release.memoised else "fresh" if release.stochastic else "none",
        key_words=export.key_words(release),
        level="" if evidence is None else evidence.level,
        accuracy=None if accuracy is None else accuracy.value,
        evidence=() if evidence is None else Found.of(evidence),
        attacker=name,
        # What it said is about the client as it was audited, with all of its bits.
        gate={one["asked"]: one["outcome"] for one in json.loads(gate.read_text())["verdicts"]}
        if gate.exists() and sent is None
        else {},
        **artefact.wire(export.feature_shape(release, (height, width, channels)), low, high, levels),
    )
    card = export.write(folder, release, predict, card, onnx=onnx, attacker=one)
    cost = Cost(counted.parameters, counted.macs, card.bytes_sent, counted.bytes_raw, **measured(folder))
    return export.seal(folder, dataclasses.replace(card, cost=cost))


def decoder(run: Run, release: Release, predict: Any, data: Data, level: str) -> tuple[Any, str]:
    """The strongest decoder of an audit that can be a program, chosen on ``validation``, and what it is called."""
    knowledge, allowed = Knowledge(release, as_predictor(predict)), level_named(level)
    with Progress(run.folder, run.config.defense) as progress:
        scene = Scene.of(knowledge, data, allowed, run.config.train.seed, on_event=progress)
        family = next(one for one in families(targets.of(data), allowed, knowledge) if one.name == "decoder")
        asked, test_z = scene.look(family)
        fits, _ = contest.fits_of(scene, family, asked)
        tried = contest.compete(scene, family, asked, test_z)
    able = [
        (one.record.validation or 0.0, one.record.name, attacker)
        for attack, one in zip(family.attacks, tried)
        if one.guess is not None and hasattr(attacker := fits(attack, family.attacks).attacker, "at_once")
    ]
    if not able:
        raise ValueError(f"attacker=True: no decoder of level {level} ran through that could be exported")
    _, name, best = max(able, key=lambda one: one[:2])
    return best, f"{name} of level {level}"


def undefended(run: Run, cache: Path) -> Cost | None:
    """What the undefended split costs, exported likewise; None without it, which is said."""
    if run.config.defense == "none":
        return None
    try:
        reference = runs.load(runs.reference_folder(run.config, cache))
    except WorkdirError as error:
        say(f"without the undefended split's cost: {error}")
        return None
    with tempfile.TemporaryDirectory() as place:
        return exported(reference, Path(place)).cost


def told(card: Card) -> str:
    """The card, as a reader wants it."""
    sent = f"{card.z_shape} of {card.z_dtype}, {card.bits} bits a feature"
    rows = [("client", f"{card.defence} on {card.dataset}, noise {card.noise}"), ("sends", sent)]
    rows += [("attacker", card.attacker)] if card.attacker else []
    rows += [(one.target, f"{one.metric} {one.strength:.3f}, {one.attack}") for one in card.evidence if one.strength]
    names = [field.name for field in dataclasses.fields(Cost)]
    costs = {name: cost for name, cost in ((card.defence, card.cost), ("none", card.undefended)) if cost}
    table = [["cost", *costs], *([name, *(f"{getattr(cost, name):,.4g}" for cost in costs.values())] for name in names)]
    return f"{aligned(rows)}\n\n{aligned(table)}"


if __name__ == "__main__":
    flags.define(
        *("workdir", "audit", "data_dir", "manual_dir", "cache_dir"),
        output=(str, None, "Folder to write to, new or empty."),
        onnx=(bool, False, "Also write the client as client.onnx (extra onnx)."),
        attacker=(bool, False, "Also train the strongest decoder once more, and write it as attacker.jax."),
        bits=([str(one) for one in BITS], None, "Bits of every feature that is sent (default: as it was trained)."),
    )
    flags.run(main)
