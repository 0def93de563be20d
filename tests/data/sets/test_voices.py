"""Synthetic speech: what a spectrogram shows, and what the two programs say where they are installed."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

from ani_jax.data import builders, catalog, files, prepared
from ani_jax.data.files import DataError, Tally, unwatched
from ani_jax.data.sets import voices

SPOKEN = catalog.find("spoken")


@pytest.fixture
def speaking():
    for tool in voices.TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"the program {tool} is not installed: apt-get install {tool}")


def few(voices_in_all, combinations_of_each):
    """Some combinations of some voices, both sexes and both programs among them."""
    chosen = ("espeak-ng m2", "flite slt", "espeak-ng f3", "flite kal16")[:voices_in_all]
    return [
        one
        for voice in chosen
        for one in [one for one in voices.COMBINATIONS if one.voice == voice][:combinations_of_each]
    ]


def made(folder, combinations, **other):
    """``spoken`` as it is prepared, of fewer combinations."""
    read = functools.partial(voices.read_spoken, combinations)
    recipe = dataclasses.replace(SPOKEN.recipe, read=read, **other)
    builder = builders.Official(dataclasses.replace(SPOKEN, recipe=recipe), None, folder, unwatched)
    builder.make()
    return builder


def tone(hertz, rate, seconds=0.5):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def test_filters_are_those_of_the_formula():
    """Written out band by band and frequency by frequency."""
    bands, size, rate, low, high = 12, 256, 8000, 100.0, 3800.0

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    expected = np.zeros((bands, size // 2 + 1))
    step = (mel(high) - mel(low)) / (bands + 1)
    for band in range(bands):
        edges = [700 * (10 ** ((mel(low) + (band + k) * step) / 2595) - 1) for k in range(3)]
        for bin in range(size // 2 + 1):
            hertz = bin * rate / size
            if edges[0] < hertz <= edges[1]:
                expected[band, bin] = (hertz - edges[0]) / (edges[1] - edges[0])
            elif edges[1] < hertz < edges[2]:
                expected[band, bin] = (edges[2] - hertz) / (edges[2] - edges[1])
    found = voices.filters(bands, size, rate, low, high)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_every_band_hears_something_and_between_the_outer_peaks_they_add_up_to_one():
    found = voices.filters(voices.SIDE, voices.FFT, voices.RATE, *voices.BAND)
    assert found.any(axis=1).all()
    heard = slice(found[0].argmax() + 1, found[-1].argmax())
    np.testing.assert_allclose(found.sum(0)[heard], 1)


@pytest.mark.parametrize("rate", [16_000, 22_050])
@pytest.mark.parametrize("hertz", [200, 440, 1000, 3000, 6000])
def test_a_tone_is_brightest_where_it_belongs(hertz, rate):
    picture = voices.spectrogram(tone(hertz, rate), rate)[..., 0]
    mel = 2595 * np.log10(1 + np.array([*voices.BAND, hertz]) / 700)
    band = (mel[2] - mel[0]) / (mel[1] - mel[0]) * (voices.SIDE + 1) - 1
    rows = voices.SIDE - 1 - picture[:, 20:44].argmax(0)
    assert np.abs(rows - band).max() <= 1
    # Half a second stands in the middle of 0.85, and around it is silence.
    assert picture[:, 32].max() == 255
    assert picture[:, :8].max() == picture[:, -8:].max() == 0


def test_decibels_are_steps_of_grey_and_loudness_is_none():
    quiet = tone(400, 16_000) + 0.01 * tone(4000, 16_000)
    picture = voices.spectrogram(quiet, 16_000)[:, 32, 0].astype(int)
    upper = picture[: voices.SIDE // 2].max()
    # A hundredth of the amplitude is 40 of 80 dB, but a band there is wider than one at 400 Hz.
    assert 105 < upper < 150
    assert np.array_equal(voices.spectrogram(quiet, 16_000), voices.spectrogram(1000 * quiet, 16_000))


def test_silence_around_a_word_is_cut_off_and_a_long_one_keeps_its_middle():
    word = np.concatenate([tone(500, 16_000, 0.2), tone(2000, 16_000, 0.2)])
    late = np.concatenate([np.zeros(9000), word, np.zeros(100)])
    assert np.array_equal(voices.spectrogram(late, 16_000), voices.spectrogram(word, 16_000))
    long = np.concatenate([tone(500, 16_000, 0.7), tone(2000, 16_000, 0.7)])
    rows = voices.spectrogram(long, 16_000)[..., 0].argmax(0)
    assert (rows[:30] > rows[34:].max()).all()


@pytest.mark.parametrize("sound", [np.zeros(0), np.zeros(100)])
def test_silence_is_refused(sound):
    with pytest.raises(ValueError, match="nothing can be heard"):
        voices.spectrogram(sound, 16_000)


def test_sexes_and_voices_are_balanced_and_combinations_have_names_of_their_own():
    names = [one.name for one in voices.COMBINATIONS]
    assert len(set(names)) == len(names) == 432
    assert SPOKEN.size == 432 * 20 == 8640
    for values in ([one.sex for one in voices.COMBINATIONS], [one.voice for one in voices.COMBINATIONS]):
        assert len({values.count(value) for value in values}) == 1
    assert {one.command[0] for one in voices.COMBINATIONS} == set(voices.TOOLS)


def test_programs_say_the_same_again(speaking):
    for one in few(4, 1):
        (first, rate), (second, _) = (voices.say(one, "seven") for _ in range(2))
        assert rate in (16_000, 22_050)
        assert 0.2 < len(first) / rate < 1.5
        assert np.array_equal(first, second)


def test_no_two_voices_say_the_same(speaking):
    """A variant that a program ignores would be one voice under two names, one of them of the other sex."""
    first = {(one.voice, one.settings.split(",")[0]): one for one in reversed(voices.COMBINATIONS)}
    assert len(first) == 10 * len(voices.ACCENTS) + 2 * 6
    assert len({voices.say(one, "seven")[0].tobytes() for one in first.values()}) == len(first)


def test_settings_and_words_can_be_heard(speaking):
    for voice in ("espeak-ng m2", "flite slt", "flite kal16"):
        own = [one for one in voices.COMBINATIONS if one.voice == voice]
        # The first two differ in pitch, the first and the last in all.
        said = [
            voices.spectrogram(*voices.say(*what))
            for what in ((own[0], "go"), (own[1], "go"), (own[-1], "go"), (own[0], "six"))
        ]
        assert len({picture.tobytes() for picture in said}) == 4


def test_it_is_prepared_in_the_same_bytes_and_says_by_whom(speaking, tmp_path):
    first, second = (made(tmp_path / name, few(2, 1)) for name in "ab")
    pictures = []
    for builder in (first, second):
        stored = prepared.Stored("spoken", builder).read(["word", "sex", "voice", "combination"], voices.SIDE)
        assert stored.image.shape == (40, 64, 64, 1)
        assert np.bincount(stored.columns["word"].values).tolist() == [2] * 20
        assert stored.columns["sex"].names == ("male", "female")
        assert stored.columns["combination"].names == tuple(one.name for one in few(2, 1))
        pictures.append(stored.image)
    assert np.array_equal(*pictures)
    word = stored.columns["word"].values
    said = {(one.name, w): voices.spectrogram(*voices.say(one, w)) for one in few(2, 1) for w in ("yes", "nine")}
    for row, owner in enumerate(stored.columns["combination"].values):
        if voices.WORDS[word[row]] in ("yes", "nine"):
            name = stored.columns["combination"].names[owner]
            assert np.array_equal(stored.image[row], said[name, voices.WORDS[word[row]]])
    assert first.info.metadata["made_by"].startswith("synthetic speech of espeak-ng ")
    assert " and flite " in first.info.metadata["made_by"]


def test_splits_never_divide_a_combination(tmp_path, monkeypatch):
    said = iter(np.random.default_rng(0).normal(size=(480, 2000)))
    monkeypatch.setattr(voices, "say", lambda combination, word: (next(said), 16_000))
    made(tmp_path, few(4, 6), made_by=lambda: "noise")
    data = catalog.load("spoken", image_size=32, data_dir=tmp_path)
    assert (data.primary.classes, [task.name for task in data.sensitive]) == (20, ["sex", "voice"])
    splits = (data.defend.stored, data.auxiliary.stored, data.holdout, data.validation, data.test)
    groups = [set(np.asarray(split.group).tolist()) for split in splits]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 24
    # All that a combination says is in its split.
    assert all(len(split.group) == 20 * len(group) for split, group in zip(splits, groups, strict=True))
    assert sum(len(split.group) for split in splits) == 480


def test_a_missing_program_is_refused_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DataError, match=r"^dataset=spoken: is said by the program espeak-ng, .* apt-get install espeak-ng$"
    ):
        builders.prepare("spoken", None, tmp_path / "data")
    assert list((tmp_path / "data" / "spoken").iterdir()) == []


def test_a_program_that_fails_is_refused_with_its_words():
    silent = dataclasses.replace(voices.COMBINATIONS[0], command=("sh", "-c", "echo no such voice >&2"))
    with pytest.raises(DataError, match=r"dataset=spoken: sh -c .* go gives no sound \(no such voice\)"):
        voices.say(silent, "go")


def test_reading_begins_with_nothing_said():
    splits = voices.read_spoken((), None, Tally(), unwatched)
    assert [*splits] == ["train"]
    assert list(splits["train"]) == []


def test_pictures_are_png(speaking):
    key, example = next(iter(voices.read_spoken(few(1, 1), None, Tally(), unwatched)["train"]))
    assert key == f"yes, {few(1, 1)[0].name}"
    assert files.decode(example["image"]).shape == (64, 64, 1)
