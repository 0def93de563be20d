"""What is asked for, as plain data: the config of a run, and that of an audit of somebody's own function.

This is the top floor: it knows every registry, so that whatever a config names is there before anything is loaded. A config is
frozen, checked when it is made, JSON both ways, and its digest names its folder. Flags and commands are not its business.
"""

import bisect
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp

from ani_jax.attacks.base import level_named
from ani_jax.data import augment, catalog, own
from ani_jax.data.files import DataError
from ani_jax.defenses import registry
from ani_jax.defenses.base import ClientApply, Defense
from ani_jax.evaluation.cost import multiply_accumulates
from ani_jax.training.config import TrainConfig
from ani_jax.types import Data

FORMAT = 4
"""Of what lies in a config's folder. It is written into every config and hashed: no other format is ever taken for this one."""
FEWEST = 200
"""Originals of which the part that trains, 36%, makes up a batch of the undefended reference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What every audit has to be told: how much may be computed.

    Attributes:
        audit: level of the audit.
    """

    audit: str = "preview"

    def __post_init__(self):
        level_named(self.audit, "audit")

    def json(self) -> str:
        """The config as it is written into its folder."""
        values = dataclasses.asdict(self)
        told = {field.name: values[field.name] for field in dataclasses.fields(self) if field.compare}
        # Sorted, since it is hashed: the order of fields must not decide the name of a folder.
        return json.dumps({"format": FORMAT, **told}, indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def read(cls, text: str) -> Self:
        """The config from what :meth:`json` wrote.

        Raises:
            ValueError: it is not one, or of another format; the message says why.
        """
        try:
            values = json.loads(text)
            # The first format did not say which one it was.
            found = values.pop("format", 1)
            if found != FORMAT:
                raise ValueError(
                    f"format {found} is that of another version of ani_jax; this one reads format {FORMAT}"
                )
            if "train" in values:
                values["train"] = TrainConfig(**values["train"])
            return cls(**values)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a config: {error}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the result by name, options and training among the rest."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            parts = value if isinstance(value, Mapping) else vars(value) if dataclasses.is_dataclass(value) else None
            if field.compare:
                found |= {field.name: value} if parts is None else parts
        return found

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that differ for different configs."""
        return hashlib.sha256(self.json().encode()).hexdigest()[:10]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """What an audit of a client has to be told as well: the data and its tasks.

    Attributes:
        dataset: a name in the catalogue, "folder:PATH", or any tfds data set that is prepared.
        primary: the task, None for the catalogue's; needed for a data set that is not in the catalogue.
        sensitive: the attributes that are attacked, None for the catalogue's.
        group_column: column of a folder's table that says who is shown.
        contents: digest of a folder's files, found when the config is made; None of everything else.
        originals: use at most so many of the pictures; None is all that fit into memory.
        image_size: side of the square images in pixels.
        data_dir: where prepared data lies, None for tfds's own default. It tells nothing about the result, so it takes no part in
            equality, JSON and digest.
        manual_dir: official files, from which data is prepared that is not there yet; likewise.
    """

    dataset: str = "digits"
    primary: str | None = None
    sensitive: tuple[str, ...] | None = None
    group_column: str | None = None
    contents: str | None = None
    originals: int | None = None
    image_size: int = 32
    data_dir: str | None = dataclasses.field(default=None, compare=False)
    manual_dir: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        super().__post_init__()
        if self.sensitive is not None:
            object.__setattr__(self, "sensitive", tuple(self.sensitive))
        if self.dataset.startswith(own.PREFIX):
            path = Path(self.dataset.removeprefix(own.PREFIX)).expanduser().resolve()
            object.__setattr__(self, "dataset", f"{own.PREFIX}{path}")
            if self.contents is None:
                object.__setattr__(self, "contents", own.Folder(path).contents)
        chosen = self.tasks
        if self.dataset in catalog.names():
            # The catalogue's own choice is written as None, however it was asked for.
            entry = catalog.find(self.dataset)
            if chosen[0] == entry.primary:
                object.__setattr__(self, "primary", None)
            if chosen[1] == entry.tasks(self.primary, None)[1]:
                object.__setattr__(self, "sensitive", None)

    @property
    def tasks(self) -> tuple[str, tuple[str, ...]]:
        """Names of the task and of the attributes."""
        return catalog.find(self.dataset, self.primary, self.group_column).tasks(self.primary, self.sensitive)

    @property
    def stem(self) -> str:
        """How the data is called in the name of a folder: a folder by what is in it, whatever it is called."""
        return self.dataset if self.contents is None else f"folder-{self.contents}"

    def load(self, seed: int, augmented: tuple[str, ...] = ()) -> Data:
        """The data, split by a seed.

        Args:
            seed: of the splits.
            augmented: how the pictures that train are changed.

        Raises:
            ValueError, DataError: see :func:`ani_jax.data.catalog.load`.
        """
        primary, sensitive = self.tasks
        path = Path(self.dataset.removeprefix(own.PREFIX))
        if self.contents is not None and own.Folder(path).contents != self.contents:
            raise DataError(
                f"dataset={self.dataset}: its files are no longer those of this config; name another workdir"
            )
        return catalog.load(
            self.dataset,
            seed,
            self.image_size,
            primary=primary,
            sensitive=sensitive,
            group=self.group_column,
            originals=self.originals,
            augment=augmented,
            data_dir=self.data_dir,
            manual_dir=self.manual_dir,
        )


@dataclasses.dataclass(frozen=True)
class AuditConfig(DataConfig):
    """What determines the result of an audit of a function, its code aside.

    Attributes:
        release: the client as package.module:function.
        predict: the provider's network likewise, None without one.
        seed: of split and audit.
    """

    release: str
    predict: str | None = None
    seed: int = 0
    audit: str = dataclasses.field(default="standard", kw_only=True)


@dataclasses.dataclass(frozen=True)
class PairsConfig(Config):
    """What determines the result of an audit of recorded pairs, the file's content aside.

    Attributes:
        pairs: the file.
        seed: of the audit, and of the splits where the file has none.
    """

    pairs: str
    seed: int = 0
    audit: str = dataclasses.field(default="standard", kw_only=True)


@dataclasses.dataclass(frozen=True)
class RunConfig(DataConfig):
    """What determines the result of a run.

    Attributes:
        defense: a name in the registry.
        utility_budget: accuracy that the defence may cost (0.01 is one point); its privacy weight is then found by dual
            ascent. None leaves the weights as they are given.
        reference_steps: how long the undefended reference is trained; one that is cut short flatters every defence.
        reference_width: its width, whatever the defence's own: a narrow one flatters likewise.
        client_macs: multiply-accumulates that the client may cost an image; a dearer one is refused. None for any number.
        augment: how the defence's training pictures are changed at every step.
        options: options of the defence; the ones that are not named keep their defaults.
        train: how the defence is trained, its seed included, which also seeds split and audit.

    Example:
        >>> config = RunConfig("funnel", options={"beta": 0.5}, data_dir="elsewhere")
        >>> RunConfig.read(config.json()) == config, config.digest == RunConfig("funnel").digest
        (True, False)
    """

    defense: str = "funnel"
    utility_budget: float | None = None
    reference_steps: int = registry.options("none")["steps"]
    reference_width: int = registry.options("none")["width"]
    client_macs: int | None = None
    augment: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        if self.defense not in registry.DEFENSES:
            raise ValueError(f"defense={self.defense}: must be one of {', '.join(registry.DEFENSES)}")
        super().__post_init__()
        for name in ("reference_steps", "reference_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.image_size < 16 or self.image_size % 8:
            raise ValueError(f"image_size={self.image_size}: must be a multiple of 8, at least 16")
        if self.originals is not None and (self.originals < FEWEST or self.dataset.startswith("digits")):
            raise ValueError(f"originals={self.originals}: must be at least {FEWEST}, and cannot be chosen for digits")
        augment.check(self.augment)
        object.__setattr__(self, "augment", tuple(self.augment))
        # Options left at their defaults and the same ones spelled out are one config, with one folder.
        object.__setattr__(self, "options", registry.options(self.defense) | dict(self.options))
        # A mistake in an option is told here, with the data still to be loaded.
        weights = self.template().weights.privacy
        if self.utility_budget is None:
            return
        spent = f"utility_budget={self.utility_budget}"
        if not 0 < self.utility_budget <= 0.5:
            raise ValueError(f"{spent}: must be in (0, 0.5]")
        if not weights:
            able = ", ".join(name for name, kind in registry.DEFENSES.items() if kind().weights.privacy)
            raise ValueError(f"{spent}: {self.defense} has no privacy weight; {able} have")
        if not any(self.options[name] for name in weights):
            raise ValueError(f"{spent}: scales {', '.join(weights)}, of which one must be above 0")

    @classmethod
    def usual(cls, defense: str = defense, dataset: str = DataConfig.dataset) -> "RunConfig":
        """What runs where nothing else is asked: the general defaults, and over them what suits the data set.

        Args:
            defense: a name in the registry.
            dataset: whose entry in the catalogue says what suits; it is not the config's own, which stays to be named.

        Example:
            >>> RunConfig.usual("ani", "digits") == RunConfig("ani")
            True
        """
        known = {entry.name: entry.usual for entry in catalog.ENTRIES}.get(dataset, {})
        told = {**known, **known.get(defense, {})}
        own, train, options = (
            {name: told[name] for name in names if name in told}
            for names in (
                vars(cls()),
                vars(TrainConfig()),
                registry.options(defense) if defense in registry.DEFENSES else (),
            )
        )
        return cls(**{**own, "defense": defense, "options": options, "train": TrainConfig(**train)})

    def template(self) -> Defense:
        """The defence as its options say, before there is data to build it for: of the attributes, the names are known."""
        size, attributes = (self.image_size, self.image_size, 3), tuple((name, 0) for name in self.tasks[1])
        return registry.build(self.defense, image_shape=size, attributes=attributes, **self.options)

    def build(self, data: Data) -> Defense:
        """The defence for its data.

        Raises:
            ValueError: an option that does not suit the data.
        """
        size = (self.image_size, self.image_size, 3)
        attributes = tuple((task.name, task.classes) for task in data.sensitive)
        build = functools.partial(registry.build, self.defense, data.primary.classes, size, attributes=attributes)
        defense, allowed = build(**self.options), self.client_macs
        if allowed is not None and (macs := client_macs(defense)) > allowed:
            widths = range(1, defense.width)
            fit = bisect.bisect(
                widths, allowed, key=lambda width: client_macs(build(**{**self.options, "width": width}))
            )
            hint = f"; --width={fit} is the widest that fits" if fit else ""
            raise ValueError(
                f"client_macs={allowed}: must be at least {macs}, which {self.defense} costs a device{hint}"
            )
        return defense

    def reference(self) -> "RunConfig":
        """The undefended run that this one is measured against: same data, seed, split and backbone."""
        defense = self.template()
        shared = {name: getattr(defense, name) for name in ("backbone", "depth") if hasattr(defense, name)}
        shared |= {"steps": self.reference_steps, "width": self.reference_width}
        # The seed and nothing else: one reference serves every run of that seed, however the run itself is trained.
        train = TrainConfig(seed=self.train.seed)
        usual = {name: getattr(RunConfig, name) for name in ("reference_steps", "reference_width")}
        return dataclasses.replace(
            self, defense="none", utility_budget=None, client_macs=None, options=shared, train=train, **usual
        )


def client_macs(defense: Defense) -> int:
    """Multiply-accumulates of one image through a defence's client, before there are parameters.

    Args:
        defense: built for its data.

    Example:
        >>> from ani_jax.defenses import registry
        >>> client_macs(registry.build("none", 10, (32, 32, 3), width=8, light=True))
        57344
    """
    client, key = defense.client, jax.random.key(0)
    image = jnp.zeros((1, *defense.image_shape), jnp.float32)
    variables = jax.eval_shape(lambda: client.init(key, image, key, train=False))
    return multiply_accumulates(ClientApply(client), variables, image, key)
