"""Flows through torch.export and ONNX with a batch of any size give the flow's own numbers on other batch sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowstone
from cases import disturb
from flowstone.bijections import Chain, Dequantize, MultiScale, Rescale, Whiten
from flowstone.recipes import build

# From torch, onnxscript and what they call.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

VECTORS: dict[str, dict] = {
    "nice": {"couplings": 2, "hidden": (4,)},
    "realnvp": {"couplings": 2, "hidden": (4,)},
    "glow": {"couplings": 1, "hidden": (4,)},
    "spline": {"couplings": 1, "hidden": (4,)},
    "maf": {"layers": 1, "hidden": (4,), "batch_norm": True},
    "iaf": {"layers": 1, "hidden": (4,)},
    "maf_spline": {"layers": 1, "hidden": (4,)},
    "gaussian_mixture": {"components": 2},
}
IMAGES: dict[str, dict] = {
    "nice_image": {"couplings": 1, "hidden": (4,)},
    "glow": {"scales": 2, "couplings": 1, "channels": 2},
    "realnvp_image": {"scales": 1, "couplings": 1, "channels": 2, "blocks": 1, "bins": 3},
    "realnvp_image faithful": {"scales": 1, "couplings": 1, "channels": 2, "blocks": 1, "preset": "faithful"},
}
NOISY: dict[str, dict] = {  # noise in the middle of the chain, and noise that has layers of its own
    "realnvp_image padded": {"scales": 1, "couplings": 1, "channels": 2, "blocks": 1, "event_shape": (1, 3, 3)},
    "realnvp_image variational": {"scales": 1, "couplings": 1, "channels": 2, "blocks": 1, "noise": "variational"},
}
METHODS = ("log_prob", "sampler")


class Sampler(nn.Module):
    """From the latent to data."""

    def __init__(self, flow: flowstone.Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.flow.from_latent(z, context)[0]


class Dequantized(nn.Module):
    """The log-density of an image with its noise: all layers but the first."""

    def __init__(self, flow: flowstone.Flow) -> None:
        super().__init__()
        self.flow = flow
        self.layers = Chain(*flow.bijection.sublayers()[1:])

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        given = None if self.flow.standardize_context is None else self.flow.standardize_context(context)[0]
        z, log_det = self.layers(y, given)
        return self.flow.prior.log_prob(z, context) + log_det


def trained(flow: flowstone.Flow, x: Tensor, context: Tensor | None, size: float) -> flowstone.Flow:
    flow.initialize(x, context)
    disturb(flow, size)
    return flow.eval()


def a_vector_flow(name: str, context_features: int) -> flowstone.Flow:
    flow = build(name, {"features": 3, "context_features": context_features, **VECTORS[name]})
    x = torch.randn(50, 3) * 5 + 100
    return trained(flow, x, torch.randn(50, 2) + 9 if context_features else None, 0.3)


def an_image_flow(name: str, context_features: int = 0) -> tuple[flowstone.Flow, Tensor, Tensor | None]:
    settings = {"event_shape": (1, 4, 4), **(IMAGES | NOISY)[name]}
    flow = build(name.split(maxsplit=1)[0], settings | {"context_features": context_features})
    x = torch.randint(256, (20, *settings["event_shape"]))
    context = torch.randn(20, context_features) if context_features else None
    return trained(flow, x, context, 0.1), x, context


def inputs(flow: flowstone.Flow, method: str, rows: int = 6) -> tuple[Tensor, ...]:
    first = torch.randn(rows, 3) + (100 if method == "log_prob" else 0)
    return (first, torch.randn(rows, 2) + 9) if flow.context_features else (first,)


def of_method(flow: flowstone.Flow, method: str) -> nn.Module:
    return flow if method == "log_prob" else Sampler(flow).eval()


def any_batch(values: tuple[Tensor, ...]) -> tuple[dict, ...]:
    batch = torch.export.Dim("batch", min=2, max=1024)
    return tuple({0: batch} for _ in values)


def exported(module: nn.Module, values: tuple[Tensor, ...], *, strict: bool = False) -> nn.Module:
    program = torch.export.export(module, values, dynamic_shapes=any_batch(values), strict=strict)
    assert not any("flowstone" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return program.module()


def in_onnx(module: nn.Module, values: tuple[Tensor, ...], *, optimize: bool = True) -> Callable[..., Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        module, values, dynamo=True, dynamic_shapes=any_batch(values), verbose=False, optimize=optimize
    )
    assert program is not None
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*values: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def check_equal(function: Callable[..., Tensor], module: nn.Module, values: tuple[Tensor, ...]) -> None:
    """On two other batch sizes; with the same noise where noise is drawn."""
    for rows in (2, 11):
        others = tuple(value.repeat(2, *(1 for _ in value.shape[1:]))[:rows] for value in values)
        torch.manual_seed(1)
        with torch.no_grad():
            expected = module(*others)
        torch.manual_seed(1)
        torch.testing.assert_close(function(*others).detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("context_features", "method", "grad"),
    [
        pytest.param(0, "log_prob", True, id="grad"),
        pytest.param(2, "log_prob", False, id="no_grad given"),
        pytest.param(2, "sampler", False, id="sampler given"),
        pytest.param(2, "log_prob", True, id="grad given", marks=pytest.mark.long),
        pytest.param(0, "log_prob", False, id="no_grad", marks=pytest.mark.long),
        pytest.param(0, "sampler", False, id="sampler", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("name", VECTORS)
def test_torch_export_of_every_vector_recipe(name, method, context_features, grad):
    flow = a_vector_flow(name, context_features)
    module, values = of_method(flow, method), inputs(flow, method)
    with torch.set_grad_enabled(grad):
        check_equal(exported(module, values), module, values)


@pytest.mark.parametrize(
    "name", ["realnvp", *(pytest.param(n, marks=pytest.mark.long) for n in VECTORS if n != "realnvp")]
)
def test_strict_torch_export(name):
    flow = a_vector_flow(name, 2)
    values = inputs(flow, "log_prob")
    check_equal(exported(flow, values, strict=True), flow, values)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", VECTORS)
def test_torch_jit_trace(name, method, tmp_path):
    flow = a_vector_flow(name, 2)
    module, values = of_method(flow, method), inputs(flow, method)
    traced: Any = torch.jit.trace(module, values)
    traced.save(tmp_path / "traced.pt")
    check_equal(torch.jit.load(tmp_path / "traced.pt"), module, values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(  # maf_spline is the order of maf and the transform of spline
    "name", [pytest.param(name, marks=pytest.mark.long if name == "maf_spline" else ()) for name in VECTORS]
)
def test_onnx_of_every_vector_recipe(name, method, tmp_path):
    """By ``export_onnx``, whose files take data and contexts in float64."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    flow = a_vector_flow(name, 2)
    part = "log_prob" if method == "log_prob" else "sample"
    exported = flowstone.export_onnx(flow, tmp_path / "flow.onnx", part=part)
    assert exported.difference is not None
    assert exported.difference < 1e-3
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert {"recipe": name, "event_shape": "[3]", "part": part, "prior": type(flow.prior).__name__}.items() <= {
        key.removeprefix("flowstone."): value for key, value in about.items()
    }.items()
    kinds = {given: getattr(torch, kind) for given, (_, kind) in exported.inputs.items()}

    def run(*values: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(kinds, values, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    values = tuple(x.to(kind) for x, kind in zip(inputs(flow, method), kinds.values(), strict=True))
    check_equal(run, of_method(flow, method), values)


@pytest.mark.parametrize("name", [*IMAGES, *NOISY])
def test_torch_export_of_every_image_recipe_draws_the_same_noise(name):
    flow, x, context = an_image_flow(name, 1)
    assert context is not None
    check_equal(exported(flow, (x, context)), flow, (x, context))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if "faithful" in name else ()) for name in IMAGES]
)
def test_onnx_of_every_image_recipe(name):
    """The log-density of images with their noise; the exporter's own optimization takes as long as all else."""
    flow, x, context = an_image_flow(name, 1)
    assert context is not None
    y = x + torch.rand(x.shape)
    dequantized = Dequantized(flow).eval()
    check_equal(in_onnx(dequantized, (y, context), optimize=False), dequantized, (y, context))


