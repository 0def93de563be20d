"""Plain frozen records of what was measured; JSON both ways; no jax.

Reports read nothing else, so whatever a report shows must be in here. A value that could not be measured is ``None`` with its
reason, never NaN: JSON has no NaN, and a reader must learn why.
"""

import base64
import dataclasses
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np

import ani_jax

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value with its 95% interval.

    Attributes:
        value: point estimate, or None where it could not be measured.
        low: lower end of the 95% interval, None where no interval was computed.
        high: upper end.
        note: why the value is missing, or what limits it ("" if nothing does).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One score of a target, as a report says it.

    Attributes:
        name: its key in ``AttackResult.scores``.
        label: what a reader calls it.
        unit: how its values are written: "percent", "points", "ratio", "decibel" or "small" (three significant
            digits, of an error: less of it is the stronger attack).
        change: how a change against the reference is said: "points", "relative", or "" for not at all.
        references: whether what scores are read against is listed below it, in its unit.
    """

    name: str
    label: str
    unit: str
    change: str = ""
    references: bool = False


@dataclasses.dataclass(frozen=True)
class Clause:
    """What a headline says of one metric before and after.

    Attributes:
        metric: its name.
        phrase: what it is called within a sentence, e.g. "balanced accuracy in inferring ink".
        relative: say by how many percent it moved, rather than the two values alone.
    """

    metric: str
    phrase: str
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class TargetWords:
    """All that a report needs to know of a target; written by the target itself, so no reader asks which one it is.

    Attributes:
        name: the target's, as in ``AttackResult.target``.
        title: as the heading of a section.
        metrics: in the order in which they are shown.
        strength: the metric that says which attack is the strongest.
        higher: whether more of it is the stronger attack.
        leakage: the metric that is 0 at the floor and 1 where everything leaks; "" for ``AttackResult.leakage``, which is
            normalised by the undefended reference.
        plotted: the metric that is drawn against utility.
        floor: the reference at which the picture's line of "nothing leaks" lies, "" for 0.
        summary: metrics that are averaged over seeds; "leakage" for ``AttackResult.leakage``.
        clauses: of a headline that compares two clients.
        alone: the clause about a single client, "{}" being its strength.
        is_input: whether it is the client's own input that is sought, which the inversion-difficulty criterion is about.
        beyond: the metric whose interval is above 0 where more than the floor was found; "" for what ``leakage`` names.
        floors: references that need no attack, in the order in which a verdict names them.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    strength: str
    higher: bool
    leakage: str
    plotted: str
    floor: str
    summary: tuple[str, ...]
    clauses: tuple[Clause, ...]
    alone: str
    is_input: bool = False
    beyond: str = ""
    floors: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            KeyError: the target has no such metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{self.name!r} has no metric {name!r}")


@dataclasses.dataclass(frozen=True)
class Look:
    """How strong a trained attacker was on ``validation`` at the end of a stage of its training.

    Attributes:
        steps: of all stages so far.
        loss: lowest so far: nats of cross-entropy for attributes, MSE for images.
        strength: selection score there, higher is stronger.
        own: loss on rows that it has learnt from, None where it was not asked.
    """

    steps: int
    loss: float
    strength: float
    own: float | None = None


