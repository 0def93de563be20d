"""Flags at the edge: absl flags in, one validated frozen config out, one line for every mistake (exit code 2)."""

import dataclasses
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from ani_jax.config import Config, RunConfig
from ani_jax.data.augment import AUGMENTATIONS
from ani_jax.defenses import registry
from ani_jax.training.config import TrainConfig
from ani_jax.training.loop import Stopped, TrainingError
from ani_jax.training.processes import Elsewhere
from experiments import process
from experiments.machine import STOPPED

FLAGS = flags.FLAGS
KINDS = {bool: "boolean", int: "integer", float: "float", str: "string", list: "list"}
SHARED: dict[str, tuple[Any, Any, str]] = {
    "dataset": (str, None, "What to attack on (default digits), or folder:PATH; main --list_datasets lists them."),
    "primary": (str, None, "The task (default: the data set's own)."),
    "sensitive": (list, None, "The attributes to attack, separated by commas (default: the data set's own)."),
    "group_column": (str, None, "Column of a folder's labels.csv that says who is shown (default: none does)."),
    "originals": (int, None, "Use at most so many of the pictures (default: all that fit into memory)."),
    "image_size": (int, None, "Side of the images in pixels (default 32)."),
    "audit": (str, None, "How much attackers may compute: preview (main's default, no evidence), standard, thorough."),
    "workdir": (str, None, "Folder to write to (default one below runs/, named by what is asked)."),
    "data_dir": (str, None, "Where prepared data lies (default: that of tfds)."),
    "manual_dir": (str, None, "Official files, to prepare data from that is not prepared yet."),
    "cache_dir": (str, "~/.cache/ani_jax", "Where undefended references, controls and compiled programs are kept."),
}
"""What several commands take: what kind of value, which by default, and the help."""


def define(*shared: str, **own: tuple[Any, Any, str]) -> None:
    """Defines flags: ``SHARED`` ones by name, others as those are; the kind is a type, or the values that are allowed."""
    for name, (kind, default, text) in {**{name: SHARED[name] for name in shared}, **own}.items():
        # --help shows a module's own flags, so they are the command's.
        if isinstance(kind, type):
            getattr(flags, f"DEFINE_{KINDS[kind]}")(name, default, text, module_name=sys.argv[0])
        else:
            flags.DEFINE_enum(name, default, list(kind), text, module_name=sys.argv[0])


def define_run() -> None:
    """Defines the flags of a training run; every option of every defence becomes a flag of its own."""
    define(
        *SHARED,
        defense=(registry.DEFENSES, None, "How the client is protected (default funnel)."),
        augment=(list, None, f"Any of {', '.join(AUGMENTATIONS)}, separated by commas (default none)."),
        utility_budget=(float, None, "Accuracy that may be lost, 0.01 is one point (default: fixed weights)."),
        client_macs=(int, None, "Multiply-accumulates that the client may cost a device (default: any number)."),
        reference_steps=(int, None, f"Steps of the undefended reference (default {RunConfig.reference_steps})."),
        reference_width=(int, None, f"Its width (default {RunConfig.reference_width})."),
        config=(str, None, "A config.json to start from; flags given beside it override it."),
    )
    for field in dataclasses.fields(TrainConfig):
        define(**{field.name: (type(field.default), None, f"Training (default {field.default}).")})
    for option, owners in options().items():
        text = "; ".join(f"{name}: default {value}" for name, value in owners.items())
        define(**{option: (type(next(iter(owners.values()))), None, f"Option of a defence ({text}).")})


def options() -> dict[str, dict[str, Any]]:
    """Option -> {defence: default} over all defences."""
    table: dict[str, dict[str, Any]] = {}
    for name in registry.DEFENSES:
        for option, default in registry.options(name).items():
            table.setdefault(option, {})[name] = default
    return table


def given(names: Collection[str]) -> dict[str, Any]:
    """The values of those flags that are on the command line."""
    return {name: FLAGS[name].value for name in names if name in FLAGS and FLAGS[name].value is not None}


def from_flags(defense: str | None = None, without: Collection[str] = ()) -> RunConfig:
    """The config that the command line asks for; a defence may be given instead of the flag, and options left out."""
    own = given(vars(RunConfig())) | ({"defense": defense} if defense else {})
    base = RunConfig.usual(**{name: own[name] for name in ("defense", "dataset") if name in own})
    if FLAGS.config is not None:
        try:
            base = RunConfig.read(Path(FLAGS.config).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"config={FLAGS.config}: {error}") from None
    if own.get("dataset", base.dataset) != base.dataset:
        # What belongs to the one data set says nothing of the other.
        no = dict.fromkeys(("primary", "sensitive", "group_column", "contents", "originals"))
        base = dataclasses.replace(base, dataset="digits", **no)
    if "primary" in own:
        own.setdefault("sensitive", None)
    chosen = given([name for name in options() if name not in without])
    if own.get("defense", base.defense) == base.defense:
        chosen = {**base.options, **chosen}
    train = dataclasses.replace(base.train, **given(vars(base.train)))
    return dataclasses.replace(base, **own, options=chosen, train=train)


