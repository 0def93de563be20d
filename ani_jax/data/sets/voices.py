"""spoken: synthetic speech, made on the spot by the programs espeak-ng and flite, as log-mel spectrograms.

Twelve voices say twenty words, each in 36 combinations of accent, speed and pitch. Nothing is fetched: equal versions of both
programs say the same, sample by sample.
"""

import dataclasses
import functools
import io
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ani_jax.data.entry import Entry, Recipe
from ani_jax.data.files import DataError, Examples, Tally, Watch, encode
from ani_jax.data.pictures import Spec

# The core words of Speech Commands (Warden 2018).
WORDS = (
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)
SEXES = ("male", "female")
TOOLS = ("espeak-ng", "flite")
"""Programs that speak; Debian's packages bear their names."""
# Of "en-gb" eSpeak has one voice alone: it says the same whatever the variant.
ACCENTS = ("en-gb-x-rp", "en-us", "en-gb-scotland", "en-029")

RATE = 16_000
"""Samples a second that are looked at: neither program's band is wider."""
SIDE = 64
"""Bands, and frames, of a spectrogram."""
HOP, WINDOW = 208, 512
"""Samples from frame to frame, so that 64 show 0.85 seconds, and in one."""
FFT = 1024
"""Samples that a frame is filled up to: else the lowest bands would lie between two frequencies."""
BAND = (50.0, 7_600.0)
"""Hertz that the bands reach from and to."""
RANGE = 80.0
"""Decibels below the loudest place that are black."""
QUIET = 0.01
"""Share of the largest amplitude below which a clip's ends are silence."""


