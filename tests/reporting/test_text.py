import pytest

from ani_jax.reporting.text import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_with_a_letter():
    assert aligned([("a", "bb", ""), ("long", "", "c")]) == "a     bb\nlong      c"


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        aligned([("a",), ("a", "b")])
