"""One self-contained HTML page about an audit: no script, no external address, fit for phones, paper and dark rooms."""

import base64
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from ani_jax.records import AttackResult, Evidence, Picture
from ani_jax.reporting import figures
from ani_jax.reporting.findings import caveats, headline, reference, score, small
from ani_jax.reporting.table import footnotes, sections


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
) -> str:
    """The report as one HTML document; equal inputs give equal bytes, and every name is escaped.

    Args:
        evidences: audits to compare; changes are measured against the one called "none", else the first.
        metrics: subject -> its training log (see :func:`ani_jax.reporting.figures.curves`); may be empty.
        command: the exact command that reproduces the run.
        config: the run's configuration, shown as JSON (values that JSON does not know are shown as text).
        provenance: where the defence comes from and which parts are published, code or reconstruction.

    Raises:
        ValueError: no evidence, or a gallery whose shape differs from its originals'.
    """
    base = evidences[reference(evidences)]
    found = sections(evidences)
    return document(
        "report.html",
        base=base,
        title=_title(evidences),
        evidences=evidences,
        headlines=headline(evidences),
        caveats=caveats(evidences),
        sections=found,
        notes=footnotes(found),
        scatters=list(_scatters(evidences)),
        galleries=list(_galleries(evidences)),
        curves={subject: list(_curves(subject, log)) for subject, log in metrics.items() if figures.scalars(log)},
        families=list(_families(evidences)),
        command=command,
        config=json.dumps(dict(config), indent=2, default=str, ensure_ascii=False),
        provenance=provenance,
    )


def document(template: str, **values: Any) -> str:
    """A page of the house: a template that extends ``base.html``, with every value escaped.

    Args:
        template: its file name.
        values: what it shows; "title", "headlines" and "caveats" are the frame's.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ani_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


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


def _title(evidences: Sequence[Evidence]) -> str:
    base = reference(evidences)
    others = " and ".join(e.subject for i, e in enumerate(evidences) if i != base)
    subject, dataset = evidences[base].subject, evidences[base].dataset
    return f"{others} on {dataset}, against {subject}" if others else f"{subject} on {dataset}"


def _scatters(evidences: Sequence[Evidence]) -> Iterator[Image]:
    for target in figures.measured(evidences):
        alt = f"Scatter plot of accuracy against leakage of {target}, one point per subject; the table has the numbers."
        yield Image(data_uri("svg+xml", figures.scatter(evidences, (target,))), alt)


def _galleries(evidences: Sequence[Evidence]) -> Iterator[Image]:
    """One gallery for every distinct set of originals, with all subjects' reconstructions below them."""
    for originals in dict.fromkeys(evidence.gallery for evidence in evidences if evidence.gallery):
        rows: dict[str, Picture] = {}
        for evidence in evidences:
            if evidence.gallery == originals:
                rows |= {_row_label(evidence, r): r.gallery for r in evidence.attacks if r.gallery and r.status == "ok"}
        alt = f"{originals.shape[0]} test images above what attackers reconstruct from each release."
        caption = f"From top to bottom: {'; '.join(('original', *rows))}."
        yield Image(data_uri("png", figures.gallery(originals, rows)), alt, caption)


def _row_label(evidence: Evidence, result: AttackResult) -> str:
    asked = "" if result.queries == 1 else f", {result.queries} releases"
    error = score(result, "mse")
    measured = "" if error is None else f" (MSE on test {small(error)})"
    return f"{evidence.subject}: {result.attack} attack{asked}{measured}"


def _curves(subject: str, log: Sequence[Mapping[str, Any]]) -> Iterator[Image]:
    for name, (steps, values) in figures.scalars(log).items():
        first, last = (f"{values[i]:.3g} at step {steps[i]:.0f}" for i in (0, -1))
        alt = f"{subject}: {name} from {first} to {last}."
        yield Image(data_uri("svg+xml", figures.curves(log, (name,), columns=1)), alt)


def _families(evidences: Sequence[Evidence]) -> Iterator[dict[str, Any]]:
    """Every attack with its members and the largest of their test scores, the envelope."""
    for evidence in evidences:
        for result in evidence.attacks:
            tests = [member.test for member in result.members if member.test is not None]
            envelope = small(max(tests)) if tests else "–"
            yield {"subject": evidence.subject, "result": result, "envelope": envelope, "members": _members(result)}


def _members(result: AttackResult) -> list[dict[str, Any]]:
    return [
        {
            "name": member.name,
            "chosen": member.name == result.chosen and result.status == "ok",
            "validation": "–" if member.validation is None else small(member.validation),
            "test": "–" if member.test is None else small(member.test),
            "steps": f"{member.steps:,}" if member.steps else "closed form",
            "status": member.status,
        }
        for member in result.members
    ]
