"""The gate of a command: what --require and --against ask for, the files that say how it went, and the exit code."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl.flags import FLAGS

from ani_jax.evaluation.matching import WORDS
from ani_jax.records import Evidence, TargetWords, from_json, to_json
from ani_jax.reporting import gate
from experiments.folders import write

OWN = {
    "require": (str, None, 'What must hold, e.g. "ink<=0.35, utility>=0.95", or a .toml file with that: docs/GATE.md.'),
    "against": (str, None, "An earlier evidence.json, of which nothing may have become significantly worse."),
}
"""The flags, see :func:`experiments.flags.define`."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """What is asked of a command's evidence; of nothing asked, nothing follows."""

    source: str = ""
    requirements: tuple[gate.Requirement, ...] = ()
    earlier: Evidence | None = None

    def check(self, targets: Sequence[TargetWords], utility: bool = True, absent: bool = False) -> None:
        """Refuses what cannot be meant, see :func:`ani_jax.reporting.gate.check`."""
        try:
            gate.check(self.requirements, [*targets, WORDS], utility=utility, absent=absent)
        except ValueError as error:
            raise ValueError(f"require={self.source}: {error}") from None

    def close(self, evidences: Sequence[Evidence], folder: Path) -> None:
        """Says what became of each requirement, writes gate.json and gate.xml, and ends the process with the exit code."""
        if not self.requirements and self.earlier is None:
            return
        self.check([words for evidence in evidences for words in evidence.targets], absent=True)
        verdicts = [verdict for evidence in evidences for verdict in gate.decide(evidence, self.requirements)]
        if self.earlier is not None:
            verdicts += [verdict for evidence in evidences for verdict in gate.compare(evidence, self.earlier)]
        found = gate.Gate.of(verdicts)
        write(folder / "gate.json", to_json(found))
        write(folder / "gate.xml", gate.junit(found))
        print("\n".join(map(str, ("", *verdicts))))
        print(f"gate: {found.outcome}, exit code {found.code}; {folder / 'gate.json'}, {folder / 'gate.xml'}")
        raise SystemExit(found.code)


def from_flags() -> Gate:
    """What the command line asks for; what cannot be read is refused before anything is computed."""
    source = text = FLAGS.require
    place = None if FLAGS.against is None else Path(FLAGS.against)
    try:
        if text is not None and text.endswith(".toml"):
            asked = gate.read(Path(text).read_text())
            text = asked.get("require")
            # What a committed file names lies beside it, wherever the command is run.
            place = place or (Path(source).parent / asked["against"] if "against" in asked else None)
        requirements = () if text is None else gate.parse(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"require={source}: {error}") from None
    try:
        earlier = None if place is None else from_json(Evidence, place.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"against={place}: holds no evidence ({error})") from None
    return Gate(source or "", requirements, earlier)
