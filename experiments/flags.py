"""Flags at the edge: absl flags in, one validated frozen config out, one line for every mistake (exit code 2)."""

import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import app, flags, logging

from ani_jax.data import augment, catalog
from ani_jax.defenses import registry
from ani_jax.defenses.base import Defense
from ani_jax.evaluation.audit import BUDGETS
from ani_jax.training.config import TrainConfig
from experiments import memory

FLAGS = flags.FLAGS
FEWEST = 200
"""Originals of which the part that trains, 36%, makes up a batch of the undefended reference."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What determines the result of a run; its hash names the run's folder.

    Attributes:
        defense: a name in the registry.
        dataset: a name in the catalogue, or of any tfds data set that is prepared.
        primary: the task, None for the catalogue's; needed for a data set that is not in the catalogue.
        sensitive: the attributes that are attacked, None for the catalogue's.
        originals: use at most so many of the pictures; None is all that fit into memory.
        augment: how the defence's training pictures are changed at every step.
        image_size: side of the square images in pixels.
        audit: name of the audit's compute budget.
        utility_budget: accuracy that the defence may cost (0.01 is one point); its privacy weight is then found by dual
            ascent. None leaves the weights as they are given.
        options: options of the defence; the ones that are not named keep their defaults.
        train: how the defence is trained, its seed included, which also seeds split and audit.
    """

    defense: str = "funnel"
    dataset: str = "digits"
    primary: str | None = None
    sensitive: tuple[str, ...] | None = None
    originals: int | None = None
    augment: tuple[str, ...] = ()
    image_size: int = 32
    audit: str = "quick"
    utility_budget: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        choices = {"defense": registry.DEFENSES, "audit": BUDGETS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)}: must be one of {', '.join(allowed)}")
        self._name_tasks()
        if self.image_size < 16 or self.image_size % 8:
            raise ValueError(f"image_size={self.image_size}: must be a multiple of 8, at least 16")
        if self.utility_budget is not None:
            if not 0 < self.utility_budget <= 0.5:
                raise ValueError(f"utility_budget={self.utility_budget}: must be in (0, 0.5]")
            if not registry.DEFENSES[self.defense]().weights.privacy:
                able = ", ".join(name for name, kind in registry.DEFENSES.items() if kind().weights.privacy)
                raise ValueError(
                    f"utility_budget={self.utility_budget}: {self.defense} has no privacy weight; {able} have"
                )
        chosen = registry.options(self.defense) | dict(self.options)
        self._build(chosen)
        weights = registry.DEFENSES[self.defense](**chosen).weights.privacy
        if self.utility_budget is not None and not any(chosen[name] for name in weights):
            raise ValueError(
                f"utility_budget={self.utility_budget}: scales {', '.join(weights)}, of which one must be above 0"
            )
        object.__setattr__(self, "options", chosen)

    def _name_tasks(self) -> None:
        """Checks the names that have to do with the data; the catalogue's own choice is written as None."""
        object.__setattr__(self, "augment", tuple(self.augment))
        augment.check(self.augment)
        if self.originals is not None and (self.originals < FEWEST or self.dataset.startswith("digits")):
            raise ValueError(f"originals={self.originals}: must be at least {FEWEST}, and cannot be chosen for digits")
        given = None if self.sensitive is None else tuple(self.sensitive)
        object.__setattr__(self, "sensitive", given)
        chosen = self.tasks
        if self.dataset in catalog.names():
            own = catalog.find(self.dataset)
            if chosen[0] == own.primary:
                object.__setattr__(self, "primary", None)
            if chosen[1] == own.tasks(self.primary, None)[1]:
                object.__setattr__(self, "sensitive", None)

    @property
    def tasks(self) -> tuple[str, tuple[str, ...]]:
        """Names of the task and of the attributes."""
        return catalog.find(self.dataset, self.primary).tasks(self.primary, self.sensitive)

    def _build(self, options: Mapping[str, Any]) -> Defense:
        """The defence with two classes everywhere: the data is not loaded yet, and no option depends on them."""
        attributes = tuple((name, 2) for name in self.tasks[1])
        return registry.build(self.defense, 2, (self.image_size, self.image_size, 3), attributes=attributes, **options)

    def json(self) -> str:
        """The config as it is written to config.json."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def read(cls, text: str) -> "RunConfig":
        """The config from the text of a config.json.

        Raises:
            ValueError: it is not one; the message says why.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "train": TrainConfig(**values.get("train", {}))})
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a run's config: {error}") from None

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that differ for different configs."""
        return hashlib.sha256(self.json().encode()).hexdigest()[:10]

    def reference(self) -> "RunConfig":
        """The undefended run that this one is measured against: same data, seed, split, width and training.

        A defence that is narrow by default is measured against the usual width: a narrow ceiling would flatter it.
        """
        defense = self._build(self.options)
        shared = {name: getattr(defense, name) for name in ("backbone", "depth") if hasattr(defense, name)}
        if defense.width != registry.options(self.defense)["width"]:
            shared["width"] = defense.width
        return dataclasses.replace(
            self,
            defense="none",
            utility_budget=None,
            options=shared,
            train=dataclasses.replace(TrainConfig(), seed=self.train.seed),
        )


def define() -> None:
    """Defines the flags of a training run; every option of every defence becomes a flag of its own."""
    flags.DEFINE_enum("defense", None, list(registry.DEFENSES), "How the client is protected (default funnel).")
    flags.DEFINE_string("dataset", None, "What to train and attack on (default digits); --list_datasets lists them.")
    flags.DEFINE_string("primary", None, "The task (default: the data set's own).")
    flags.DEFINE_list("sensitive", None, "The attributes to attack, separated by commas (default: the data set's own).")
    flags.DEFINE_integer("originals", None, "Use at most so many of the pictures (default: all that fit into memory).")
    flags.DEFINE_list(
        "augment", None, f"Any of {', '.join(augment.AUGMENTATIONS)}, separated by commas (default none)."
    )
    flags.DEFINE_string("data_dir", None, "Where prepared data lies (default: that of tfds).")
    flags.DEFINE_string("manual_dir", None, "Official files, to prepare data from that is not prepared yet.")
    flags.DEFINE_boolean("list_datasets", False, "Print the catalogue and stop.")
    flags.DEFINE_integer("image_size", None, "Side of the images in pixels (default 32).")
    flags.DEFINE_enum("audit", None, list(BUDGETS), "How much the attackers may compute (default quick).")
    flags.DEFINE_float("utility_budget", None, "Accuracy that may be lost, 0.01 is one point (default: fixed weights).")
    flags.DEFINE_string("config", None, "A config.json to start from; flags given beside it override it.")
    flags.DEFINE_string("workdir", None, "Run folder (default runs/DATASET-DEFENSE-HASH).")
    flags.DEFINE_string("cache_dir", "~/.cache/ani_jax", "Where undefended references and compiled programs are kept.")
    for field in dataclasses.fields(TrainConfig):
        _DEFINE[type(field.default)](field.name, None, f"Training (default {field.default}).")
    for option, owners in _options().items():
        kind = type(next(iter(owners.values())))
        text = "; ".join(f"{name}: default {value}" for name, value in owners.items())
        _DEFINE[kind](option, None, f"Option of a defence ({text}).")


def from_flags() -> RunConfig:
    """The config that the command line asks for.

    Raises:
        ValueError: a value out of range, or an option that the chosen defence does not have.
    """
    base = RunConfig()
    if FLAGS.config is not None:
        try:
            base = RunConfig.read(pathlib.Path(FLAGS.config).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"config={FLAGS.config}: {error}") from None
    given = {name: FLAGS[name].value for name in FLAGS if FLAGS[name].value is not None}
    train = dataclasses.replace(
        base.train, **{f.name: given[f.name] for f in dataclasses.fields(TrainConfig) if f.name in given}
    )
    own = {name: given[name] for name in _OWN if name in given}
    if own.get("dataset", base.dataset) != base.dataset:
        base = dataclasses.replace(base, dataset="digits", primary=None, sensitive=None, originals=None)
    if "primary" in own:
        own.setdefault("sensitive", None)
    chosen = {name: given[name] for name in _options() if name in given}
    same = own.get("defense", base.defense) == base.defense
    return dataclasses.replace(base, train=train, **own, options={**(base.options if same else {}), **chosen})


def command(config: RunConfig, workdir: pathlib.Path) -> str:
    """The command line that reproduces a run, without what is a default anyway."""
    default = RunConfig(defense=config.defense)
    parts = [
        f"--{name}={getattr(config, name)}"
        for name in ("dataset", "primary", "originals", "image_size", "audit", "utility_budget")
        if getattr(config, name) != getattr(default, name)
    ]
    lists = {"sensitive": config.sensitive, "augment": config.augment or None}
    parts += [f"--{name}={','.join(value)}" for name, value in lists.items() if value is not None]
    parts += [f"--{name}={value}" for name, value in config.options.items() if value != default.options[name]]
    parts += [
        f"--{f.name}={getattr(config.train, f.name)}"
        for f in dataclasses.fields(TrainConfig)
        if getattr(config.train, f.name) != getattr(default.train, f.name)
    ]
    return " ".join(["python -m experiments.main", f"--defense={config.defense}", *parts, f"--workdir={workdir}"])


def variant(config: RunConfig) -> str:
    """What a run is called among others: its command without the program, the seed and the folder.

    Example:
        >>> variant(RunConfig("funnel", options={"beta": 0.0}))
        'funnel --beta=0.0'
    """
    unseeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=0))
    return command(unseeded, pathlib.Path()).split("--defense=")[1].rsplit(" --workdir=", 1)[0]


def fail(message: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2."""
    print(f"ani_jax: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs a command; a mistake in the flags costs one line, not a page of usage."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return FLAGS(argv)
        except flags.Error as error:
            fail(_explain(str(error)))

    def quietly(argv: list[str]) -> None:
        if not FLAGS["verbosity"].present:
            # jax tells at INFO which accelerators this machine does not have.
            logging.set_verbosity(logging.WARNING)
        memory.keep()
        main(argv)

    app.run(quietly, flags_parser=parse)


_OWN = ("defense", "dataset", "primary", "sensitive", "originals", "augment", "image_size", "audit", "utility_budget")

_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def _options() -> dict[str, dict[str, Any]]:
    """Option -> {defence: default} over all defences."""
    table: dict[str, dict[str, Any]] = {}
    for name in registry.DEFENSES:
        for option, default in registry.options(name).items():
            table.setdefault(option, {})[name] = default
    return table


def _explain(message: str) -> str:
    """Absl's message, with what is allowed where absl leaves that out."""
    found = re.match(r"flag --(\w+)=(.*?): ", message)
    if found and found[1] in FLAGS and "should be one of" not in message:
        return f"flag --{found[1]}={found[2]}: must be {FLAGS[found[1]].parser.syntactic_help}"
    return message
