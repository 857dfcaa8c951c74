import math

import pytest
import torch

import flowstone
from flowstone.data import TOYS
from flowstone.errors import DataError, SettingError, ShapeError, UnknownNameError
from flowstone.train.settings import Settings
from training import small


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
    with pytest.raises(SettingError, match="steps=None needs minutes"):
        flowstone.fit(small(), x, steps=None)
    with pytest.raises(DataError, match="validation: row 0, feature 0 is inf"):
        flowstone.fit(small(), x, validation=torch.full((3, 2), math.inf))
    with pytest.raises(DataError, match="at least 2 are needed"):
        flowstone.fit(small(), x[:1])
    x[7, 1] = float("nan")
    with pytest.raises(DataError, match="row 7, feature 1 is nan"):
        flowstone.fit(small(), x)