@dataclasses.dataclass(frozen=True)
class Attacker:
    """One attacker that competed in an attack (one architecture, seed or learning rate).

    Attributes:
        name: what distinguishes it, e.g. "residual".
        validation: its selection score on ``validation`` (higher is a stronger attack).
        test: its score on ``test``; serves the envelope only, never the headline.
        steps: optimisation steps it was given, 0 for a closed form.
        status: "ok", or "failed: <reason>"; a failed attack is never counted as privacy.
        curve: of a trained attacker, stage by stage; its steps double.
        ended: why it was trained no longer, e.g. "plateau reached" or "still rising: a lower bound"; "" for what is not trained
            in stages.
        note: what it found out about the client that a reader must know, "" for nothing.
    """

    name: str
    validation: float | None
    test: float | None
    steps: int = 0
    status: str = "ok"
    note: str = ""
    curve: tuple[Look, ...] = ()
    ended: str = ""

    @property
    def rising(self) -> bool:
        """Whether more training, or more to learn from, would have made it stronger, as far as it can tell.

        Example:
            >>> Attacker("conv", 0.5, 0.5, ended="still rising: a lower bound").rising
            True
        """
        return self.ended.endswith("a lower bound")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A small stack of images for the report: uint8 pixels, base64 in JSON.

    Attributes:
        shape: (n, h, w, c) with c 1 or 3.
        pixels: base64 of the uint8 bytes in C order.
    """

    shape: tuple[int, ...]
    pixels: str = dataclasses.field(repr=False)

    @classmethod
    def of(cls, images: Any) -> Self:
        """Rounds an (n, h, w, c) array of floats in [0, 1] to 8 bits.

        Example:
            >>> Picture.of(np.ones((1, 2, 2, 1))).array()[0, 0, 0, 0]
            np.uint8(255)
        """
        pixels = np.round(np.clip(np.asarray(images, np.float64), 0.0, 1.0) * 255).astype(np.uint8)
        return cls(tuple(pixels.shape), base64.b64encode(pixels.tobytes()).decode("ascii"))

    def array(self) -> np.ndarray:
        """The pixels as a uint8 array of ``shape``."""
        return np.frombuffer(base64.b64decode(self.pixels), np.uint8).reshape(self.shape)


BURST = " burst"
"""What ends the name of an attack on near-duplicates of each image."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """How strong an attack was on a part of the test images: an average may hide whom it reads.

    Attributes:
        by: what divides them: an attribute's name, "answer" (of the provider) or "originals".
        name: which part, e.g. "red", "right".
        size: how many images it has; where originals are what is divided, how many of these were looked at.
        score: the target's strength there, of the classes of an attribute their recall; None with the reason.
    """

    by: str
    name: str
    size: int
    score: Estimate


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What one attack found.

    Attributes:
        attack: the family that competed, e.g. "decoder"; "decoder burst" where the k releases are of near-duplicates.
        target: name of what was sought, see ``Evidence.targets``.
        queries: k, how many releases of the same image the attacker saw.
        chosen: name of the attacker chosen on ``validation``; its test scores are the headline.
        scores: metric name -> score on ``test``. Attribute: balanced_accuracy, over_floor, accuracy, auc. Image: mse, psnr, ssim,
            ms_ssim, r2_mean, r2_class_mean, retrieval, mse_worst (mean over the 5% most leaked images).
            Original: identified, over_floor.
        references: what each score is read against, metric-like names -> value. Attribute: chance, majority, label_mediated,
            raw_input, random_encoder. Image: mse_mean_image, mse_class_mean.
        attackers: every one that was tried.
        leakage: normalised leakage (METHODS 5.1), None with a note where it is not defined.
        per_example: per test image, 1.0/0.0 correct for attributes, MSE for images.
        gallery: reconstructions of the evidence's gallery images, image attacks only.
        status: "ok", or "failed: <reason>".
        slices: whom the strength comes from.
        rows: which of the audit's test images were scored, in this order; () for all of them in theirs.
    """

    attack: str
    target: str
    queries: int
    chosen: str
    scores: dict[str, Estimate]
    references: dict[str, float | None]
    attackers: tuple[Attacker, ...]
    leakage: Estimate
    per_example: tuple[float, ...] = dataclasses.field(default=(), repr=False)
    gallery: Picture | None = None
    status: str = "ok"
    slices: tuple[Slice, ...] = ()
    rows: tuple[int, ...] = dataclasses.field(default=(), repr=False)

    @property
    def ended(self) -> str:
        """Why the strongest of those that were trained in stages was trained no longer; "" where none was.

        Where another was chosen, a closed form or a vote, it says of whom that is.
        """
        staged = [one for one in self.attackers if len(one.curve) > 1 and one.validation is not None]
        best = max(staged, key=lambda one: one.validation or 0.0, default=None)
        if best is None or not best.ended:
            return ""
        return best.ended if best.name == self.chosen else f"networks: {best.ended}"