@pytest.mark.parametrize("name", ["nice_image", "glow"])
def test_onnx_of_samplers_of_images(name):
    flow, _, context = an_image_flow(name, 1)
    assert context is not None
    z, sampler = torch.randn(20, *flow.prior.event_shape), Sampler(flow).eval()
    check_equal(in_onnx(sampler, (z, context), optimize=False), sampler, (z, context))


def test_the_layers_after_the_noise_give_the_log_prob_of_images():
    flow, x, context = an_image_flow("realnvp_image", 1)
    dequantize = flow.bijection.sublayers()[0]
    torch.manual_seed(1)
    y, log_det = dequantize(x)
    torch.manual_seed(1)
    assert torch.equal(Dequantized(flow)(y, context) + log_det, flow.log_prob(x, context))


def test_an_image_flow_in_onnx_draws_its_noise_itself():
    flow, x, _ = an_image_flow("nice_image")
    many = x[:1].expand(4000, -1, -1, -1).contiguous()
    in_runtime = in_onnx(flow, (many[:6],))
    output = in_runtime(many)
    expected = flow.log_prob(many).detach()
    error = expected.std() / len(many) ** 0.5
    assert error > 0
    assert (output.mean() - expected.mean()).abs() < 6 * error
    assert output.std() == pytest.approx(expected.std().item(), rel=0.2)
    outside = torch.full((6, 1, 4, 4), 256)
    assert in_runtime(outside).isneginf().all()


def test_whitening_keeps_float64_in_onnx():
    """Columns that lie so far away that float32 would lose them."""
    whiten = Whiten(3)
    x = torch.randn(50, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 1.7e9
    whiten.initialize(x)
    flow = flowstone.Flow(whiten, flowstone.priors.StandardNormal(3)).eval()
    check_equal(in_onnx(flow, (x[:6],)), flow, (x[:6],))
    sampler, z = Sampler(flow).eval(), torch.randn(6, 3)
    output = in_onnx(sampler, (z,))(z)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, sampler(z), atol=1e-5, rtol=0)


def test_dequantized_integers_come_back_where_rounding_is_coarse():
    x = torch.cat((torch.arange(-(2**19), -(2**19) + 50), torch.arange(2**19, 2**19 + 50)))[:, None].expand(-1, 300)
    dequantize = Dequantize()
    assert torch.equal(dequantize.inverse(dequantize(x)[0])[0], x.float())


def test_one_scale_known_by_two_names_is_exported_without_dynamo():
    """While torch.export traces, such a submodule is another object at each access: scales are told apart by number."""
    prior = flowstone.priors.StandardNormal(4)
    flow = flowstone.Flow(Chain(Rescale(-1.0, 3.0), MultiScale((1, 2, 2), [Rescale(-1.0, 3.0)])), prior)
    module, x = Dequantized(flow).eval(), torch.randn(6, 1, 2, 2)
    check_equal(exported(module, (x,)), module, (x,))
