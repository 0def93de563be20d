"""Rows of text as columns."""

from collections.abc import Callable, Mapping, Sequence

import pandas

from ani_jax.records import Evidence
from ani_jax.reporting.frame import Column, frame, wide


def clients(
    title: str, evidences: Mapping[str, Evidence], columns: Mapping[str, tuple[Callable[[float], str], Column]]
) -> str:
    """Aligned text, a line a client; "–" where something was not measured.

    Args:
        title: of the first column.
        evidences: by what a client is called.
        columns: by title, how the numbers are written and which they are.
    """
    found = wide(frame(evidences.values()), [column for _, column in columns.values()], len(evidences))
    rows: list[Sequence[str]] = [(title, *columns)]
    for name, values in zip(evidences, found.to_numpy(), strict=True):
        cells = zip(values, columns.values(), strict=True)
        rows.append((name, *("–" if pandas.isna(value) else write(value) for value, (write, _) in cells)))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces between them, no trailing spaces.

    Args:
        rows: of one length each, at least one.

    Example:
        >>> print(aligned([("case", "ms"), ("a", "10")]))
        case  ms
        a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
