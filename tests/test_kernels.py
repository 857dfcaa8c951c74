"""Fused kernels compared with the plain arithmetic in float64: values, gradients, and when the plain one runs."""

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import flowstone
from flowstone.bijections import RQSpline
from flowstone.kernels import applicable, kernels, spline_call

pytest.importorskip("numba")

DIRECTIONS = ("forward", "inverse")
LAYOUTS = {"table": (), "image": (3, 5), "wide image": (16, 16), "channels last": (3, 5)}


def inputs(rows, features, layout, bins, seed, spread=1.0):
    """Values and raw parameters; of images the parameters lie as a convolution leaves them."""
    pixels = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(seed)
    x = spread * torch.randn(rows, features, *pixels, generator=generator)
    parameters = torch.randn(rows, features, 3 * bins - 1, *pixels, generator=generator)
    if layout == "channels last":
        parameters = parameters.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        parameters = parameters.unflatten(1, (features, -1))
    return x, parameters.movedim(2, -1)


def results(spline, direction, x, parameters, dtype, fused):
    """Both outputs, and the gradients of a fixed sum of both."""
    x, parameters = x.to(dtype).requires_grad_(), parameters.to(dtype).requires_grad_()
    with kernels(fused):
        outputs = getattr(spline, direction)(x, parameters)
    assert ("_Forward" in str(outputs[0].grad_fn) or "_Inverse" in str(outputs[0].grad_fn)) == fused
    weights = [torch.linspace(0.5, 1.5, x.numel(), dtype=dtype).view_as(x), torch.ones_like(x).cumsum(0) / len(x)]
    return [v.double() for v in (*outputs, *torch.autograd.grad(outputs, (x, parameters), weights))]


def worst(these, those):
    return [((a - b).abs().max() / (1 + b.abs().max())).item() for a, b in zip(these, those, strict=True)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    rows=st.integers(1, 40),
    bins=st.integers(2, 12),
    bound=st.floats(0.5, 6.0),
    seed=st.integers(0, 2**31),
)
def test_the_same_numbers_as_the_plain_spline_in_float64(direction, layout, rows, bins, bound, seed):
    spline = RQSpline(bins=bins, bound=bound)
    x, parameters = inputs(rows, 3, layout, bins, seed, spread=bound / 2)
    exact = results(spline, direction, x, 0.3 * parameters, torch.float64, fused=False)
    ours = results(spline, direction, x, 0.3 * parameters, torch.float32, fused=True)
    assert max(worst(ours, exact)[:2]) < 1e-5
    assert max(worst(ours, exact)[2:]) < 1e-4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_worse_than_plain_float32_where_it_is_hard(direction):
    spline = RQSpline(bins=8, bound=3.0)
    x, parameters = inputs(4000, 4, "table", 8, seed=0, spread=2.0)
    exact, plain, ours = (
        results(spline, direction, x, 2 * parameters, dtype, fused)
        for dtype, fused in ((torch.float64, False), (torch.float32, False), (torch.float32, True))
    )
    for of_ours, of_plain in zip(worst(ours, exact), worst(plain, exact), strict=True):
        assert of_ours < 3 * of_plain + 1e-6


def test_raw_parameters_of_any_size():
    """Softmax and softplus must not overflow."""
    spline = RQSpline(bins=8)
    x, parameters = inputs(50, 2, "table", 8, seed=1)
    for size in (100.0, 1e4):
        for direction in DIRECTIONS:
            ours = results(spline, direction, x, size * parameters, torch.float32, fused=True)
            assert all(v.isfinite().all() for v in ours[:2])
    there, _ = spline(x, 100 * parameters)
    torch.testing.assert_close(there, spline(x.double(), 100 * parameters.double())[0].float(), atol=1e-4, rtol=1e-4)


def test_at_the_bound_beyond_it_and_on_knots():
    spline = RQSpline(bins=4, bound=2.0)
    x = torch.tensor([[-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0]])
    parameters = torch.zeros(1, 7, 11)
    z, log_slope = spline(x, parameters)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-6, rtol=0)
    plain = results(spline, "forward", x, parameters, torch.float64, fused=False)
    ours = results(spline, "forward", x, parameters, torch.float32, fused=True)
    assert max(worst(ours, plain)) < 1e-6


def test_results_can_be_written_into():
    """As those of the plain spline: they are no views."""
    spline = RQSpline(bins=4)
    for layout in ("table", "image"):
        x, parameters = inputs(5, 2, layout, 4, seed=13)
        for direction in DIRECTIONS:
            for result in getattr(spline, direction)(x, parameters.clone().requires_grad_()):
                result.add_(1)


def test_nan_stays_where_it_is():
    spline = RQSpline(bins=8)
    x, parameters = inputs(300, 1, "table", 8, seed=2)
    x[7] = float("nan")
    parameters[9] = float("nan")
    for direction in DIRECTIONS:
        value, log_slope = getattr(spline, direction)(x, parameters)
        assert value.isnan().any(1).nonzero().flatten().tolist() == [7, 9]
        assert log_slope.isnan().any(1).nonzero().flatten().tolist() == [7, 9]


