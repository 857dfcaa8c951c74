"""The laws that every bijection obeys, to test your own by.

``check(Case(make, features))`` runs them all; each one alone is a function ``law(case, seed, spread)`` in ``LAWS``.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from flowstone.bijections import Bijection, noise_from
from flowstone.errors import FlowstoneError
from flowstone.evaluation.jacobian import jacobian

__all__ = [
    "LAWS",
    "TOLERANCES",
    "Case",
    "LawBrokenError",
    "Tolerance",
    "check",
    "copies_are_apart",
    "device_follows",
    "gradients_are_finite",
    "grid_sums_to_one",
    "jacobian",
    "log_det_of_jacobian",
    "log_dets_cancel",
    "measure_is_kept",
    "precision_follows",
    "round_trip",
    "rows_do_not_mix",
    "saved_is_loaded",
    "shapes",
    "traces_as_one_graph",
    "triangular",
]

Rows = Callable[[int, torch.Generator, float], Tensor]


class LawBrokenError(FlowstoneError, AssertionError):
    """A bijection breaks a law; the message says which, by how much and where."""


@dataclass(frozen=True)
class Tolerance:
    """How far off a round trip may be, relative to its largest number, and a log-det, in nats or relative to it."""

    round_trip: float
    log_det: float


TOLERANCES = {torch.float64: Tolerance(1e-9, 1e-8), torch.float32: Tolerance(1e-4, 1e-4)}


@dataclass(frozen=True)
class Case:
    """A bijection to be tested, and what it is to be tested on.

    Attributes:
        make: builds it, its parameters away from where they start (at zero every law is trivially true).
        event_shape: of one x; a number of features, or a shape.
        context_features: width of its context, 0 for none.
        data, latents: ``(n, generator, spread) -> (n, *shape)`` draw x in its domain, and z; None is
            ``spread`` times a normal.
        widest, widest_float32: the largest spread at which each precision still resolves it.
        triangular: whether z_i depends on x_1 … x_i alone.
        stochastic: whether it draws noise (dequantization): then it has no Jacobian, and its inverse gives x back.
        density: whether x can be any vector, so that a normal z makes a density over all of space.
    """

    make: Callable[[], Bijection]
    event_shape: int | Sequence[int]
    context_features: int = 0
    data: Rows | None = None
    latents: Rows | None = None
    widest: float = 30.0
    widest_float32: float = 3.0
    triangular: bool = False
    stochastic: bool = False
    density: bool = True

    @property
    def shape(self) -> torch.Size:
        """``event_shape`` as a shape."""
        return torch.Size((self.event_shape,) if isinstance(self.event_shape, int) else self.event_shape)

    def bijection(self) -> Bijection:
        """A new one, the same every time, in evaluation mode and in torch's default precision."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval()

    @cached_property
    def _latent_shape(self) -> torch.Size:
        return self.bijection().latent_shape(self.shape)

    def rows(self, n: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw x, z and context, ``n`` rows of each."""
        generator = torch.Generator().manual_seed(seed)
        spread = min(spread, self.widest if torch.get_default_dtype() == torch.float64 else self.widest_float32)
        latent = self._latent_shape

        def normal(shape: torch.Size) -> Rows:
            return lambda n, generator, spread: spread * torch.randn(n, *shape, generator=generator)

        x = (self.data or normal(self.shape))(n, generator, spread)
        z = (self.latents or normal(latent))(n, generator, spread)
        width = self.context_features
        return x, z, torch.randn(n, width, generator=generator) if width else None


def check(case: Case, *, seeds: int = 5, spreads: Sequence[float] = (0.1, 1.0, 3.0, 30.0)) -> None:
    """Test every law on ``case``, on inputs near and far; raises LawBrokenError at the first one that does not hold.

    It runs in float64, whatever torch's default precision is; the law ``precision_follows`` compares float32 with it.

    >>> import torch
    >>> from flowstone.bijections import LeakyReLU
    >>> from flowstone.testing import Case, check
    >>> def bent():
    ...     layer = LeakyReLU()
    ...     layer.log_slope.data.fill_(0.5)
    ...     return layer
    >>> check(Case(bent, 3))
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for law in LAWS.values():
            for seed in range(seeds):
                for spread in spreads:
                    law(case, seed, spread)
    finally:
        torch.set_default_dtype(before)


# --- the laws ---------------------------------------------------------------------------------------------------------


def shapes(case: Case, seed: int, spread: float) -> None:
    """The shapes of z, x and the log-dets are right, also for an empty batch."""
    bijection = case.bijection()
    latent = bijection.latent_shape(case.shape)
    _require(bijection.event_shape(latent) == case.shape, "shapes", "event_shape(latent_shape(s)) is not s")
    for n in (5, 1, 0):
        x, z, context = case.rows(n, seed, spread)
        for direction, value, wanted in ((bijection.forward, x, latent), (bijection.inverse, z, case.shape)):
            out, log_det = direction(value, context)
            _require(out.shape == (n, *wanted), "shapes", f"{direction.__name__} gives {tuple(out.shape)}")
            _require(log_det.shape == (n,), "shapes", f"log_det of {direction.__name__} is {tuple(log_det.shape)}")


def round_trip(case: Case, seed: int, spread: float) -> None:
    """``inverse`` undoes ``forward`` and, without noise, ``forward`` undoes ``inverse``."""
    bijection, (x, z, context) = case.bijection(), case.rows(16, seed, spread)
    tolerance = TOLERANCES[x.dtype].round_trip
    there = bijection(x, context)[0]
    back = bijection.inverse(there, context)[0]
    _close(back, x, tolerance * _largest(x, there), "round trip x → z → x")
    if not case.stochastic:
        there = bijection.inverse(z, context)[0]
        back = bijection(there, context)[0]
        _close(back, z, tolerance * _largest(z, there), "round trip z → x → z")


def log_dets_cancel(case: Case, seed: int, spread: float) -> None:
    """The log-det of the way back is minus that of the way there."""
    if case.stochastic:
        return
    bijection, (x, z, context) = case.bijection(), case.rows(16, seed, spread)
    for there, back, value in ((bijection.forward, bijection.inverse, x), (bijection.inverse, bijection.forward, z)):
        out, log_det = there(value, context)
        _close(back(out, context)[1], -log_det, _log_det_tolerance(log_det), f"log-dets cancel ({there.__name__})")


def log_det_of_jacobian(case: Case, seed: int, spread: float) -> None:
    """The log-det of each direction is that of the Jacobian which automatic differentiation finds."""
    if case.stochastic:
        return
    bijection, (x, z, context) = case.bijection(), case.rows(4, seed, spread)
    for direction, value in ((bijection.forward, x), (bijection.inverse, z)):
        expected = torch.linalg.slogdet(jacobian(direction, value, context))[1]
        log_det = direction(value, context)[1]
        _close(log_det, expected, _log_det_tolerance(expected), f"log-det of {direction.__name__} = log|det Jacobian|")


def triangular(case: Case, seed: int, spread: float) -> None:
    """If the case says so, z_i depends on x_1 … x_i alone, exactly."""
    if not case.triangular:
        return
    bijection, (x, z, context) = case.bijection(), case.rows(4, seed, spread)
    for direction, value in ((bijection.forward, x), (bijection.inverse, z)):
        above = jacobian(direction, value, context).triu(1)
        _close(above, torch.zeros_like(above), 0.0, f"the Jacobian of {direction.__name__} is lower triangular")


def rows_do_not_mix(case: Case, seed: int, spread: float) -> None:
    """Row i of the result depends on row i of the input alone."""
    if case.stochastic:
        return
    bijection, (x, z, context) = case.bijection(), case.rows(9, seed, spread)
    tolerance = TOLERANCES[x.dtype].round_trip / 10
    for direction, value in ((bijection.forward, x), (bijection.inverse, z)):
        out, log_det = direction(value, context)
        for row in (0, 7):
            alone = slice(row, row + 1)
            got = direction(value[alone], None if context is None else context[alone])
            _close(got[0], out[alone], tolerance * _largest(out), f"row {row} alone ({direction.__name__})")
            _close(got[1], log_det[alone], _log_det_tolerance(log_det), f"log-det of row {row} alone")


def gradients_are_finite(case: Case, seed: int, spread: float) -> None:
    """Gradients are finite at zero, at bounds, far out, and at and beyond the borders of the domain."""
    bijection, (x, z, context) = case.bijection(), case.rows(12, seed, spread)
    for direction, value, outmost in ((bijection.forward, x, 1e3), (bijection.inverse, z, 50.0)):
        special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 5.0, 1e-30, outmost, -outmost]
        far = torch.tensor(special, dtype=x.dtype).reshape(-1, *(1 for _ in value.shape[1:])).expand_as(value)
        for rows in (value, far):
            leaf = rows.clone().requires_grad_()
            out, log_det = direction(leaf, context)
            _require(bool(out.isfinite().all()), "finite", f"{direction.__name__} of finite rows is not finite")
            inputs = [leaf, *bijection.parameters()]
            total = out.sum() + log_det.clamp_min(torch.finfo(log_det.dtype).min).sum()
            for gradient in torch.autograd.grad(total, inputs, allow_unused=True) if total.requires_grad else ():
                finite = gradient is None or bool(gradient.isfinite().all())
                _require(finite, "finite gradients", f"{direction.__name__} has a gradient that is not finite")


