"""Densities as ONNX files, which run without Flowstone and without torch."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.bijections import Chain, Dequantize, Standardize
from flowstone.density import Density
from flowstone.errors import NonFiniteError, SettingError
from flowstone.evaluation.samples import sample_rows
from flowstone.execution.flat import require_density
from flowstone.files import atomic_path
from flowstone.flow import Flow
from flowstone.mixed import MixedDensity
from flowstone.validation import require_choice

__all__ = ["Exported", "export_onnx", "onnx_program", "require_exporter", "require_onnx_form"]

OUTPUTS = {"log_prob": "log_prob", "sample": "x"}  # the name of the output of each part
ROWS, CHECKED = 4, 64  # rows that the exporter sees, and by which the file is compared with the density
TOLERANCE = 1e-3  # of the largest number in the comparison


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        inputs: names and shapes of the inputs, with ``"batch"`` for the number of rows, and their types.
        output: the name of the output.
        difference: the largest difference between what onnxruntime makes of the file and the density, over 64 rows;
            None where onnxruntime is not installed.
    """

    path: Path
    inputs: Mapping[str, tuple[tuple[int | str, ...], str]]
    output: str
    difference: float | None


class _Sampler(nn.Module):
    """Latent → data."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.flow.from_latent(z, context)[0]


class _AfterNoise(nn.Module):
    """The log-density of an image to which the noise was added."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow, self.layers = flow, Chain(*flow.bijection.sublayers()[1:])

    def forward(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        given = None if self.flow.standardize_context is None else self.flow.standardize_context(context)[0]
        z, log_det = self.layers(y, given)
        return self.flow.prior.log_prob(z, context) + log_det


def export_onnx(density: Density, path: Path | str, *, part: str = "log_prob") -> Exported:
    r"""Write a part of a density as an ONNX file, for any number of rows, and compare it with the density.

    ``log_prob`` maps x, and the context where there is one, to $\log p(x \mid c)$ in nats, ``(batch,)``. Of images x is
    not the integers: it is an image with noise added, $y = x + u$ with u uniform in [0, 1), so that the file gives the
    same number each time; the mean over noise is the bound that ``log_prob`` draws from. ``sample`` maps a latent z,
    drawn by the caller from the prior, and the context, to data. Types are those in which the density loses no digit:
    data and contexts of rows of columns are float64, images and latents are as precise as the density.

    Args:
        density: a trained density; a copy in evaluation mode is exported.
        path: the file to write.
        part: ``log_prob`` or ``sample``.

    Raises:
        SettingError: onnx or onnxscript is not installed; this density, or this part of it, has no form in ONNX; or
            onnxruntime lacks an operator of it.
        NonFiniteError: what onnxruntime makes of the file is not what the density says; no file is written.
        OutputError: the file cannot be written.

    >>> import flowstone, tempfile
    >>> flow = flowstone.nice(2, couplings=1, hidden=(4,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = flowstone.export_onnx(flow, f"{folder}/flow.onnx", part="sample")
    >>> exported.inputs, exported.output, exported.difference < 1e-4
    ({'z': (('batch', 2), 'float32')}, 'x', True)
    """
    require_onnx_form(density, part)
    path, density = Path(path), deepcopy(density).cpu().eval()
    module, inputs = _module(density, part), _inputs(density, part, CHECKED)
    with atomic_path(path) as temporary:
        content = _onnx(density, module, {name: value[:ROWS] for name, value in inputs.items()}, part)
        temporary.write_bytes(content)
        difference = _difference(density, content, module, inputs)
        rounds = density.stochastic and part == "sample"  # to integers, where rounding errors may give a neighbour
        if difference is not None and not difference <= max(rounds, TOLERANCE * _size(module, inputs)):
            raise NonFiniteError(
                f"{_name(density)}: onnxruntime differs from the density by {difference:.3g}: no file is written"
            )
    shapes = {name: (("batch", *value.shape[1:]), _type(value)) for name, value in inputs.items()}
    return Exported(path, shapes, OUTPUTS[part], difference)


def require_onnx_form(density: Density, part: str) -> None:
    """Raise, before an export begins, where this part of the density is known to have no form in ONNX.

    Args:
        density: what is to be exported.
        part: "log_prob" or "sample", as in ``export_onnx``, which calls this function first.

    Raises:
        SettingError: this part of this density has no form in ONNX, or nothing is installed that writes one.

    >>> import flowstone
    >>> from flowstone.export import require_onnx_form
    >>> require_onnx_form(flowstone.nice(2, couplings=1, hidden=(4,)), "log_prob")
    """
    require_choice("part", part, OUTPUTS)
    require_density("export_onnx takes a density", density)
    require_exporter("export")
    if any(isinstance(module, MixedDensity) for module in density.modules()):
        raise SettingError(
            f"{_name(density)} has no form in ONNX: it looks values up in sorted lists, by an operator (searchsorted) "
            "that the exporter lacks"
        )
    if part == "sample" and not isinstance(density, Flow):
        raise SettingError(f"{_name(density)} draws samples in several steps: only its log_prob can be exported")
    if part == "log_prob" and density.stochastic and not _adds_uniform_noise_alone(density):
        raise SettingError(
            f"{_name(density)} draws noise inside, so that its log_prob differs by draw: only sample can be exported"
        )


def _module(density: Density, part: str) -> nn.Module:
    """What maps the inputs to the output."""
    if part == "log_prob" and not density.stochastic:
        return density
    assert isinstance(density, Flow)
    return (_Sampler(density) if part == "sample" else _AfterNoise(density)).eval()


def _adds_uniform_noise_alone(flow: Density) -> bool:
    """Whether a flow's first layer makes integers continuous by uniform noise, and no other layer draws noise."""
    if not isinstance(flow, Flow):
        return False
    noisy = [module for module in flow.bijection.modules() if getattr(module, "stochastic", False)]
    first = next(iter(flow.bijection.sublayers()), None)
    return noisy == [first] and isinstance(first, Dequantize) and first.noise is None


@torch.no_grad()
def _inputs(density: Density, part: str, rows: int) -> dict[str, Tensor]:
    """Inputs as they may come, by name, in the types of the file."""
    found, context = {}, None
    generator = torch.Generator().manual_seed(0)
    if density.context_features:
        context = torch.randn(rows, density.context_features, dtype=torch.float64, generator=generator)
        standardize = getattr(density, "standardize_context", None)
        context = standardize.restored(context)[0] if isinstance(standardize, Standardize) else context
    if part == "sample":
        assert isinstance(density, Flow)
        found["z"] = density.prior.sample(rows, context, generator)
    else:
        x = sample_rows(density, rows, context)
        found["x"] = x.to(density.data_dtype)
        if density.stochastic:  # noise so far below 1 that rounding never leads to the next integer
            noise = torch.rand(x.shape, generator=generator, dtype=density.dtype) * (1 - 2**-10)
            found["x"] = x.to(density.dtype) + noise
    return found if context is None else {**found, "context": context}


def require_exporter(what: str) -> None:
    """Require the packages that write ONNX; SettingError, which says what needs them, where they are missing."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise SettingError(
            f"{what} needs onnx and onnxscript, which are not installed: pip install 'flowstone[export]'"
        )


def onnx_program(density: Density, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
    """A module as an ONNX program for any number of rows, the protobuf message ``onnx.ModelProto``.

    Args:
        density: whose part the module is, for messages.
        module: a function of the inputs, in evaluation mode.
        inputs: examples by the names that they have in the program, of a few rows.
        outputs: the names of what the module returns.

    Raises:
        SettingError: it has no form in ONNX.
    """
    import onnx

    batch = torch.export.Dim("batch", min=2)
    others = ANYWHERE | (IN_FLOAT64 if density.dtype == torch.float64 else {})

    def written(*, optimize: bool) -> Any:
        program = torch.onnx.export(
            module, tuple(inputs.values()), dynamo=True, dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=list(inputs), output_names=list(outputs), verbose=False, custom_translation_table=others,
            optimize=optimize,
        )  # fmt: skip
        assert program is not None
        return program.model_proto

    with _quiet():
        try:
            model = written(optimize=True)
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError:  # onnxscript loses one of two numbers to which it gives the same name
                model = written(optimize=False)
        except Exception as error:  # the exporter lets through whatever a layer raises while it is traced
            raise SettingError(f"{_name(density)} has no form in ONNX ({_cause(error)})") from error
    return model


def _onnx(density: Density, module: nn.Module, inputs: Mapping[str, Tensor], part: str) -> bytes:
    """The file's content."""
    import onnx

    model = onnx_program(density, module, inputs, [OUTPUTS[part]])
    about = {"recipe": _name(density), "event_shape": list(density.event_shape), "part": part}
    if isinstance(density, Flow):
        about["prior"] = type(density.prior).__name__
    onnx.helper.set_model_props(model, {f"flowstone.{name}": str(value) for name, value in about.items()})
    return model.SerializeToString()


def _operators() -> Any:
    """ONNX's operators, of which the functions below make others."""
    from onnxscript import opset18

    return opset18


def _softplus(x: Any, *_: Any) -> Any:
    r"""$\log(1 + e^x)$."""
    op = _operators()
    return op.Add(op.Relu(x), op.Log(op.Add(op.Exp(op.Neg(op.Abs(x))), op.CastLike(1.0, x))))


def _atan(x: Any) -> Any:
    r"""The y with $\tan y = x$, from that of float32, by $\sin(y - y_0) = (x \cos y_0 - \sin y_0) / \sqrt{1 + x^2}$."""
    op = _operators()
    start = op.CastLike(op.Atan(op.Cast(x, to=1)), x)  # 1 is float32
    off = op.Sub(op.Mul(x, op.Cos(start)), op.Sin(start))
    return op.Add(start, op.Div(off, op.Sqrt(op.Add(op.Mul(x, x), op.CastLike(1.0, x)))))


def _lgamma(x: Any) -> Any:
    r"""$\log \Gamma(x)$ of x above 0: Stirling's series at $x + 8$, and $\Gamma(x + 1) = x \Gamma(x)$."""
    import onnx

    op = _operators()

    def number(value: float) -> Any:
        return op.CastLike(op.Constant(value=onnx.helper.make_tensor("", onnx.TensorProto.DOUBLE, [], [value])), x)

    y, series = op.Add(x, number(8)), number(0)
    square = op.Reciprocal(op.Mul(y, y))
    for each in (1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        series = op.Add(op.Mul(series, square), number(each))
    found = op.Add(op.Mul(op.Sub(y, number(0.5)), op.Log(y)), number(math.log(2 * math.pi) / 2))
    found = op.Add(op.Sub(found, y), op.Div(series, y))
    for less in range(8):
        found = op.Sub(found, op.Log(op.Add(x, number(less))))
    return found


ANYWHERE = {torch.ops.aten.lgamma.default: _lgamma}  # the exporter has no form of it
# Functions that onnxruntime computes in float32 alone, of others that it computes in float64.
IN_FLOAT64 = {torch.ops.aten.softplus.default: _softplus, torch.ops.aten.atan.default: _atan}


@torch.no_grad()
def _difference(density: Density, content: bytes, module: nn.Module, inputs: Mapping[str, Tensor]) -> float | None:
    """The largest difference between the file and the module, over a single row and all of them."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    worst, session = [], None
    for rows in (1, CHECKED):
        given = {name: value[:rows] for name, value in inputs.items()}
        try:
            session = session or onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            (output,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        except Exception as error:  # its errors have no class in common
            raise SettingError(
                f"{_name(density)}: onnxruntime cannot run it: no file is written ({_cause(error)})"
            ) from error
        found, expected = torch.as_tensor(output), module(*given.values())
        if found.shape != expected.shape:
            return math.inf
        worst.append((found - expected).abs().max())
    return torch.stack(worst).max().item()


@torch.no_grad()
def _size(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The largest number among the outputs, at least 1."""
    return max(1.0, module(*inputs.values()).abs().max().item())


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which the exporter's log messages and warnings are silenced."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _name(density: Density) -> str:
    return type(density).__name__ if density.spec is None else density.spec["recipe"]


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