FALSE_ALARM = 0.05
"""How far over chance nothing may be read where nothing is sent: 2.5 standard errors of the balanced accuracy on 450 images."""


@dataclasses.dataclass(frozen=True)
class Control:
    """Something of which it is known how well it can be read (METHODS 5.0 d).

    A label that was planted into what the client sends, or a target where the image itself or nothing is sent.

    Attributes:
        name: what it is, of a planted label with how far over chance it can be found where not all of it can.
        known: how far over chance it can be read on test, of images the R² over the mean image; None where nobody knows.
        found: how far the strongest attacker does, None where none ran through.
        attacker: which one, chosen on ``validation``.
        low: lower end of the 95% interval of ``found``, of planted labels; None where there is none.
    """

    name: str
    known: float | None
    found: float | None
    attacker: str
    low: float | None = None

    @property
    def planted(self) -> bool:
        """Whether it is a label in what this very client sends."""
        return self.name.startswith("planted")

    @property
    def full(self) -> bool:
        """Whether none of its labels were redrawn."""
        return "," not in self.name

    @property
    def points(self) -> float | None:
        """How far over chance it was meant to be found: ``known`` differs from that by the luck of the test images.

        Example:
            >>> Control("planted linear, 10 points", 0.103, 0.09, "probe").points
            0.1
        """
        return self.known if self.full else float(self.name.rpartition(", ")[2].split()[0]) / 100

    @property
    def heard(self) -> bool:
        """Whether it was found, to 85% of what can be; where nothing can be, whether nothing was.

        Example:
            >>> Control("planted linear", 0.75, 0.7, "probe").heard, Control("planted linear", 0.75, 0.6, "probe").heard
            (True, False)
            >>> Control("ink where nothing is sent", 0.0, 0.01, "probe").heard
            True
        """
        if self.found is None or self.known is None:
            return self.found is not None
        return self.found >= 0.85 * self.known if self.known else self.found < FALSE_ALARM

    @property
    def withholds(self) -> bool:
        """Whether no verdict stands: an audit that misses a linear label or the image itself, or finds what is not there."""
        return not self.heard and (not self.planted or (self.full and self.name.endswith("linear")))


