"""What a config accepts, what it is written as, and what takes no part in it."""

import dataclasses
import json
import types

import pytest

from ani_jax.config import FORMAT, AuditConfig, RunConfig, client_macs
from ani_jax.data import catalog
from ani_jax.defenses import registry
from ani_jax.training.config import TrainConfig


def test_config_survives_json():
    config = RunConfig(defense="funnel", options={"beta": 0.5}, train=TrainConfig(seed=3))
    assert RunConfig.read(config.json()) == config
    assert RunConfig.read(config.json()).digest == config.digest
    assert config.digest != RunConfig(defense="funnel").digest
    audit = AuditConfig("a.b:c", sensitive=("paper",), seed=3)
    assert AuditConfig.read(audit.json()) == audit


def test_spelled_out_defaults_are_the_same_config():
    assert RunConfig(options={"beta": RunConfig().options["beta"]}) == RunConfig()
    assert RunConfig(options=dict(RunConfig().options)).digest == RunConfig().digest


def test_where_data_lies_is_no_part_of_a_config():
    for config in (RunConfig(), AuditConfig("x:y")):
        placed = dataclasses.replace(config, data_dir="here", manual_dir="there")
        assert (placed, placed.digest, placed.json()) == (config, config.digest, config.json())
        assert "here" not in placed.json()
        assert "data_dir" not in placed.settings
        assert type(config).read(placed.json()).data_dir is None
    # A reference's data lies where the run's does.
    assert RunConfig(data_dir="here").reference().data_dir == "here"


def test_another_format_is_never_taken_for_this_one():
    text = RunConfig().json()
    values = json.loads(text)
    assert values.pop("format") == FORMAT == 4
    for old in (values, {**values, "format": 1}):
        with pytest.raises(
            ValueError, match=r"^format 1 is that of another version of ani_jax; this one reads format 4$"
        ):
            RunConfig.read(json.dumps(old))


def test_settings_are_flat():
    found = RunConfig("funnel", options={"beta": 0.5}, train=TrainConfig(seed=3)).settings
    assert (found["beta"], found["seed"], found["defense"], found["primary"]) == (0.5, 3, "funnel", None)
    assert {"options", "train"}.isdisjoint(found)


def test_reference_shares_data_and_seed_but_not_the_defence():
    reference = RunConfig(defense="funnel", options={"beta": 0.5}, train=TrainConfig(seed=3)).reference()
    assert (reference.defense, reference.train.seed) == ("none", 3)
    assert (
        reference
        == RunConfig(defense="funnel", options={"beta": 9.0}, train=TrainConfig(seed=3, batch_size=16)).reference()
    )


def test_tasks_are_written_only_where_they_are_not_the_catalogues():
    own = RunConfig(dataset="utkface", primary="gender", sensitive=("race", "age"))
    assert own == RunConfig(dataset="utkface")
    assert own.tasks == ("gender", ("race", "age"))
    other = RunConfig(defense="none", dataset="utkface", primary="race", sensitive=["age"], augment=["flip"])
    assert RunConfig.read(other.json()) == other
    assert other.reference().tasks == other.tasks == ("race", ("age",))
    unknown = RunConfig(dataset="svhn_cropped", primary="label")
    assert RunConfig.read(unknown.json()) == unknown
    assert unknown.tasks == ("label", ())


@pytest.mark.parametrize("entry", catalog.ENTRIES, ids=lambda entry: entry.name)
def test_what_suits_a_data_set_are_settings_that_there_are(entry):
    names = {
        *vars(RunConfig()),
        *vars(TrainConfig()),
        *(name for kind in registry.DEFENSES for name in registry.options(kind)),
    }
    assert entry.usual.keys() <= names | registry.DEFENSES.keys()
    for defense in registry.DEFENSES:
        assert entry.usual.get(defense, {}).keys() <= registry.options(defense).keys() | vars(TrainConfig()).keys()
        # What the general part says holds where the defence has such an option and says nothing of its own.
        found, told = RunConfig.usual(defense, entry.name), {**entry.usual, **entry.usual.get(defense, {})}
        assert all(found.settings[name] == value for name, value in told.items() if name in found.settings)
        assert (found.defense, found.dataset) == (defense, "digits")