def saved_is_loaded(case: Case, seed: int, spread: float) -> None:
    """A bijection that is initialised differently gives the same numbers after it has loaded the saved state."""
    bijection, (x, z, context) = case.bijection(), case.rows(5, seed, spread)
    state = {name: tensor.contiguous() for name, tensor in bijection.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        other = case.make().eval()
    other.load_state_dict(tensors_from_bytes(tensors_to_bytes(state)))
    _same(bijection, other, (x, z), context, "save → load")
    flags = [bool(module.initialized) for module in bijection.modules() if hasattr(module, "initialized")]
    if flags and all(flags):
        other.initialize(x + 1, context)
        _same(bijection, other, (x, z), context, "save → load → initialize again")


def copies_are_apart(case: Case, seed: int, spread: float) -> None:
    """A deep copy gives the same numbers, and changing it leaves the original alone."""
    bijection, (x, z, context) = case.bijection(), case.rows(5, seed, spread)
    twin = copy.deepcopy(bijection)
    _same(bijection, twin, (x, z), context, "deep copy")
    before = copy.deepcopy(bijection.state_dict())
    for parameter in twin.parameters():
        parameter.data.add_(1)
    for name, value in bijection.state_dict().items():
        _require(torch.equal(value, before[name]), "deep copy", f"{name} is shared with the copy")


def precision_follows(case: Case, seed: int, spread: float) -> None:
    """``.double()`` and ``.float()`` convert everything, and float32 gives the numbers of float64, to its tolerance."""
    bijection, (x, z, context) = case.bijection(), case.rows(8, seed, min(spread, 1.0))
    double, single = copy.deepcopy(bijection).double(), copy.deepcopy(bijection).float()
    tolerance = TOLERANCES[torch.float32]
    for name, value in (("forward", x), ("inverse", z)):
        # Both get the float32 numbers, so that rounding of the input does not count.
        given, narrow = None if context is None else context.float(), value.float()
        with noise_from(torch.Generator().manual_seed(0)):
            exact = getattr(double, name)(narrow.double(), None if given is None else given.double())
        with noise_from(torch.Generator().manual_seed(0)):
            rounded = getattr(single, name)(narrow, given)
        _require(
            exact[0].dtype == exact[1].dtype == torch.float64, "precision", f"{name} in float64 is {exact[0].dtype}"
        )
        _require(rounded[0].dtype == rounded[1].dtype == torch.float32, "precision", f"{name} in float32 is not")
        if not case.stochastic:
            _close(rounded[0].double(), exact[0], tolerance.round_trip * _largest(exact[0]), f"float32 {name}")
            bound = tolerance.log_det * max(1.0, exact[1].abs().max().item())
            _close(rounded[1].double(), exact[1], bound, f"float32 log-det of {name}")


def device_follows(case: Case, seed: int, spread: float) -> None:
    """``.to(device)`` moves everything (tested on torch's ``meta`` device, which computes shapes alone)."""
    bijection, (x, z, context) = case.bijection().to("meta"), case.rows(4, seed, spread)
    for module in bijection.modules():
        aside = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        _require(not aside, "device", f"{aside} of {type(module).__name__} is neither a parameter nor a buffer")
    context = None if context is None else context.to("meta")
    for direction, value in ((bijection.forward, x), (bijection.inverse, z)):
        out, log_det = direction(value.to("meta"), context)
        _require(out.device.type == log_det.device.type == "meta", "device", f"{direction.__name__} stays behind")


def traces_as_one_graph(case: Case, seed: int, spread: float, backend: str = "eager") -> None:
    """``torch.compile(fullgraph=True)`` traces both directions without a break, and computes the same."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    bijection, (x, z, context) = case.bijection(), case.rows(4, seed, spread)
    for name, value in (("forward", x), ("inverse", z)):
        torch.compiler.reset()
        direction = getattr(bijection, name)
        try:
            got = torch.compile(direction, fullgraph=True, backend=backend)(value, context)
        except TorchDynamoException as error:
            raise LawBrokenError(f"compile: {name} of {_name(case)} breaks the graph: {str(error)[:300]}") from error
        if not case.stochastic:
            expected = direction(value, context)
            _close(got[0], expected[0], TOLERANCES[x.dtype].round_trip * _largest(expected[0]), f"compiled {name}")
            _close(got[1], expected[1], _log_det_tolerance(expected[1]), f"log-det of compiled {name}")


def measure_is_kept(case: Case, seed: int, spread: float) -> None:
    """The density over x of a normal z integrates to one, by importance sampling, within six standard errors."""
    del spread
    if case.stochastic or not case.density or case.shape.numel() > 8:
        return  # in more dimensions the weights of importance sampling vary too much
    bijection, n = case.bijection(), 20_000
    generator = torch.Generator().manual_seed(seed)
    _, _, context = case.rows(1, seed)
    latent = bijection.latent_shape(case.shape)

    def given(rows: int) -> Tensor | None:
        return None if context is None else context.expand(rows, -1)

    with torch.no_grad():
        reached = bijection.inverse(torch.randn(2000, *latent, generator=generator), given(2000))[0].flatten(1)
        # Student's t with 3 degrees of freedom over a whitened cloud, 1.5 times as wide: it covers every tail.
        mean, scale = reached.mean(0), 1.5 * torch.linalg.cholesky(reached.T.cov() + 1e-9 * torch.eye(reached.shape[1]))
        count = reached.shape[1]
        chi = torch.randn(n, 3, generator=generator).square().sum(-1) / 3
        t = torch.randn(n, count, generator=generator) / chi.sqrt()[:, None]
        x = (mean + t @ scale.T).unflatten(1, case.shape)
        z, log_det = bijection(x, given(n))
        log_p = log_det - 0.5 * (z.flatten(1).square().sum(-1) + count * math.log(2 * math.pi))
        constant = math.lgamma((3 + count) / 2) - math.lgamma(1.5) - 0.5 * count * math.log(3 * math.pi)
        log_q = constant - scale.diagonal().log().sum() - (3 + count) / 2 * torch.log1p(t.square().sum(-1) / 3)
        weight = (log_p - log_q).exp()
    error = (weight.std() / math.sqrt(n)).item()
    off = abs(weight.mean().item() - 1)
    _require(
        off < 6 * error + 1e-9, "change of measure", f"the density integrates to 1 ± {error:.2g}, off by {off:.3g}"
    )


def grid_sums_to_one(case: Case, seed: int, spread: float) -> None:
    """In one or two dimensions the density over x of a normal z, summed over a grid, is one.

    The grid lies along the axes of the density itself, so that it resolves a narrow ridge, too.
    """
    del spread
    if case.stochastic or not case.density or case.shape not in ((1,), (2,)):
        return
    bijection, features = case.bijection(), case.shape.numel()
    _, _, context = case.rows(1, seed)

    def given(rows: int) -> Tensor | None:
        return None if context is None else context.expand(rows, -1)

    with torch.no_grad():
        z = torch.randn(4000, *case.shape, generator=torch.Generator().manual_seed(seed))
        reached = bijection.inverse(z, given(4000))[0]
        centre, axes = reached.mean(0), torch.linalg.cholesky(reached.T.cov().reshape(features, features))
        white = torch.linalg.solve_triangular(axes, (reached - centre).T, upper=False).T
        margin = (white.amax(0) - white.amin(0)) / 2
        borders = zip((white.amin(0) - margin).tolist(), (white.amax(0) + margin).tolist(), strict=True)
        ticks = [torch.linspace(low, high, {1: 20_001, 2: 401}[features]) for low, high in borders]
        total = 0.0
        for point in torch.cartesian_prod(*ticks).reshape(-1, features).split(2**16):
            z, log_det = bijection(centre + point @ axes.T, given(len(point)))
            log_p = log_det - 0.5 * (z.square().sum(-1) + features * math.log(2 * math.pi))
            total += log_p.exp().sum().item()
    cell = axes.diagonal().prod().item() * math.prod((tick[1] - tick[0]).item() for tick in ticks)
    _require(abs(total * cell - 1) < 0.03, "grid", f"the density sums to {total * cell:.4f}")


LAWS: dict[str, Callable[[Case, int, float], None]] = {
    law.__name__: law
    for law in (
        shapes,
        round_trip,
        log_dets_cancel,
        log_det_of_jacobian,
        triangular,
        rows_do_not_mix,
        gradients_are_finite,
        saved_is_loaded,
        copies_are_apart,
        precision_follows,
        device_follows,
        traces_as_one_graph,
        measure_is_kept,
        grid_sums_to_one,
    )
}


# --- what the laws share ----------------------------------------------------------------------------------------------


def _require(holds: bool, law: str, what: str) -> None:
    if not holds:
        raise LawBrokenError(f"{law}: {what}")


def _close(got: Tensor, wanted: Tensor, tolerance: float, law: str) -> None:
    """Require numbers equal to within ``tolerance``, infinities equal, and no NaN."""
    off = torch.where(got == wanted, 0.0, (got - wanted).abs())
    if not bool((off <= tolerance).all()):
        place = int(off.nan_to_num(math.inf).flatten().argmax())
        row = place // max(1, off[0].numel())
        values = f"{got.flatten()[place].item():.12g} in place of {wanted.flatten()[place].item():.12g}"
        raise LawBrokenError(f"{law}: row {row} has {values}; {tolerance:.2g} is allowed")


def _same(one: Bijection, two: Bijection, values: tuple[Tensor, Tensor], context: Tensor | None, law: str) -> None:
    """Require that both directions give the same numbers, to the last bit."""
    results: list[list[Tensor]] = []
    for bijection in (one, two):
        with noise_from(torch.Generator().manual_seed(0)):
            results.append([*bijection(values[0], context), *bijection.inverse(values[1], context)])
    for got, wanted in zip(results[1], results[0], strict=True):
        _require(torch.equal(got, wanted), law, "the numbers are not the same")


def _largest(*values: Tensor) -> float:
    return max([1.0, *(value.abs().max().item() for value in values if value.numel())])


def _log_det_tolerance(log_det: Tensor) -> float:
    finite = log_det[log_det.isfinite()]
    return (
        TOLERANCES[log_det.dtype].log_det * _largest(finite)
        if log_det.dtype == torch.float32
        else (TOLERANCES[log_det.dtype].log_det + 1e-9 * _largest(finite))
    )


def _name(case: Case) -> str:
    return type(case.bijection()).__name__
