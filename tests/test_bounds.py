"""Bounds of settings: every field of every config, at NaN, infinities, huge values and wrong types."""

import dataclasses
import math
import types
from typing import Union, get_args, get_origin, get_type_hints

import pytest

from asose_fast.bounds import Bounds, check_value
from asose_fast.config import Config
from asose_fast.engine.phases import PhaseSpec
from asose_fast.engine.retrainer import RetrainConfig

HUGE = (10**5000, 10**60, 2**63, 10**12, 10**25, 1e25, 1e308, -1e308, -(10**60))
STRANGE = (math.nan, math.inf, -math.inf, -1, -1.5, True, False, "3", "", [], {}, object(), 1j, b"3")


def kinds(hint):
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


FIELDS = [
    pytest.param(config, field, get_type_hints(config)[field.name], id=f"{config.__name__}.{field.name}")
    for config in (Config, RetrainConfig)
    for field in dataclasses.fields(config)
]
NUMERIC = [param for param in FIELDS if {int, float} & set(kinds(param.values[2]))]


def made(config, **settings):
    """The config; a setting that only some data have comes with such data."""
    if "image_size" in settings:
        settings["dataset"] = "imagefolder:x"
    return config(**settings)


@pytest.mark.parametrize(("config", "field", "hint"), NUMERIC)
def test_every_number_has_bounds_that_are_finite_and_hold_its_default(config, field, hint):
    bounds = field.metadata["bounds"]
    lower, upper = (one if one is not None else other for one, other in ((bounds.least, bounds.above),
                                                                       (bounds.most, bounds.below)))  # fmt: skip
    assert math.isfinite(lower)
    assert math.isfinite(upper)
    assert lower < upper
    assert field.default is None or bounds.hold(field.default)
    for end in (bounds.least, bounds.most):
        if end is not None and not (field.name == "epochs" and end < 4):
            assert getattr(made(config, **{field.name: end}), field.name) == end


@pytest.mark.parametrize(("config", "field", "hint"), NUMERIC)
def test_every_value_is_taken_or_refused_with_one_error(config, field, hint):
    bounds, whole = field.metadata["bounds"], float not in kinds(hint)
    for value in (*HUGE, *STRANGE):
        number = type(value) is int or (type(value) is float and not whole)
        if number and bounds.hold(value):
            assert getattr(made(config, **{field.name: value}), field.name) == value
            continue
        with pytest.raises(ValueError, match=rf"^{field.name} must be (at least|above) \S+") as refusal:
            made(config, **{field.name: value})
        said = str(refusal.value)
        lower, upper = bounds.ends
        assert lower in said
        assert upper in said
        assert "got " in said
        assert len(said) < 300


@pytest.mark.parametrize(("config", "field", "hint"), [param for param in FIELDS if param not in NUMERIC])
def test_what_is_no_number_has_its_type(config, field, hint):
    for value in (None, 7, math.nan, object()):
        if value is None and type(None) in kinds(hint):
            continue
        with pytest.raises(ValueError, match=rf"^{field.name} must (be|have) "):
            config(**{field.name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "reinmxa"}, "estimator must be one of straight_through, .*, got 'reinmxa'"),
        ({"growth_kinds": ("deeper", "taller")}, "growth_kinds must be a list, each item one of deeper, wider, branch"),
        ({"candidates": "none"}, "candidates must be a list, each item text, got 'none'"),
        ({"strict": 1}, "strict must be true or false, got 1"),
        ({"depth": 1.0}, "depth must be at least 1, at most 1000 and whole, got 1.0"),
        ({"epochs": 10**25}, "epochs must be at least 1, at most 4000000 and whole, or None, got 1000"),
        ({"alpha_none": 1e308}, r"alpha_none must be at least -1000 and at most 1000, got 1e\+308"),
    ],
)
def test_names_are_those_there_are(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


@pytest.mark.parametrize("values", [None, [], "epochs", 3])
def test_settings_that_are_no_names_are_refused(values):
    with pytest.raises(ValueError, match="the settings must be names with values, got"):
        Config.from_dict(values)


@pytest.mark.parametrize("epochs", [0, True, 10**12, 2.5, math.nan, "3"])
def test_a_phase_of_the_users_own_has_as_many_epochs_as_can_be(epochs):
    with pytest.raises(ValueError, match="phase 'p': epochs must be at least 1, at most 1000000 and whole, got"):
        PhaseSpec("p", epochs)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf, True, "1"])
def test_a_phase_of_the_users_own_has_a_temperature_that_can_be(temperature):
    with pytest.raises(
        ValueError, match=r"^phase 'p': temperature must be above 0 and at most 1000000\.0, or None, got"
    ):
        PhaseSpec("p", 1, temperature=temperature)


def test_bounds_in_words():
    with pytest.raises(ValueError, match=r"^a must be above 0 and below 1, or None, got nan$"):
        check_value("a", math.nan, float | None, Bounds(above=0, below=1))
    check_value("a", None, float | None, Bounds(above=0, below=1))
    check_value("a", 0.5, float | None, Bounds(above=0, below=1))
