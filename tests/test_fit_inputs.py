import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flowstone
from flowstone.bijections import Affine, Chain, Coupling
from flowstone.data import TOYS
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.execution.flat import require_density
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from training import small


def without_a_data_layer() -> flowstone.Flow:
    """A flow whose first layer rounds x to the flow's precision."""
    links = [Coupling(2, Affine(1), MLP(1, 2), swap=swap) for swap in (False, True)]
    return flowstone.Flow(Chain(*links), StandardNormal(2))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (torch.tensor([1e44, 1.0], dtype=torch.float64).repeat(25), r"data: row 0, feature 1 is 1e\+44, which float32"),
        (1e-60 * torch.arange(1, 51).double(), r"data: feature 1 varies between 1e-60 and 5e-59, which float32"),
        (1.7e9 + torch.arange(50).double(), r"data: feature 1 varies between 1700000000 and 1700000049, which float32"),
        (2**40 + torch.arange(50), r"data: feature 1 varies between 1099511627776 and 1099511627825, which float32"),
    ],
)
def test_numbers_beyond_the_precision_are_refused_by_column_before_training(column, said):
    x = torch.stack((torch.arange(50).to(column.dtype), column), 1)
    flow = without_a_data_layer()
    before = flow.state_dict()["bijection.links.0.net.output.bias"].clone()
    with pytest.raises(DataError, match=said + r" cannot hold: rescale it, or use flow\.double\(\)"):
        flowstone.fit(flow, x, steps=5, progress=False)
    assert torch.equal(flow.state_dict()["bijection.links.0.net.output.bias"], before)
    flowstone.fit(small(), x, steps=5, progress=False)  # its first layer computes in float64


def test_the_precision_that_was_proposed_holds_them():
    x = torch.randn(50, 2, dtype=torch.float64)
    x[:, 1] = 1e-60 * x[:, 1]
    with pytest.raises(DataError, match=r"use flow\.double\(\)"):
        flowstone.fit(without_a_data_layer(), x, steps=1, progress=False)
    flowstone.fit(without_a_data_layer().double(), x, steps=1, progress=False)


@given(st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]), st.integers(2, 60))
def test_integers_are_taken_and_tell_the_same_as_floats(dtype, n):
    x = torch.arange(2 * n).remainder(11).reshape(n, 2)
    torch.manual_seed(0)
    ends = []
    for rows in (x.to(dtype), x.double()):
        torch.manual_seed(0)
        flow = without_a_data_layer()
        flowstone.fit(flow, rows, steps=3, progress=False)
        ends.append(flow.log_prob(torch.zeros(1, 2)))
    assert torch.equal(*ends)


def test_data_of_the_wrong_kind_is_one_line():
    x = torch.randn(50, 2)
    for data, name in ((x.numpy(), "ndarray"), (x.tolist(), "list"), (None, "NoneType")):
        with pytest.raises(SettingError, match=rf"data is a {name}: give a torch\.Tensor \(torch\.as_tensor"):
            flowstone.fit(small(), data)  # pyright: ignore
    with pytest.raises(SettingError, match=r"validation is a ndarray: give a torch\.Tensor"):
        flowstone.fit(small(), x, validation=x.numpy())  # pyright: ignore
    with pytest.raises(SettingError, match=r"the context of data is a list: give a torch\.Tensor"):
        flowstone.fit(small(context_features=1), x, context=[[0.0]] * 50)  # pyright: ignore
    with pytest.raises(SettingError, match=r"drawn data is a list: give a torch\.Tensor"):
        flowstone.fit(small(), lambda n, generator: [0.0] * n)  # pyright: ignore