@dataclasses.dataclass(frozen=True)
class CostCard:
    """What a client costs the device, per image (METHODS 6). Time and memory are not here: they live in timing.json.

    Attributes:
        parameters: trainable numbers in the client.
        macs: multiply-accumulates per image.
        floats: numbers sent per query.
        bytes_float32: bytes sent per query as float32.
        bytes_quantised: bytes sent after 8-bit quantisation.
        bytes_raw: bytes of the raw uint8 image that would be sent instead.
        channels: that are sent, None where features have none.
        live_channels: of these, how many say something of their own, noise aside (``losses.live_channels``).
    """

    parameters: int
    macs: int
    floats: int
    bytes_float32: int
    bytes_quantised: int
    bytes_raw: int
    channels: int | None = None
    live_channels: int | None = None


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What an estimator reads on correlated Gaussians, whose information is known. All in nats.

    Attributes:
        truth: the Gaussians' mutual information.
        expected: what the estimator should read: the truth, or CLUB's closed form.
        value: what it read, mean over seeds; None where a seed gave nothing finite.
        stddev: over seeds, None for one seed.
        kept: as in :class:`InformationEstimate`.
        last: likewise.
        passed: ``value`` is at most 0.25 below ``expected`` and at most 0.1 above (0.05 at ``truth`` 0); for CLUB
            within 10% of ``expected``.
        note: what falls short, "" if nothing does.
    """

    truth: float
    expected: float
    value: float | None
    stddev: float | None
    kept: tuple[int, ...]
    last: float | None
    passed: bool
    note: str = ""


@dataclasses.dataclass(frozen=True)
class InformationEstimate:
    """An estimate of I(x; z + noise) in nats, with what a reader must know about it.

    Attributes:
        estimator: its name, e.g. "nwj".
        value: mean over seeds of the chosen critics on test, nats; None where a seed gave nothing finite.
        stddev: over seeds (critics and noise, not examples), None for one seed.
        seeds: every seed's value.
        kept: training step of every seed's chosen critic, 0 for the untrained one, which reads 0; empty where nothing
            was trained.
        last: mean over seeds of the critics at the end of training, chosen or not; None where not finite or untrained.
        noise: standard deviation of the Gaussian noise that was added to standardised z.
        examples: pairs that trained the critics, that chose among them, that they were read on.
        dimensions: elements of x, of z.
        log_n: log of the number of pairs read: no distribution-free lower bound can say much more.
        cap: the most that the estimator can read, None without a cap.
        caveats: what kind of number this is, and what it cannot say.
        self_tests: the estimator on Gaussians of the same dimensions and numbers.
        reason: why the value is missing, "" if it is not.
    """

    estimator: str
    value: float | None
    stddev: float | None
    seeds: tuple[float | None, ...]
    kept: tuple[int, ...]
    last: float | None
    noise: float
    examples: tuple[int, ...]
    dimensions: tuple[int, ...]
    log_n: float
    cap: float | None
    caveats: tuple[str, ...]
    self_tests: tuple[SelfTest, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """The inversion-difficulty criterion of one release (METHODS 6).

    Attributes:
        information: I(x; z + noise), with its self-tests.
        mean_abs: mean |z| on test, in units of z: the entropy surrogate, which scaling z changes.
        entropy_gaussian: nats, of the Gaussian with the covariance of scaled z + noise; None where undefined.
        entropy_knn: nats, nearest-neighbour estimate for scaled z + noise; None where undefined.
        volume: effective information volume, mean count of entries of scaled z with |z| > ``threshold``; None where undefined.
        volume_ratio: ``volume`` / elements of x; None where undefined.
        threshold: in root mean squares of z.
        scale: the root mean square of z on ``auxiliary`` that "scaled" divides by, None where not finite.
        quantities: what is known without critics and attacks, by name, see :func:`ani_jax.information.criterion.quantities`.
        caveats: what a reader must see.
    """

    information: InformationEstimate
    mean_abs: float | None
    entropy_gaussian: float | None
    entropy_knn: float | None
    volume: float | None
    volume_ratio: float | None
    threshold: float
    scale: float | None
    caveats: tuple[str, ...] = ()
    quantities: dict[str, Estimate] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything an audit established about one release; identical for identical runs.

    Printed, it is a verdict with its reasons; a notebook shows its report, which :meth:`save` writes.

    Attributes:
        subject: what was audited, e.g. "funnel".
        dataset: catalogue name.
        seed: integer that the audit's key was made from.
        level: how much the audit might compute, e.g. "standard".
        steps: attacker -> optimisation steps, recorded before the audit started.
        sizes: split -> number of images ("auxiliary_originals" counts originals).
        utility: metric -> score of the provider's answer on ``test``: accuracy, what of it the reference has more, image by
            image; empty without ``predict``.
        attacks: one result per attack and target.
        gallery: the test images that every reconstruction gallery shows, in order.
        cost: the client's cost card, None for an opaque release.
        notes: caveats a reader must see.
        criterion: the inversion-difficulty criterion, None where it was not asked for.
        targets: what was attacked, in the order of a report.
        controls: what was planted, and how much of it was found; empty where the level plants nothing.
        groups: per test image, which original it shows; () where each is its own.
        right: per test image, 1 where the provider's answer is right, else 0; () without ``predict``.
    """

    subject: str
    dataset: str
    seed: int
    level: str
    steps: dict[str, int]
    sizes: dict[str, int]
    utility: dict[str, Estimate]
    attacks: tuple[AttackResult, ...]
    gallery: Picture | None = None
    cost: CostCard | None = None
    notes: tuple[str, ...] = ()
    criterion: Criterion | None = None
    targets: tuple[TargetWords, ...] = ()
    controls: tuple[Control, ...] = ()
    groups: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    right: tuple[int, ...] = dataclasses.field(default=(), repr=False)

    # Whoever reads records is on a floor above them; only the front door knows where, and looks there when it is asked.
    def __repr__(self) -> str:
        return ani_jax.verdict(self)

    def _repr_html_(self) -> str:
        return ani_jax.fragment(self)

    def save(self, path: Any) -> None:
        """Writes the report as one self-contained page, see :func:`ani_jax.reporting.shown.save`."""
        ani_jax.save(self, path)

    def strongest(
        self, words: TargetWords, able: Callable[[AttackResult], bool] = lambda result: True
    ) -> AttackResult | None:
        """The strongest attack on a target, of all families and however often it asked; chosen on test, so an upper envelope.

        Args:
            words: of the target.
            able: which results count.

        Returns:
            The first of equals; None where none has a score.
        """
        sign = 1 if words.higher else -1
        scores = [
            (sign * score.value, result)
            for result in self.attacks
            if result.target == words.name
            and able(result)
            and (score := result.scores.get(words.strength)) is not None
            and score.value is not None
        ]
        return max(scores, key=lambda pair: pair[0], default=(0.0, None))[1]

    def words(self, target: str) -> TargetWords:
        """What a report needs to know of a target.

        Raises:
            KeyError: they are not in this evidence.
        """
        for words in self.targets:
            if words.name == target:
                return words
        raise KeyError(f"no words for the target {target!r} in the evidence of {self.subject!r}")

    def attack(self, attack: str, target: str, queries: int = 1) -> AttackResult:
        """The result of one attack on one target.

        Raises:
            KeyError: no such attack was run.
        """
        for result in self.attacks:
            if (result.attack, result.target, result.queries) == (attack, target, queries):
                return result
        raise KeyError(f"no {attack!r} attack on {target!r} with {queries} queries in the evidence of {self.subject!r}")