def test_threads_do_not_change_a_bit():
    spline = RQSpline(bins=8)
    x, parameters = inputs(40_000, 2, "table", 8, seed=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(spline, "forward", x, parameters, torch.float32, fused=True)
        torch.set_num_threads(3)
        three = results(spline, "forward", x, parameters, torch.float32, fused=True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_second_derivatives_are_those_of_the_plain_spline(direction):
    spline = RQSpline(bins=5)
    both = []
    for fused in (True, False):
        x, parameters = inputs(20, 2, "table", 5, seed=4)
        x.requires_grad_()
        parameters = (0.5 * parameters).requires_grad_()
        with kernels(fused):
            _, log_slope = getattr(spline, direction)(x, parameters)
            (slope,) = torch.autograd.grad(log_slope.sum(), x, create_graph=True)
        both.append(torch.autograd.grad(slope.square().sum(), (x, parameters)))
    for ours, plain in zip(*both, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch, on its first forward-mode derivative
def test_the_plain_spline_runs_under_transforms_of_functions_and_forward_mode():
    spline = RQSpline(bins=4)
    x, parameters = inputs(6, 2, "table", 4, seed=5)
    jacobians = vmap(jacrev(lambda row, raw: spline(row[None], raw[None])[0][0]))(x, parameters)
    log_slope = spline(x, parameters)[1]
    torch.testing.assert_close(jacobians.diagonal(dim1=1, dim2=2).log(), log_slope, atol=1e-5, rtol=1e-5)
    slopes = torch.func.jvp(lambda row: spline(row, parameters)[0], (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(slopes.log(), log_slope, atol=1e-5, rtol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        moved = torch.autograd.forward_ad.unpack_dual(spline(dual, parameters)[0])
    assert moved.tangent is not None
    torch.testing.assert_close(moved.tangent.log(), log_slope, atol=1e-5, rtol=1e-5)


def test_what_is_not_an_ordinary_float32_tensor_is_plain():
    assert applicable(torch.zeros(1))
    assert not applicable(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not applicable(torch.zeros(1, device="meta"))
    with kernels(False):
        assert not applicable(torch.zeros(1))
    assert applicable(torch.zeros(1))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_traced_is_plain(direction):
    """A graph would hold a kernel's memory, or a call of Python that cannot be saved."""
    spline = RQSpline(bins=4)

    def run(x, parameters):
        return getattr(spline, direction)(x, parameters)

    one, other = inputs(300, 2, "table", 4, seed=21), inputs(300, 2, "table", 4, seed=22)
    expected = run(*other)
    torch.testing.assert_close(make_fx(run)(*one)(*other), expected, atol=1e-4, rtol=1e-4)
    traced: Any = torch.jit.trace(run, one)
    assert "Python" not in str(traced.graph)
    torch.testing.assert_close(traced(*other), expected, atol=1e-4, rtol=1e-4)


def test_the_environment_switches_them_off():
    code = "import torch; from flowstone.kernels import applicable; print(applicable(torch.zeros(1)))"
    for value, printed in (("off", "False"), ("auto", "True")):
        environment = os.environ | {"FLOWSTONE_KERNELS": value}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == printed


def test_without_numba_the_plain_spline_runs(monkeypatch):
    monkeypatch.setattr(spline_call, "find_spec", lambda name: None)
    spline_call.backend.cache_clear()
    try:
        x, parameters = inputs(3, 2, "table", 8, seed=6)
        z, _ = RQSpline(bins=8)(x, parameters.requires_grad_())
        assert "_Forward" not in str(z.grad_fn)
    finally:
        spline_call.backend.cache_clear()


def test_a_fork_of_a_process_that_used_threads():
    """Threads do not survive a fork: a child that waits for them waits for ever."""
    code = """
import os, signal, torch
from flowstone.bijections import RQSpline
torch.set_num_threads(2)
x, parameters = torch.zeros(60_000, 2), torch.zeros(60_000, 2, 23)
RQSpline(bins=8)(x, parameters)
child = os.fork()
if child == 0:
    signal.alarm(20)
    RQSpline(bins=8)(x, parameters)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_a_training_goes_the_same_way_with_and_without():
    rows = flowstone.data.TOYS["moons"](2000, torch.Generator().manual_seed(0))
    losses = []
    for fused in (True, False):
        torch.manual_seed(0)
        flow = flowstone.spline(2, couplings=2, hidden=(16,))
        with kernels(fused):
            losses.append(flowstone.fit(flow, rows, steps=60, seed=0, progress=False).best.val_nll)
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_parameters_in_bfloat16_are_those_numbers(direction):
    spline = RQSpline(bins=8)
    for layout in LAYOUTS:
        x, parameters = inputs(70, 3, layout, 8, seed=7)
        low = parameters.bfloat16()
        both = []
        for parameters in (low, low.float()):
            value, raw = x.clone().requires_grad_(), parameters.clone().requires_grad_()
            outputs = getattr(spline, direction)(value, raw)
            gradients = torch.autograd.grad(outputs, (value, raw), [torch.ones_like(x)] * 2)
            both.append((*outputs, gradients[0], gradients[1]))
        (*low_values, low_gradient), (*values, gradient) = both
        assert all(torch.equal(a, b) for a, b in zip(low_values, values, strict=True))
        assert low_gradient.dtype == torch.bfloat16
        assert torch.equal(low_gradient, gradient.bfloat16())
        with kernels(False):
            torch.testing.assert_close(getattr(spline, direction)(x, low), getattr(spline, direction)(x, low.float()))


def test_another_number_of_parameters_is_refused_as_by_the_plain_spline():
    """The kernel would read and write beyond the end."""
    spline = RQSpline(bins=8)
    for count in (2, 22):
        with pytest.raises((RuntimeError, IndexError)):
            spline(torch.randn(300, 2), torch.randn(300, 2, count))


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_parameters_have_no_influence_beyond_the_bound(direction, scale):
    _, parameters = inputs(2000, 1, "table", 8, seed=8)
    for beyond in (3.5, -3.5):
        raw = (scale * parameters).requires_grad_()
        value, log_slope = getattr(RQSpline(bins=8, bound=3.0), direction)(torch.full((2000, 1), beyond), raw)
        (gradient,) = torch.autograd.grad((value + log_slope).sum(), raw)
        sizes = gradient[..., :16]
        assert sizes.mean().abs() < 1e-6
        if direction == "forward":  # the inverse's own condition is not better
            assert sizes.abs().max() < 1e-4


def test_each_gradient_is_right_and_not_the_largest_alone():
    spline = RQSpline(bins=8)
    for direction in DIRECTIONS:
        x, parameters = inputs(3000, 1, "table", 8, seed=9, spread=2.0)
        exact = results(spline, direction, x, parameters, torch.float64, fused=False)
        plain = results(spline, direction, x, parameters, torch.float32, fused=False)
        ours = results(spline, direction, x, parameters, torch.float32, fused=True)
        for got, usual, right in zip(ours, plain, exact, strict=True):
            error, common = (((v - right).abs() / (1 + right.abs())).mean() for v in (got, usual))
            assert error < 3 * common + 1e-7


def test_under_a_transform_of_something_else():
    spline = RQSpline(bins=8)
    x, parameters = inputs(6, 2, "table", 8, seed=10)
    total = spline(x, parameters)[0].sum()
    slope = torch.func.grad(lambda factor: (factor * spline(x, parameters)[0]).sum())(torch.ones(()))
    torch.testing.assert_close(slope, total)


def test_gradients_in_batches():
    spline = RQSpline(bins=8)
    x, parameters = inputs(3, 2, "table", 8, seed=11)
    for direction in DIRECTIONS:
        value = x.clone().requires_grad_()
        z, log_slope = getattr(spline, direction)(value, parameters)
        many = torch.eye(6).view(6, 3, 2)
        (rows,) = torch.autograd.grad(z, value, many, is_grads_batched=True, retain_graph=True)
        torch.testing.assert_close(rows.sum(0).log(), log_slope, atol=1e-5, rtol=1e-5)


def test_a_numba_that_does_not_work_is_said_once(monkeypatch):
    def broken(name):
        raise SystemError("wrong ABI")

    x, parameters = inputs(3, 2, "table", 8, seed=12)
    spline_call.backend.cache_clear()
    monkeypatch.setattr(spline_call, "import_module", broken)
    try:
        with pytest.warns(UserWarning, match="numba does not work here .wrong ABI."):
            RQSpline(bins=8)(x, parameters)
        RQSpline(bins=8)(x, parameters)
    finally:
        monkeypatch.undo()
        spline_call.backend.cache_clear()


def test_a_numba_that_cannot_compile_is_said_once(monkeypatch):
    """Where its folder for what is compiled cannot be written, for one."""
    from flowstone.kernels import spline_cpu

    def broken(*args, **kwargs):
        raise RuntimeError("cannot cache function: no locator available")

    x, parameters = inputs(3, 2, "table", 8, seed=12)
    spline_call.backend.cache_clear()
    spline_cpu.kernel.cache_clear()
    monkeypatch.setattr(spline_cpu, "cfunc", broken)
    try:
        with pytest.warns(UserWarning, match="numba does not work here .cannot cache"):
            RQSpline(bins=8)(x, parameters)
        RQSpline(bins=8)(x, parameters)
    finally:
        monkeypatch.undo()
        spline_call.backend.cache_clear()
        spline_cpu.kernel.cache_clear()


def test_a_kernel_that_has_stopped_half_way_is_an_error():
    from flowstone.kernels.threads import run_on_threads

    class Call(ctypes.Structure):
        _fields_ = [("next", ctypes.c_uint64), ("total", ctypes.c_uint64)]

    with pytest.raises(MemoryError, match="no memory for a kernel's 1 threads"):
        run_on_threads(lambda call: None, Call(0, 10))