@dataclasses.dataclass(frozen=True)
class Combination:
    """A voice and its settings.

    Attributes:
        voice: its name.
        sex: of ``SEXES``.
        settings: what it is set to, in words.
        command: that says a word, which is its last argument, as a wave file on standard output.
    """

    voice: str
    sex: str
    settings: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What no split divides."""
        return f"{self.voice}, {self.settings}"


def espeak(voice: str, sex: str) -> list[Combination]:
    """A variant of eSpeak's voice in four accents, at three speeds and three pitches.

    Example:
        >>> len(espeak("m1", "male")), espeak("m1", "male")[0].name
        (36, 'espeak-ng m1, en-gb-x-rp, speed 140, pitch 30')
    """
    return [
        Combination(
            f"espeak-ng {voice}",
            sex,
            f"{accent}, speed {speed}, pitch {pitch}",
            ("espeak-ng", "-v", f"{accent}+{voice}", "-s", speed, "-p", pitch, "--stdout"),
        )
        for accent, speed, pitch in itertools.product(ACCENTS, ("140", "165", "190"), ("30", "50", "70"))
    ]


def flite(voice: str, sex: str, pitch: str, pitches: Sequence[float]) -> list[Combination]:
    """A voice of flite at six speeds and six pitches; ``pitch`` is what its kind of voice calls that."""
    return [
        Combination(
            f"flite {voice}",
            sex,
            f"stretch {stretch}, pitch {height:g}",
            (
                *f"flite -voice {voice} -set duration_stretch={stretch} -set {pitch}={height:g}".split(),
                "-o",
                "/dev/stdout",
                "-t",
            ),
        )
        for stretch, height in itertools.product((0.8, 0.88, 0.96, 1.04, 1.12, 1.2), pitches)
    ]


COMBINATIONS = (
    *itertools.chain.from_iterable(espeak(f"m{number}", "male") for number in range(1, 6)),
    *itertools.chain.from_iterable(espeak(f"f{number}", "female") for number in range(1, 6)),
    *flite("kal16", "male", "int_f0_target_mean", (80, 90, 100, 110, 120, 130)),
    *flite("slt", "female", "f0_shift", (0.8, 0.88, 0.96, 1.04, 1.12, 1.2)),
)
VOICES = tuple(dict.fromkeys(one.voice for one in COMBINATIONS))


def filters(bands: int, size: int, rate: float, low: float, high: float) -> NDArray[np.float64]:
    """Overlapping triangles, equally wide in mel (Davis and Mermelstein 1980).

    A frequency f is 2595 log10(1 + f / 700) mel (O'Shaughnessy 1987). Each triangle is 1 at its peak, and 0 at its neighbours'.

    Args:
        bands: how many.
        size: samples of the Fourier transform.
        rate: samples a second.
        low: Hz at which the first begins.
        high: Hz at which the last ends.

    Returns:
        (bands, size // 2 + 1) weights of the frequencies, the lowest band first.

    Example:
        >>> filters(2, 8, 8000, 0, 4000).round(2).tolist()
        [[0.0, 0.68, 0.0, 0.0, 0.0], [0.0, 0.32, 0.91, 0.45, 0.0]]
    """
    first, last = 2595 * np.log10(1 + np.array([low, high]) / 700)
    edges = 700 * (10 ** (np.linspace(first, last, bands + 2) / 2595) - 1)
    below, peak, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequency = np.fft.rfftfreq(size, 1 / rate)
    return np.minimum((frequency - below) / (peak - below), (above - frequency) / (above - peak)).clip(0)


def spectrogram(sound: NDArray[Any], rate: int) -> NDArray[np.uint8]:
    """A clip as a picture: time to the right, frequency upwards in mel, loudness in decibels below the clip's loudest place.

    Silence before and behind is cut off, and what is left stands in the middle; more than 0.85 seconds lose both ends.

    Args:
        sound: (n,) samples of any scale.
        rate: samples a second.

    Returns:
        ``(64, 64, 1)``; 0 is 80 dB below 255.

    Raises:
        ValueError: nothing can be heard.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
        >>> spectrogram(tone, 16_000)[:, 32, 0].argmax()
        np.int64(42)
    """
    from scipy.signal import resample_poly
    from scipy.signal.windows import hann

    sound = resample_poly(sound.astype(np.float64), RATE, rate)
    loud = np.abs(sound)
    if not loud.size or not loud.max():
        raise ValueError("nothing can be heard")
    heard = np.flatnonzero(loud > QUIET * loud.max())
    sound = sound[heard[0] : heard[-1] + 1]
    whole = HOP * (SIDE - 1) + WINDOW
    sound = sound[max(0, len(sound) - whole) // 2 :][:whole]
    sound = np.pad(sound, ((before := (whole - len(sound)) // 2), whole - len(sound) - before))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * hann(WINDOW, sym=False)
    power = filters(SIDE, FFT, RATE, *BAND) @ np.square(np.abs(np.fft.rfft(frames, FFT))).T
    level = 1 + 10 / RANGE * np.log10(np.maximum(power / power.max(), 10 ** (-RANGE / 10)))
    return np.round(255 * level).astype(np.uint8)[::-1, :, None]


def say(combination: Combination, word: str) -> tuple[NDArray[np.int16], int]:
    """What a voice says: 16-bit samples, and how many there are a second.

    Raises:
        DataError: the program fails.
    """
    command = [*combination.command, word]
    done = subprocess.run(command, capture_output=True)
    try:
        with wave.open(io.BytesIO(done.stdout)) as file:
            # On a pipe, a header cannot say how much will follow.
            return np.frombuffer(file.readframes(len(done.stdout)), "<i2"), file.getframerate()
    except (wave.Error, EOFError, ValueError) as error:
        told = done.stderr.decode(errors="replace").strip() or error
        raise DataError(f"dataset=spoken: {' '.join(command)} gives no sound ({' '.join(str(told).split())})") from None


def tools() -> str:
    """Who speaks, in words: the programs and their versions.

    Raises:
        DataError: one is not installed.
    """
    told = []
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise DataError(f"dataset=spoken: is said by the program {tool}, which is not here; apt-get install {tool}")
        answer = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"\d+(\.\d+)+", answer)
        told.append(f"{tool} {version[0] if version else '?'}")
    return f"synthetic speech of {' and '.join(told)}"


def read_spoken(
    combinations: Sequence[Combination], folder: pathlib.Path, tally: Tally, watch: Watch
) -> dict[str, Examples]:
    """One split, "train": every word in every combination, said when it is asked for.

    Args:
        combinations: of voices and settings.
        folder: unused; there are no files.
        tally: unused; nothing is left out.
        watch: unused; the builder shows its own progress.

    Returns:
        Examples with "image" (PNG of 64x64x1), "word", "sex", "voice" and "combination".
    """
    del folder, tally, watch
    return {"train": said(combinations)}


def said(combinations: Sequence[Combination]) -> Examples:
    """Every word in every combination, as an example; a combination is said by several processes at once."""
    # The time is that of other processes, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for one in combinations:
            sounds = pool.map(functools.partial(say, one), WORDS)
            labels = {"sex": SEXES.index(one.sex), "voice": VOICES.index(one.voice), "combination": one.name}
            for number, sound in enumerate(sounds):
                image = encode(spectrogram(*sound))
                yield f"{WORDS[number]}, {one.name}", {"image": image, "word": number, **labels}


def features() -> dict[str, Any]:
    """What an example of ``spoken`` is made of."""
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel
    return {
        "image": tfds.features.Image(shape=(SIDE, SIDE, 1)),
        "word": label(names=WORDS),
        "sex": label(names=SEXES),
        "voice": label(names=VOICES),
        "combination": tfds.features.Text(),
    }


ENTRIES = (
    Entry(
        name="spoken",
        primary="word",
        sensitive=("sex", "voice"),
        size=len(COMBINATIONS) * len(WORDS),
        licence="none; the programs are GPL-3 (eSpeak NG) and BSD (flite, CMU)",
        description="synthetic speech as spectrograms: 20 words in 12 voices; splits by voice and settings",
        obtain="experiments.prepare makes it with the programs espeak-ng and flite",
        spec=Spec("spoken", identity="combination"),
        # Chosen at practice seed 100 by previews, within a point of accuracy; what they are worth, docs/examples/SPOKEN.md says.
        usual={
            "partition": {"excess": 0.06, "adversary_updates": 2, "batch_size": 256, "steps": 1500},
            "funnel": {"release_stddev": 1.0, "release_bits": 8, "repeats": "memoised", "excess": 0.03, "steps": 1000},
            "ani": {"entropy": 0.0, "excess": 0.03, "repeats": "memoised", "steps": 1200, "learning_rate": 0.003},
        },
        recipe=Recipe(
            "1.0.0",
            features,
            functools.partial(read_spoken, COMBINATIONS),
            needs=(),
            origin="https://github.com/espeak-ng/espeak-ng",
            made_by=tools,
        ),
    ),
)
