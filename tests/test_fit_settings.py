import inspect
import json
import math
from functools import partial
from typing import Any

import pytest
import torch

import flowstone
from flowstone.data import TOYS
from flowstone.errors import DataError, SettingError, ShapeError, UnknownNameError
from flowstone.options import options_of
from flowstone.train.settings import Settings
from training import QUICK, same, small, weights


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = Settings(lr=1.0, warmup=0.1).for_data((2,), math.inf)
    rates = [settings.learning_rate(i / 100) for i in range(101)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_bad_arguments_are_named():
    x = torch.randn(50, 2)
    with pytest.raises(SettingError, match="steps=0 must be a whole number, at least 1"):
        flowstone.fit(small(), x, steps=0)
    with pytest.raises(SettingError, match=r"ema=1.0"):
        flowstone.fit(small(), x, ema=1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        flowstone.fit(small(), x, precision="fb16")
    with pytest.raises(ShapeError, match=r"expected a context of shape \(50, 1\), got \(3, 1\)"):
        flowstone.fit(small(context_features=1), x, context=torch.zeros(3, 1))
    with pytest.raises(ShapeError, match=r"expected shape \(batch, 2\)"):
        flowstone.fit(small(), torch.randn(50, 3), progress=False)
    with pytest.raises(SettingError, match=r"data is a ndarray: give a torch\.Tensor"):
        flowstone.fit(small(), x.numpy())  # pyright: ignore
    with pytest.raises(SettingError, match="fresh data has no context"):
        flowstone.fit(small(), TOYS["moons"], context=torch.zeros(3, 1))
    with pytest.raises(SettingError, match="seed=-1"):
        flowstone.fit(small(), x, seed=-1)
    with pytest.raises(DataError, match="validation: row 0, feature 0 is inf"):
        flowstone.fit(small(), x, validation=torch.full((3, 2), math.inf))
    with pytest.raises(DataError, match="at least 2 are needed"):
        flowstone.fit(small(), x[:1])
    x[7, 1] = float("nan")
    with pytest.raises(DataError, match="row 7, feature 1 is nan"):
        flowstone.fit(small(), x)


def test_settings_and_overrides_are_the_same_thing():
    ends = []
    calls: tuple[dict[str, Any], ...] = (
        {"steps": 20, "lr": 1e-3, "batch_size": 32},
        {"settings": Settings(steps=20, lr=1e-3, batch_size=32)},
        {"settings": Settings(steps=99, lr=1e-3, batch_size=32), "steps": 20},
    )
    for arguments in calls:
        flow = small()
        history = flowstone.fit(flow, TOYS["moons"], progress=False, **arguments)
        assert history.records[-1].step == 20
        ends.append(weights(flow))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="unknown training setting 'step': did you mean 'steps'"):
        flowstone.fit(small(), TOYS["moons"], step=5)
    with pytest.raises(SettingError, match=r"settings is a dict: give a flowstone\.train\.Settings"):
        flowstone.fit(small(), TOYS["moons"], settings={"steps": 5})  # pyright: ignore


WRONG = ["fast", True, math.nan, -1, [1], 1e400]


@pytest.mark.parametrize("option", options_of(Settings), ids=lambda option: option.name)
def test_every_option_is_documented_and_refuses_what_it_cannot_be(option):
    assert option.help[0].isupper() or option.help.startswith(("bf16", "recompute", "adam"))
    assert option.help.endswith(".")
    assert "--" not in option.help
    assert f"    {option.name}: " in (Settings.__doc__ or "")
    assert Settings(**{option.name: option.default}) == Settings()
    for value in WRONG:
        if isinstance(option.default, bool) and value is True:
            continue
        with pytest.raises((SettingError, UnknownNameError), match=option.name) as caught:
            Settings(**{option.name: value})
        assert "\n" not in str(caught.value)
        assert repr(value) in str(caught.value) or str(value) in str(caught.value)
    for choice in option.choices:
        Settings(**{option.name: choice})


def test_what_depends_on_the_data_is_settled_in_one_place():
    table, small_table, image = (
        Settings().for_data(shape, rows) for shape, rows in (((2,), math.inf), ((2,), 500), ((3, 8, 8), 500))
    )
    assert (table.batch_size, table.lr, table.warmup, table.clip) == (512, 5e-3, 0.02, 5.0)
    assert (table.ema, table.dropout, table.validate_every) == (0.99, 0.0, 100)
    assert (small_table.dropout, small_table.validate_every) == (0.2, 20)
    assert (image.batch_size, image.lr, image.warmup, image.clip) == (64, 2e-3, 0.05, 50.0)
    assert (image.ema, image.dropout, image.validate_every) == (0.999, 0.2, 500)
    assert Settings(lr=1.0, dropout=0.0).for_data((2,), 500).dropout == 0.0
    assert None not in [getattr(table, option.name) for option in options_of(Settings) if option.name != "minutes"]


def test_a_record_holds_names_alone():
    settings = Settings(steps=5, optimizer="adamax")
    assert Settings(**json.loads(json.dumps(settings.as_record()))) == settings
    with pytest.raises(SettingError, match="optimizer=SGD cannot be recorded: a record holds only names"):
        Settings(optimizer=partial(torch.optim.SGD, momentum=0.9)).as_record()
    with pytest.raises(SettingError, match=r"schedule=.*lambda.* cannot be recorded"):
        Settings(schedule=lambda progress: 1.0).as_record()


def test_a_schedule_may_be_a_function():
    schedule: dict[str, Any] = {"schedule": lambda progress: 2 * (1 - progress), "lr": 1e-3, "warmup": 0.2}
    settings = Settings(**schedule).for_data((2,), math.inf)
    assert settings.learning_rate(0.1) == pytest.approx(1e-3 * 0.101 / 0.201)  # still warming up
    assert settings.learning_rate(0.5) == pytest.approx(1e-3)
    assert settings.learning_rate(1.5) == 0  # by the clock a run may end late
    history = flowstone.fit(small(), TOYS["moons"], steps=20, **QUICK, **schedule)
    assert history.column("learning_rate")[-1] == pytest.approx(1e-3 * 2 * 0.05)
    with pytest.raises(SettingError, match="the schedule's factor=-1 cannot be negative"):
        flowstone.fit(small(), TOYS["moons"], steps=5, schedule=lambda progress: -1, **QUICK)


def test_the_documentation_of_fit_names_no_option_twice():
    listed = inspect.getdoc(flowstone.fit) or ""
    assert "help(flowstone.train.Settings)" in listed
    assert not [option.name for option in options_of(Settings) if f"\n    {option.name}:" in listed]


def test_steps_end_a_training_unless_a_clock_does():
    assert Settings().for_data((2,), 500).steps == 3000
    assert Settings().for_data((2,), 500, {"steps": 1500}).steps == 1500
    assert Settings(steps=7).for_data((2,), 500, {"steps": 1500}).steps == 7
    assert Settings(minutes=1).for_data((2,), 500, {"steps": 1500}).steps is None
    assert Settings(minutes=1, steps=7).for_data((2,), 500).steps == 7
