"""Trainings through torch.compile: every recipe in one graph, and what happens where there is no compiler."""

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad
from torch.func import jacrev, vmap

import flowstone
from cases import disturb
from flowstone.bijections import Bijection, Chain, RQSpline
from flowstone.data import TOYS
from flowstone.errors import SettingError
from flowstone.execution import bf16_conditioners, compiled
from flowstone.kernels import kernels
from flowstone.priors import StandardNormal
from flowstone.recipes import RECIPES, build

TAKES = {name: inspect.signature(function).parameters for name, function in RECIPES.items()}
SMALL = {"hidden": (8,), "couplings": 2, "layers": 2}
SMALL_IMAGES = {"channels": 4, "blocks": 1, "couplings": 1, "bins": 3}
VECTORS = [name for name in RECIPES if {"features", "hidden"} <= set(TAKES[name])]  # mixed: see tests/test_mixed.py
IMAGES = [name for name in RECIPES if "event_shape" in TAKES[name]]
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here, and finds none"
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own


def a_flow(name: str, shape: tuple[int, ...], **more) -> tuple[flowstone.Flow, torch.Tensor]:
    torch.manual_seed(0)
    of_shape = {"features": shape[0]} if len(shape) == 1 else {"event_shape": shape}
    small = SMALL if len(shape) == 1 else SMALL_IMAGES
    small = {key: value for key, value in small.items() if key in TAKES[name]}
    flow = build(name, of_shape | small | more)
    x = torch.randn(16, *shape) if len(shape) == 1 else torch.randint(256, (16, *shape))
    flow.initialize(x, torch.randn(16, more["context_features"]) if "context_features" in more else None)
    disturb(flow, 0.1)
    return flow.train(), x


def outcome(flow: flowstone.Flow, function, x: torch.Tensor, precision: str):
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    torch.manual_seed(1)
    flow.zero_grad()
    if precision == "bf16":
        with bf16_conditioners(flow):
            loss = function(x)
    else:
        loss = function(x)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
    flow.load_state_dict(state)  # running averages have seen this batch
    return loss.item(), gradient


@pytest.mark.parametrize(
    ("name", "shape", "more", "precision"),
    [(name, (5,), {}, "fp32") for name in VECTORS]
    + [(name, (1, 4, 4), {}, "fp32") for name in IMAGES if name != "realnvp_image"]
    + [
        ("realnvp_image", (1, 4, 4), {"scales": 1}, "fp32"),
        pytest.param("realnvp_image", (1, 4, 4), {}, "fp32", marks=pytest.mark.long),
        pytest.param("realnvp_image", (1, 4, 4), {"preset": "faithful", "scales": 1}, "fp32", marks=pytest.mark.long),
        ("glow", (3, 4, 4), {"scales": 1}, "bf16"),
        ("spline", (5,), {}, "bf16"),
    ],
)
def test_the_loss_of_every_recipe_is_one_graph(name, shape, more, precision):
    """Forward and backward, traced as a whole (``fullgraph``), to the numbers of the plain flow."""
    flow, x = a_flow(name, shape, **more)

    def loss(x):
        return -flow.log_prob(x).mean()

    torch.compiler.reset()
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for (one, gradient), (other, plain) in [
        (outcome(flow, traced, x, precision), outcome(flow, loss, x, precision)) for _ in range(2)
    ]:
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4 if precision == "fp32" else 1e-2)
        assert (gradient - plain).norm() < (1e-3 if precision == "fp32" else 0.05) * plain.norm()


