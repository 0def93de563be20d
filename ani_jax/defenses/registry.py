"""Names to defences. A method is a file beside this one, whose class is marked by :func:`register`."""

import dataclasses
from typing import Any, TypeVar

from ani_jax.defenses.base import UNKNOWN, Defense

DEFENSES: dict[str, type[Defense]] = {}
"""Every defence by the name that ``--defense`` takes."""

GIVEN = ("classes", "image_shape", "axis_name", "attributes")
"""Fields that follow from the data and the machine, not from the user."""

Kind = TypeVar("Kind", bound=type[Defense])


def register(kind: Kind) -> Kind:
    """Makes a defence known by its name; to be written above its class.

    Raises:
        ValueError: another defence has that name.
    """
    if DEFENSES.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"defense={kind.name}: must be a new name, {DEFENSES[kind.name].__module__} has it")
    return kind


def options(name: str) -> dict[str, Any]:
    """What a user may set of a defence: option -> default.

    Raises:
        ValueError: no such defence.

    Example:
        >>> options("none")["width"]
        64
    """
    if name not in DEFENSES:
        raise ValueError(f"defense={name}: must be one of {', '.join(DEFENSES)}")
    return {f.name: f.default for f in dataclasses.fields(DEFENSES[name]) if f.name not in GIVEN}


def build(
    name: str,
    classes: int = UNKNOWN,
    image_shape: tuple[int, int, int] = UNKNOWN,
    *,
    axis_name: str | None = None,
    attributes: tuple[tuple[str, int], ...] = (),
    **chosen: Any,
) -> Defense:
    """A defence for one task; of an unknown one, the options are checked as far as that goes.

    Args:
        name: a key of ``DEFENSES``.
        classes: of the primary task, None before there is data.
        image_shape: (height, width, channels), None before there is data.
        axis_name: device axis of batch statistics.
        attributes: name and number of classes of each sensitive attribute of the data; names alone count where ``classes`` is
            None.
        **chosen: options of the defence; the others keep their defaults.

    Raises:
        ValueError: unknown defence or option, or a value out of range; the message names it and what is allowed.

    Example:
        >>> build("funnel", 10, (32, 32, 3), beta=0.4).beta
        0.4
        >>> build("funnel", beta=-1.0)
        Traceback (most recent call last):
        ValueError: beta=-1.0: must be a finite number, 0 or more
    """
    allowed = options(name)
    for option in chosen:
        if option not in allowed:
            raise ValueError(f"{option}: not an option of {name}, which has {', '.join(allowed)}")
    given = {"classes": classes, "image_shape": image_shape, "axis_name": axis_name, "attributes": attributes}
    return DEFENSES[name](**given, **chosen)
