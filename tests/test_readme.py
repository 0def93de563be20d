"""README's audits run, word for word; only the attackers are fewer."""

import functools
import pathlib
import re

import pytest

import ani_jax
from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Family
from ani_jax.evaluation.audit import audit
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

TEXT = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
SECTION = re.search(r"^## Audit your own client\s*$(.*?)(?=^## )", TEXT, re.M | re.S)[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.M | re.S)
BOLD = Attribute("bold", 2)
CLOSED = (Family("attribute", BOLD, (attribute.Probe(BOLD),)), Family("decoder", Image(), (decoder.Ridge(Image()),)))


@pytest.fixture(scope="module")
def done():
    """Every block after the one before it, as a reader would run them: what it left behind."""
    patch = pytest.MonkeyPatch()
    patch.setattr(ani_jax, "audit", functools.partial(audit, attacks=CLOSED), raising=False)
    names, found = {}, []
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
        found.append(dict(names))
    patch.undo()
    return found


@pytest.mark.slow
def test_a_function_and_the_models_of_two_libraries_are_audited_in_five_lines(done):
    assert len(done) == 3
    assert all(len(block.strip().splitlines()) <= 7 for block in BLOCKS)
    for names in done:
        evidence = names["evidence"]
        assert [result.status for result in evidence.attacks] == ["ok", "ok"]
        # None of these clients hides anything.
        assert evidence.attack("attribute", "bold").scores["balanced_accuracy"].value > 0.8
        assert evidence.attack("decoder", "image").scores["r2_mean"].value > 0.8


@pytest.mark.slow
def test_the_random_copy_and_the_level_are_on_record(done):
    plain, copied, last = (names["evidence"] for names in done)
    assert copied.attack("attribute", "bold").references["random_encoder"] > 0.9
    assert "random_encoder" not in plain.attack("attribute", "bold").references
    assert any("no random copy" in note for note in plain.notes)
    assert (plain.level, last.level) == ("preview", "preview")