def placed(run: Any) -> Any:
    """A finished run whose data lies where the command line says, of which no config.json knows."""
    config = dataclasses.replace(run.config, data_dir=FLAGS.data_dir, manual_dir=FLAGS.manual_dir)
    return dataclasses.replace(run, config=config)


def cache() -> Path:
    """Where references are, and where this process keeps its compiled programs from now on."""
    found = Path(FLAGS.cache_dir).expanduser()
    process.keep_programs(found)
    return found


def token(path: str) -> str:
    """What a file of a bearer token holds."""
    try:
        found = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"token_file={path}: cannot be read ({error})") from None
    if len(found) < 16 or not found.isascii() or not found.isprintable() or " " in found:
        raise ValueError(f"token_file={path}: must hold a token of at least 16 ASCII characters without blanks")
    return found


def refuse(names: Collection[str], reason: str) -> None:
    """Raises a ValueError where one of these flags is on the command line."""
    for name in names:
        if name in FLAGS and FLAGS[name].present:
            raise ValueError(f"{FLAGS[name].serialize().removeprefix('--')}: {reason}")


def spelled(config: Config, default: Config) -> list[str]:
    """The flags that make one config out of another of its kind."""
    # What a folder holds is found out, and no flag.
    found = {name: value for name, value in config.settings.items() if name != "contents"}
    changed = {name: value for name, value in found.items() if value != default.settings[name]}
    return [f"--{name}={','.join(value) if isinstance(value, tuple) else value}" for name, value in changed.items()]


def folders(config: Config, workdir: Path) -> list[str]:
    """The flags that say where data lies and what is written."""
    places = {name: getattr(config, name, None) for name in ("data_dir", "manual_dir")} | {"workdir": workdir}
    return [f"--{name}={value}" for name, value in places.items() if value is not None]


def command(config: RunConfig, workdir: Path) -> str:
    """The command line that reproduces a run, without what is a default anyway."""
    changed = spelled(config, RunConfig.usual(config.defense, config.dataset))
    return " ".join(["python -m experiments.main", f"--defense={config.defense}", *changed, *folders(config, workdir)])


def variant(config: RunConfig) -> str:
    """What a run is called among others, like "funnel --beta=0.0": its command without the program, the seed and folders."""
    changed = spelled(config, RunConfig.usual(config.defense, config.dataset))
    return " ".join([config.defense, *(flag for flag in changed if not flag.startswith("--seed="))])


def fail(message: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2."""
    print(f"ani_jax: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def run(main: Callable[[list[str]], None], others: str = "") -> None:
    """Parses the flags and runs a command; every mistake costs one line, and no page of usage.

    The command receives what stands beside the flags, and ``others`` says what that is; nothing may stand there where it is "".
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            return FLAGS(argv)
        except flags.Error as error:
            found = re.match(r"flag --(\w+)=(.*?): (?!.*should be one of)", str(error))
            if found is None or found[1] not in FLAGS:
                fail(str(error))
            # absl does not say what is allowed.
            fail(f"flag --{found[1]}={found[2]}: must be {FLAGS[found[1]].parser.syntactic_help}")

    def guarded(argv: list[str]) -> None:
        names = argv[1:]
        if names and not others:
            fail(f"argument {names[0]}: not understood; options are written --name=value")
        if others and not names:
            fail(f"argument {others}: name at least one run folder")
        if not FLAGS["verbosity"].present:
            # jax tells at INFO which accelerators this machine does not have.
            logging.set_verbosity(logging.WARNING)
        process.keep_memory()
        try:
            main(names)
        except Stopped as stopped:
            print(f"ani_jax: stopped at {stopped}; the same command goes on from there", file=sys.stderr)
            raise SystemExit(STOPPED) from None
        except (TrainingError, Elsewhere) as error:
            fail(str(error))
        except ValueError as error:
            # What the user gave comes first, as in "seed=-1: must be 0 or more". Any other error is ours and keeps its trace.
            name, value = re.match(r"(\w*)(=?)", str(error)).groups()  # type: ignore[union-attr]
            if not value and name not in FLAGS:
                raise
            fail(f"flag --{error}" if name in FLAGS else str(error))

    app.run(guarded, flags_parser=parse)
