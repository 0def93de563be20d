"""Rows of text as columns."""

from collections.abc import Sequence


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