class Noted:
    """A backend that compiles nothing and keeps the names of all operations."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, graph, _):
        self.names += [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        return make_boxed_func(graph.forward)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="the fused spline for CPUs is compiled by numba")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_spline_is_one_operation_of_a_graph(dtype):
    torch.manual_seed(0)
    spline, x = RQSpline(bins=5), (2 * torch.randn(300, 3)).requires_grad_()
    parameters = torch.randn(300, 3, spline.parameters_per_feature, dtype=dtype, requires_grad=True)
    weights = torch.randn(2, 300, 3)

    def loss(x, parameters):
        z, log_slope = spline(x, parameters)
        return (weights[0] * z + weights[1] * log_slope).sum()

    def traced():
        torch.compiler.reset()
        noted = Noted()
        return torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=noted, bw_compiler=noted)), noted

    quick, noted = traced()
    fused = torch.autograd.grad(quick(x, parameters), (x, parameters))
    assert {"flowstone.spline.default", "flowstone.spline_backward.default"} <= set(noted.names)
    right = torch.autograd.grad(loss(x, parameters), (x, parameters))
    assert all(torch.equal(one, other) for one, other in zip(fused, right, strict=True))
    with kernels(False):
        quick, noted = traced()
        plain = torch.autograd.grad(quick(x, parameters), (x, parameters))
    assert not any("flowstone" in name for name in noted.names)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3 if dtype == torch.float32 else 0.02)


def test_compiled_transforms_of_functions_look_into_the_plain_spline():
    torch.manual_seed(0)
    spline, x = RQSpline(bins=4), torch.randn(6, 2)
    parameters = torch.randn(6, 2, spline.parameters_per_feature)

    def jacobians(x, parameters):
        return vmap(jacrev(lambda row, raw: spline(row[None], raw[None])[0][0]))(x, parameters)

    torch.compiler.reset()
    quick = torch.compile(jacobians, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(quick(x, parameters), jacobians(x, parameters))


def test_compiled_forward_derivatives_look_into_the_plain_spline():
    torch.manual_seed(0)
    spline, x = RQSpline(bins=4), torch.randn(6, 2)
    parameters, ones = torch.randn(6, 2, spline.parameters_per_feature), torch.ones(6, 2)

    def slope(x):
        with forward_ad.dual_level():
            z, _ = spline(forward_ad.make_dual(x, ones), parameters)
            return forward_ad.unpack_dual(z).tangent

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(slope, backend="aot_eager")(x), slope(x))


@pytest.mark.parametrize(
    ("context_features", "grad"),
    [(0, False), (2, True), *(pytest.param(*other, marks=pytest.mark.long) for other in [(0, True), (2, False)])],
)
@pytest.mark.parametrize("name", VECTORS)
def test_one_graph_is_for_batches_of_every_size(name, context_features, grad):
    flow, _ = a_flow(name, (3,), **({"context_features": context_features} if context_features else {}))
    flow.eval()
    counter = CompileCounter()
    torch.compiler.reset()
    quick = torch.compile(flow, dynamic=True, fullgraph=True, backend=counter)
    with torch.set_grad_enabled(grad):
        for rows in (7, 30, 4):
            values = [torch.randn(rows, 3), *([torch.randn(rows, 2)] if context_features else [])]
            torch.testing.assert_close(quick(*values), flow(*values), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1


@needs_compiler
def test_a_compiled_training_learns_what_the_plain_one_does():
    nlls = []
    for compile in (False, True):
        torch.manual_seed(1)
        flow = flowstone.nice(2, couplings=2, hidden=(8,))
        history = flowstone.fit(
            flow, TOYS["moons"], steps=60, compile=compile, batch_size=64, validate_every=30, progress=False
        )
        nlls.append(history.column("val_nll"))
    assert nlls[0] == pytest.approx(nlls[1], abs=1e-4)


def test_without_a_compiler_it_goes_on_with_one_warning():
    code = """
import warnings, torch, flowstone
flow = flowstone.nice(2, couplings=1, hidden=(4,))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    history = flowstone.fit(flow, torch.randn(100, 2), steps=3, compile=True, progress=False)
said = [str(w.message) for w in seen if "not compiled" in str(w.message)]
print(history.stopped, len(said), said[0])
"""
    environment = os.environ | {"CXX": "/nowhere/c++"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("finished 1 not compiled, continuing without: InvalidCxxCompiler")


class Breaks(Bijection):
    """Asks Python for a number in the middle of its arithmetic."""

    def forward(self, x, context=None):
        return x * (1.0 if x.sum().item() > 0 else -1.0), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return self(z, context)


def test_a_bijection_that_breaks_the_graph_is_run_as_it_is():
    flow = flowstone.Flow(Chain(Breaks()), StandardNormal(2))
    quick = compiled(lambda x: flow.log_prob(x).mean())
    x = torch.randn(5, 2).requires_grad_()
    with pytest.warns(UserWarning, match="not compiled, continuing without: "):
        first = quick(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(quick(x), first)


def test_a_fault_of_the_function_itself_is_not_hidden():
    def refuses(x):
        raise SettingError("no")

    with pytest.raises(SettingError, match="no"), warnings.catch_warnings(action="ignore"):
        compiled(refuses)(torch.ones(1))


def test_compiled_and_checkpointed_do_not_go_together():
    with pytest.raises(SettingError, match="do not go together"):
        flowstone.fit(flowstone.nice(2), torch.randn(50, 2), compile=True, memory="recompute", progress=False)


@needs_compiler
def test_graphs_of_an_accelerator_are_of_no_effect_elsewhere():
    flow, x = a_flow("nice", (3,))

    def loss(x):
        return -flow.log_prob(x).mean()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="not compiled")
        quick = compiled(loss, graphs=True)
        plain = outcome(flow, loss, x, "fp32")
        for _ in range(3):
            value, gradient = outcome(flow, quick, x, "fp32")
            assert value == pytest.approx(plain[0], rel=1e-5)
            torch.testing.assert_close(gradient, plain[1], rtol=1e-4, atol=1e-5)