def to_json(record: Any) -> str:
    """Serialises a record, or a tuple of records, deterministically (fields in order, floats in full, no NaN).

    Raises:
        ValueError: a float is NaN or infinite; the message is json's own.

    Example:
        >>> to_json(Estimate(0.5))
        '{"value": 0.5, "low": null, "high": null, "note": ""}'
    """
    return json.dumps(record, default=dataclasses.asdict, allow_nan=False)


def from_json(kind: type[R], text: str) -> R:
    """Reads a record back: ``from_json(Evidence, to_json(e)) == e``.

    Raises:
        ValueError: the text is not JSON, lacks a field of ``kind``, or has one of another type.

    Example:
        >>> from_json(Estimate, '{"value": 0.5}')
        Estimate(value=0.5, low=None, high=None, note='')
    """

    def refuse(token: str) -> float:
        raise ValueError(f"{token}: not a number that JSON has")

    # Python would read NaN and Infinity, which are no JSON and which to_json never writes.
    return _decode(kind, json.loads(text, parse_constant=refuse))


def _decode(kind: Any, value: Any) -> Any:
    """Rebuilds a value of the annotated type ``kind`` from parsed JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    # The only union that a record has is "or None".
    if origin is types.UnionType:
        return None if value is None else _decode(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if not dataclasses.is_dataclass(kind):
        # A float may be written without its point.
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{name: _decode(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from None  # type: ignore[union-attr]
