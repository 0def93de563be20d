"""One self-contained HTML page about an audit: no script, no external address, fit for phones, paper and dark rooms."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from ani_jax.records import Evidence, Picture
from ani_jax.reporting import figures
from ani_jax.reporting.findings import caveats, form, headline, reference, small, targets
from ani_jax.reporting.frame import ATTACK, frame
from ani_jax.reporting.table import footnotes, parts, sections


@dataclasses.dataclass(frozen=True)
class Image:
    """A figure on the page: a data URI, what it shows for those who cannot see it, and its caption."""

    uri: str
    alt: str
    caption: str = ""


def render(
    evidences: Sequence[Evidence],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    command: str,
    config: Mapping[str, Any],
    provenance: str = "",
    bare: bool = False,
) -> str:
    """The report as one HTML document; equal inputs give equal bytes, and every name is escaped.

    Args:
        evidences: audits to compare; changes are measured against the one called "none", else the first.
        metrics: subject -> its training log (see :func:`ani_jax.reporting.figures.curves`); may be empty.
        command: the exact command that reproduces the run.
        config: the run's configuration, shown as JSON (values that JSON does not know are shown as text).
        provenance: where the defence comes from and which parts are published, code or reconstruction.
        bare: without a document around it, for a notebook.

    Raises:
        ValueError: no evidence, or a gallery whose shape differs from its originals'.
    """
    base = evidences[reference(evidences)]
    found, divided = sections(evidences), parts(evidences)
    others = " and ".join(evidence.subject for evidence in evidences if evidence is not base)
    title = f"{others} on {base.dataset}, against {base.subject}" if others else f"{base.subject} on {base.dataset}"
    scatters = []
    for target in figures.measured(evidences):
        alt = f"Scatter plot of accuracy against leakage of {target}, one point per subject; the table has the numbers."
        scatters.append(Image(data_uri("svg+xml", figures.scatter(evidences, (target,))), alt))
    curves: dict[str, list[Image]] = {}
    for subject, log in metrics.items():
        for name, (steps, values) in figures.scalars(log).items():
            first, last = (f"{values[i]:.3g} at step {steps[i]:.0f}" for i in (0, -1))
            alt = f"{subject}: {name} from {first} to {last}."
            picture = data_uri("svg+xml", figures.curves(log, (name,), columns=1))
            curves.setdefault(subject, []).append(Image(picture, alt))
    plateaus = []
    for evidence in evidences:
        if (picture := figures.plateaus(evidence)) is not None:
            alt = f"{evidence.subject}: strength on validation of every trained attacker, stage by stage."
            plateaus.append(Image(data_uri("svg+xml", picture), alt, evidence.subject))
    numbers = frame(evidences)
    strengths = (
        numbers[(numbers.part == "attack") & (numbers.metric == numbers.strength)].set_index(ATTACK).value.dropna()
    )
    galleries = []
    # Audits of the same test images share a gallery: reconstructions are compared below one row of originals.
    for originals in dict.fromkeys(evidence.gallery for evidence in evidences if evidence.gallery):
        rows: dict[str, Picture] = {}
        for run, evidence in enumerate(evidences):
            for result in evidence.attacks:
                if evidence.gallery != originals or not result.gallery or result.status != "ok":
                    continue
                words = evidence.words(result.target)
                asked = "" if result.queries == 1 else f", {result.queries} releases"
                value = strengths.get((run, result.target, result.queries, result.attack))
                metric = words.metric(words.strength)
                told = "" if value is None else f" ({metric.label} on test {form(words, metric.name)(value)})"
                rows[f"{evidence.subject}: {result.attack} attack{asked}{told}"] = result.gallery
        alt = f"{originals.shape[0]} test images above what attackers reconstruct from each release."
        caption = f"From top to bottom: {'; '.join(('original', *rows))}."
        galleries.append(Image(data_uri("png", figures.gallery(originals, rows)), alt, caption))
    return document(
        "report.html",
        base=base,
        title=title,
        evidences=evidences,
        headlines=headline(evidences),
        caveats=caveats(evidences),
        sections=found,
        parts=divided,
        notes=footnotes((*found, *divided)),
        shown={metric.name for words in targets(evidences) for metric in words.metrics},
        scatters=scatters,
        galleries=galleries,
        curves=curves,
        plateaus=plateaus,
        command=command,
        config=json.dumps(dict(config), indent=2, default=str, ensure_ascii=False),
        provenance=provenance,
        bare=bare,
    )


def document(template: str, *, bare: bool = False, **values: Any) -> str:
    """A page of the house: a template that extends ``base.html``, with every value escaped.

    Args:
        template: its file name.
        bare: as an element of somebody else's page, whose style reaches nothing around it.
        values: what it shows; "title", "headlines" and "caveats" are the frame's.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ani_jax.reporting"),
        autoescape=True,
        # A value that nobody gave is an error and not a gap in the page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["small"] = lambda value: "–" if value is None else small(value)
    return environment.get_template(template).render(values, bare=bare)


def data_uri(kind: str, data: bytes) -> str:
    """An image inside the page.

    Args:
        kind: of the image, "png" or "svg+xml".
        data: the file.

    Example:
        >>> data_uri("png", b"abc")
        'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
