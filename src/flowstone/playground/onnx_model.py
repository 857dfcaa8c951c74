"""A flow as two ONNX programs, from data to latent and back, with what a page needs to draw samples with them."""

import base64
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.export import onnx_program, require_exporter
from flowstone.flow import Flow
from flowstone.plot.stages import unlike_a_plain_flow
from flowstone.priors import GaussianMixture, Logistic, Prior, StandardNormal, StudentT, Uniform

__all__ = ["model_record", "require_exportable"]


def require_exportable(density: Density) -> Flow:
    """The density as a Flow that can run in a page.

    Raises:
        SettingError: it is none; the message says what is possible instead.
    """
    what = unlike_a_plain_flow(density)
    if what is None and isinstance(density, Flow) and type(density.prior) not in PRIORS:
        what = f"one with the prior {type(density.prior).__name__}, which the page cannot draw from"
    if what is not None or not isinstance(density, Flow):
        raise SettingError(
            f"a playground shows flows of columns without a context; this density is {what}: "
            "`flowstone plot RUN` draws its pictures, `flowstone sample RUN` its samples"
        )
    return density


def model_record(flow: Flow, x: Tensor, *, advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """What the page needs of a flow: two ONNX programs in base64, the prior, and rows with their log-densities.

    The page computes the log-densities of these rows itself, and shows no number where it finds others.

    Args:
        flow: what ``require_exportable`` has returned, in evaluation mode, on the CPU.
        x: rows of data, ``(n, features)``.
        advance: called as ``advance(1)`` after each of the two exports.

    Raises:
        SettingError: the packages that export to ONNX are missing, or the flow has no form in ONNX.
    """
    require_exporter("a playground")
    x = x.to(flow.data_dtype)
    with torch.no_grad():
        z = flow.to_latent(x)[0]
        programs = {}
        for name, module, inputs, outputs in (
            ("forward", _Forward(flow), {"x": x[:4]}, ["log_prob", "z"]),
            ("inverse", _Inverse(flow), {"z": z[:4]}, ["x"]),
        ):
            program = onnx_program(flow, module.eval(), inputs, outputs)
            programs[name] = base64.b64encode(program.SerializeToString()).decode("ascii")
            advance(1)
        log_prob = flow.log_prob(x).double()
    return {
        **programs,
        "dataType": str(x.dtype).removeprefix("torch."),
        "latentType": str(z.dtype).removeprefix("torch."),
        "prior": PRIORS[type(flow.prior)](flow.prior),
        "features": x.shape[1],
        "rows": x.double().flatten().tolist(),
        "logProb": log_prob.tolist(),
    }


class _Forward(nn.Module):
    """Data → (log p, latent)."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow.to_latent(x)
        return self.flow.prior.log_prob(z) + log_det, z


class _Inverse(nn.Module):
    """Latent → data."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor) -> Tensor:
        return self.flow.from_latent(z)[0]


def _student(prior: Prior) -> dict[str, Any]:
    assert isinstance(prior, StudentT)
    return {"kind": "student", "df": prior.df.tolist()}


def _uniform(prior: Prior) -> dict[str, Any]:
    assert isinstance(prior, Uniform)
    return {"kind": "uniform", "low": prior.low, "high": prior.high}


def _mixture(prior: Prior) -> dict[str, Any]:
    """Of each component the matrix M with z = μ + ε M for standard normal ε, as ``GaussianMixture.sample`` draws."""
    assert isinstance(prior, GaussianMixture)
    factor = prior.below.tril(-1) + torch.diag_embed(prior.log_diagonal.exp())
    matrices = torch.linalg.inv(factor.double().mT)
    return {
        "kind": "mixture",
        "weights": prior.logits.softmax(0).tolist(),
        "means": prior.means.tolist(),
        "matrices": matrices.tolist(),
    }


PRIORS: dict[type[Prior], Callable[[Prior], dict[str, Any]]] = {
    StandardNormal: lambda _: {"kind": "normal"},
    Logistic: lambda _: {"kind": "logistic"},
    StudentT: _student,
    Uniform: _uniform,
    GaussianMixture: _mixture,
}
