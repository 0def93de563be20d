"""Figures decode, have the right size and pixels, are equal for equal inputs, and leave matplotlib as it was."""

import dataclasses
import io
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ani_jax.records import Look, Picture
from ani_jax.reporting import figures


def svg_width(data):
    return float(ElementTree.fromstring(data).attrib["width"].removesuffix("pt"))


def drawn(data):
    """The texts of an SVG, which matplotlib repeats as comments beside the outlines of their letters."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.fromstring(data, parser)
    return [node.text.strip() for node in root.iter(ElementTree.Comment)]  # type: ignore[arg-type]


def test_scalars_are_flattened_and_gaps_kept():
    found = figures.scalars(
        [{"step": 5, "phase": 1, "loss": float("inf"), "t": {"a": np.float32(2)}}, {"loss": 1, "x": "y"}]
    )
    assert list(found) == ["loss", "t/a"]
    np.testing.assert_array_equal(found["loss"], [[5, 1], [np.nan, 1]])
    np.testing.assert_array_equal(found["t/a"], [[5], [2]])


def test_curves_have_one_panel_per_scalar(log):
    data = figures.curves(log)
    assert {"loss", "terms / ce", "step"} <= set(drawn(data))
    assert drawn(data).count("step") == 2
    assert svg_width(data) == pytest.approx(2 * figures.PANEL[0] * 72)
    assert svg_width(figures.curves(log, ("loss",))) == pytest.approx(figures.PANEL[0] * 72)


def test_curves_survive_constant_missing_and_single_values():
    nothing = float("nan")
    assert figures.curves([{"a": 1.0, "b": nothing}]).startswith(b"<?xml")
    assert figures.curves([{"step": i, "a": 1.0} for i in range(5000)]).startswith(b"<?xml")


@pytest.mark.parametrize(("metrics", "names"), [([], None), ([{"step": 1}], None), ([{"loss": 1.0}], ("gain",))])
def test_curves_refuse_what_was_not_logged(metrics, names):
    with pytest.raises(ValueError, match=r"^names is .*expected"):
        figures.curves(metrics, names)


def staged(result, **looks):
    """The result with attackers that were trained in stages, of so many looks."""
    attacker = result.attackers[0]
    more = [
        dataclasses.replace(
            attacker, name=name, curve=tuple(Look(100 * 2**i, 0.5 / (i + 1), 0.3 + 0.1 * i, 0.1) for i in range(count))
        )
        for name, count in looks.items()
    ]
    return dataclasses.replace(result, attackers=(*result.attackers, *more))


def test_plateaus_have_one_panel_per_attack_with_stages(funnel):
    assert figures.plateaus(funnel) is None
    ink, image = funnel.attack("attribute", "ink"), funnel.attack("decoder", "image")
    # A start alone is drawn beside those that were trained on, and is no panel of its own.
    attacks = (staged(ink, local=3, linear=1), staged(image, residual=1))
    data = figures.plateaus(dataclasses.replace(funnel, attacks=attacks))
    assert {"attribute ink", "balanced accuracy, %", "local", "linear"} <= set(drawn(data))
    assert {"100", "200", "400"} <= set(drawn(data))
    assert svg_width(data) == pytest.approx(figures.PANEL[0] * 72)
    both = figures.plateaus(dataclasses.replace(funnel, attacks=(attacks[0], staged(image, residual=2))))
    assert {"attribute ink", "decoder image", "MSE"} <= set(drawn(both))


def test_scatter_has_one_panel_per_target(none, funnel):
    data = figures.scatter((none, funnel))
    assert figures.measured((none, funnel)) == ("ink", "image")
    assert {"ink: balanced accuracy, %", "image: R² over class mean", "none", "funnel"} <= set(drawn(data))
    with pytest.raises(ValueError, match="measures is"):
        figures.scatter((none,), ("paper",))


def test_gallery_enlarges_whole_pixels_in_order():
    rng = np.random.default_rng(0)
    originals, guess = (rng.integers(0, 256, (3, 8, 8, 3), np.uint8) for _ in range(2))
    width = 400
    data = figures.gallery(Picture.of(originals / 255), {"none": Picture.of(guess / 255)}, width)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    scale, gap, line = 15, 6, 34
    assert pixels.shape == (2 * (8 * scale + line) + gap, 3 * (8 * scale + gap) + gap, 3)
    for row, images in enumerate((originals, guess)):
        for column, image in enumerate(images):
            top, left = line + row * (8 * scale + line), gap + column * (8 * scale + gap)
            shown = pixels[top : top + 8 * scale, left : left + 8 * scale]
            np.testing.assert_array_equal(shown, image.repeat(scale, 0).repeat(scale, 1))


def test_gallery_takes_grey_images_and_refuses_other_shapes():
    grey = Picture.of(np.zeros((2, 4, 4, 1)))
    assert Image.open(io.BytesIO(figures.gallery(grey, {}))).width <= 900
    with pytest.raises(ValueError, match=r"rows\['funnel'\] has shape"):
        figures.gallery(grey, {"funnel": Picture.of(np.zeros((3, 4, 4, 1)))})


def test_bytes_are_deterministic_and_free_of_dates(none, funnel, log):
    def draw():
        picture = none.gallery
        return figures.curves(log), figures.scatter((none, funnel)), figures.gallery(picture, {"a": picture})

    first = draw()
    assert first == draw()
    assert not any(b"<dc:date>" in data or b"Software" in data for data in first)


def test_hostile_names_are_text(none):
    name = "$\\frac{--><script>alert(1)</script>\x00漢"
    data = figures.curves([{"step": 0, name: 1.0}])
    assert not any(
        node.tag.endswith("script") for node in ElementTree.fromstring(data).iter() if isinstance(node.tag, str)
    )
    assert figures.gallery(none.gallery, {name: none.gallery}).startswith(b"\x89PNG")


def test_settings_are_left_alone_and_the_readers_own_do_not_matter(log):
    plain = figures.curves(log)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert figures.curves(log) == plain
        assert dict(matplotlib.rcParams) == before


def test_figures_follow_dark_pages(log):
    assert b"prefers-color-scheme:dark" in figures.curves(log)