def test_shapes_are_checked_before_training():
    x, conditional = torch.randn(50, 2), small(context_features=1)
    context = torch.zeros(50, 1)
    with pytest.raises(ShapeError, match=r"data: expected shape \(batch, 2\), got \(50, 3\)"):
        flowstone.fit(small(), torch.randn(50, 3))
    with pytest.raises(ShapeError, match=r"data: expected shape \(batch, 2\), got \(50,\)"):
        flowstone.fit(small(), x[:, 0])
    with pytest.raises(ShapeError, match=r"data: expected shape \(batch, 2\), got \(\)"):
        flowstone.fit(small(), torch.tensor(1.0))
    with pytest.raises(ShapeError, match=r"validation: expected shape \(batch, 2\), got \(50, 1\)"):
        flowstone.fit(small(), x, validation=x[:, :1])
    with pytest.raises(ShapeError, match=r"data: the density is conditional: it needs a context of shape \(batch, 1\)"):
        flowstone.fit(conditional, x)
    with pytest.raises(ShapeError, match=r"data: the density takes no context"):
        flowstone.fit(small(), x, context=context)
    with pytest.raises(ShapeError, match=r"data: expected a context of shape \(50, 1\), got \(50, 2\)"):
        flowstone.fit(conditional, x, context=x)
    with pytest.raises(ShapeError, match=r"validation: expected a context of shape \(50, 1\), got \(3, 1\)"):
        flowstone.fit(conditional, x, context=context, validation=x, validation_context=context[:3])
    with pytest.raises(ShapeError, match=r"drawn data: expected shape \(batch, 2\), got \(4096, 1\)"):
        flowstone.fit(small(), lambda n, generator: TOYS["moons"](n, generator)[:, :1])
    with pytest.raises(ShapeError, match=r"drawn data: the density is conditional"):
        flowstone.fit(conditional, TOYS["moons"])


def test_what_is_not_finite_is_named_by_row_and_column():
    x, context = torch.randn(50, 2), torch.zeros(50, 1)
    with pytest.raises(DataError, match=r"validation: row 0, feature 0 is inf \(6 such value\(s\)\)"):
        flowstone.fit(small(), x, validation=torch.full((3, 2), math.inf))
    context[3] = math.nan
    with pytest.raises(DataError, match=r"the context of data: row 3, feature 0 is nan \(1 such value\(s\)\)"):
        flowstone.fit(small(context_features=1), x, context=context)
    x[7, 1] = math.nan
    with pytest.raises(DataError, match=r"data: row 7, feature 1 is nan \(1 such value\(s\)\)"):
        flowstone.fit(small(), x)
    with pytest.raises(DataError, match="drawn data: row 7, feature 1 is nan"):
        flowstone.fit(small(), lambda n, generator: x.repeat(100, 1)[:n], validation=torch.randn(9, 2))


def test_a_fit_that_moves_nothing_says_so():
    x = TOYS["moons"](500, torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"validation has not moved from its start: 2\.\d+ nats"):
        flowstone.fit(small(), x, steps=60, lr=1e-12, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flowstone.fit(small(), x, steps=60, progress=False)
        flowstone.fit(small(), x, steps=10, lr=1e-12, progress=False)  # so few steps were never meant to


def test_a_resumed_fit_remembers_where_it_started(tmp_path):
    x = TOYS["moons"](500, torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="has not moved"):
        flowstone.fit(small(), x, steps=60, lr=1e-12, resume=tmp_path, progress=False)
    with pytest.warns(UserWarning, match="has not moved"):
        flowstone.fit(small(), x, steps=80, lr=1e-12, resume=tmp_path, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flowstone.fit(small(), x, steps=200, resume=tmp_path, progress=False)


def test_what_is_no_density_is_refused_in_a_line(tmp_path):
    flow = flowstone.nice(2, couplings=1, hidden=(4,))

    class Wrapper(nn.Module):  # as DistributedDataParallel
        def __init__(self):
            super().__init__()
            self.module = flow

    for other, said in (
        (Wrapper(), "; give it the .module inside, got a Wrapper"),
        (nn.Linear(2, 2), ", got a Linear"),
        (flowstone.Flow, ", got the class Flow"),
        (None, ", got a NoneType"),
    ):
        nothing: Any = other
        with pytest.raises(SettingError, match=f"^fit trains a density, also in several processes{said}$"):
            flowstone.fit(nothing, torch.randn(50, 2), steps=1, progress=False)
        with pytest.raises(SettingError, match=f"^save writes a density{said}$"):
            flowstone.save(nothing, tmp_path / "R")
        with pytest.raises(SettingError, match=f"^export_onnx takes a density{said}$"):
            flowstone.export_onnx(nothing, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
    compiled = nn.Module()
    compiled._orig_mod = flow  # as torch.compile wraps it
    require_density("fit trains a density", compiled)