def test_data_and_defence_fit_each_other():
    config = RunConfig("partition", image_size=16, options={"width": 4})
    data = config.load(0)
    defense = config.build(data)
    assert (defense.classes, defense.image_shape, dict(defense.attributes)) == (10, (16, 16, 3), {"ink": 4, "paper": 4})
    assert config.template().width == defense.width == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"defense": "wall"}, r"defense=wall: must be one of ani, cem, cloak, disco, dropout"),
        ({"dataset": "cats"}, r"dataset=cats: must be one of digits"),
        ({"primary": "age"}, r"primary=age: must be one of digit, ink, paper for digits"),
        ({"sensitive": ["digit"]}, r"sensitive=digit: is the primary task or named twice"),
        ({"originals": 500}, r"originals=500: must be at least 200, and cannot be chosen for digits"),
        ({"augment": ["spin"]}, r"augment=spin: must be one of flip, crop, jitter"),
        ({"audit": "lazy"}, r"audit=lazy: must be one of preview, standard"),
        ({"image_size": 33}, r"image_size=33: must be a multiple of 8"),
        ({"options": {"beta": -1.0}}, r"beta=-1.0: must be a finite number, 0 or more"),
        ({"options": {"beta": float("nan")}}, r"beta=nan: must be a finite number"),
        ({"options": {"smoothing": 1.0}}, r"smoothing=1.0: must be in \[0, 1\)"),
        (
            {"utility_budget": 0.01, "options": dict.fromkeys(("beta", "gamma", "l1"), 0.0)},
            r"utility_budget=0.01: scales excess, beta, gamma, l1, of which one must be above 0",
        ),
        ({"defense": "none", "options": {"beta": 1.0}}, r"beta: not an option of none, which has"),
    ],
)
def test_bad_values_name_flag_value_and_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cats"}, r"dataset=cats: must be one of digits"),
        ({"audit": "90"}, r"audit=90: must be one of preview, standard, thorough"),
        ({"sensitive": ["digit"]}, r"sensitive=digit: is the primary task or named twice"),
    ],
)
def test_an_audits_bad_values_too(values, message):
    with pytest.raises(ValueError, match=message):
        AuditConfig("a.b:c", **values)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", *('{"format": 4, ' + rest for rest in ('"absent": 1}', '"train": {"absent": 1}}', '"train": 3}'))],
)
def test_a_file_that_is_no_config_is_refused(text):
    with pytest.raises(ValueError):
        RunConfig.read(text)


def test_a_client_that_is_too_dear_is_refused_with_what_fits():
    # All of the data that a defence is built for.
    tiny = types.SimpleNamespace(primary=types.SimpleNamespace(classes=10), sensitive=())
    allowed = RunConfig("none", client_macs=120_000, options={"light": True, "width": 64})
    message = (
        "client_macs=120000: must be at least 2293760, which none costs a device; --width=12 is the widest that fits"
    )
    with pytest.raises(ValueError, match=message):
        allowed.build(tiny)
    fits = dataclasses.replace(allowed, options={"light": True, "width": 12})
    assert client_macs(fits.build(tiny)) == 110_592
    # What protects nothing is measured against nothing narrower.
    assert fits.reference().client_macs is None
    with pytest.raises(ValueError, match=r"client_macs=10: must be at least 110592, which none costs a device$"):
        dataclasses.replace(fits, client_macs=10).build(tiny)


def test_the_reference_is_as_wide_whatever_the_client_is():
    narrow = RunConfig("partition", options={"width": 4}).reference()
    assert (narrow.options["width"], RunConfig("none", options={"width": 8}).reference().options["width"]) == (64, 64)
    assert RunConfig("partition", reference_width=4).reference().options["width"] == 4
    with pytest.raises(ValueError, match="reference_width=0: must be at least 1"):
        RunConfig("funnel", reference_width=0)
