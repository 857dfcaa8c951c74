"""Two-dimensional toys with known densities, given standardised by their exact mean and standard deviation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TOYS", "Toy"]

Draw = Callable[[int, torch.Generator | None], Tensor]
LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Toy:
    """A distribution on the plane: ``toy(n, generator)`` → ``(n, 2)``, float32, standardised.

    Attributes:
        name: what the command line calls it.
        about: one line.
        mean, std: exact moments of the raw distribution, with which the samples are standardised.
        entropy: in nats, of the standardised distribution: no model's expected NLL is below it. Exact where a closed
            form exists, otherwise the integral of the exact density, good to the digits given.

    >>> import torch
    >>> from flowstone.data import TOYS
    >>> TOYS["moons"](4, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

    name: str
    about: str
    draw: Draw
    raw_log_density: LogDensity
    mean: tuple[float, float]
    std: tuple[float, float]
    entropy: float

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return ((self.draw(n, generator) - torch.tensor(self.mean)) / torch.tensor(self.std)).float()

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-density in nats of standardised points ``(batch, 2)`` → ``(batch,)``, in float64."""
        std = torch.tensor(self.std, dtype=torch.float64)
        raw = x.double() * std + torch.tensor(self.mean, dtype=torch.float64)
        return self.raw_log_density(raw) + std.log().sum()


# --- parts of toys ----------------------------------------------------------------------------------------------------


def _uniform(n: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)


def _normal(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _choice(n: int, count: int, generator: torch.Generator | None) -> Tensor:
    return torch.randint(count, (n,), generator=generator)


def _log_normal(residual: Tensor, std: Tensor | float) -> Tensor:
    """Log-density of an axis-aligned normal; the last dimension is the plane's."""
    std = torch.as_tensor(std, dtype=torch.float64).expand(2)
    return -0.5 * (residual / std).square().sum(-1) - std.log().sum() - math.log(2 * math.pi)


def _mixture(centers: Tensor, std: float) -> tuple[Draw, LogDensity]:
    """Equal normals of one width around the rows of ``centers``."""

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return centers[_choice(n, len(centers), generator)] + std * _normal(n, generator)

    def log_density(x: Tensor) -> Tensor:
        return _log_normal(x[:, None] - centers, std).logsumexp(-1) - math.log(len(centers))

    return draw, log_density


def _noisy_curve(curve: Callable[[Tensor, Tensor], Tensor], arms: int, std: float) -> tuple[Draw, LogDensity]:
    """Points ``curve(u, arm)`` for uniform u and arm, plus normal noise; the density is the integral over u."""

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return curve(_uniform(n, generator), _choice(n, arms, generator)) + std * _normal(n, generator)

    nodes = 1024  # midpoints; their spacing along every curve here is well below the noise
    u = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    path = torch.cat([curve(u, torch.full((nodes,), arm)) for arm in range(arms)])

    def log_density(x: Tensor) -> Tensor:
        parts = [_log_normal(part[:, None] - path, std).logsumexp(-1) for part in x.split(512)]
        return torch.cat(parts) - math.log(len(path))

    return draw, log_density


# --- the toys ---------------------------------------------------------------------------------------------------------

NOISE = 0.05


def _moon(u: Tensor, arm: Tensor) -> Tensor:
    x, y = (math.pi * u).cos(), (math.pi * u).sin()
    return torch.stack((torch.where(arm == 0, x, 1 - x), torch.where(arm == 0, y, 0.5 - y)), -1)


def _ring(u: Tensor, arm: Tensor) -> Tensor:
    angle, radius = 2 * math.pi * u, torch.where(arm == 0, 1.0, 0.5).double()
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1)


SPIRAL_END = 3 * math.pi


def _spiral(u: Tensor, arm: Tensor) -> Tensor:
    angle, sign = SPIRAL_END * u.sqrt(), 1.0 - 2.0 * arm
    return (sign * angle / 3)[:, None] * torch.stack((-angle.cos(), angle.sin()), -1)


def _spiral_second_moments() -> tuple[float, float]:
    """E[(a cos a)²] / 9 and E[(a sin a)²] / 9 for a = SPIRAL_END √u: integrals of 2a³ cos²a / end², and of sin²."""
    end = SPIRAL_END
    swing = (3 * end**2 / 4 - 3 / 8) / end**2  # (1/end²) ∫₀^end a³ cos 2a da, where end is a multiple of π
    return (end**2 / 4 + swing) / 9, (end**2 / 4 - swing) / 9


def _banana(n: int, generator: torch.Generator | None) -> Tensor:
    noise = _normal(n, generator)
    second = 2 * noise[:, 1]
    return torch.stack((noise[:, 0] + second.square() / 4, second), -1)


def _banana_log_density(x: Tensor) -> Tensor:
    residual = torch.stack((x[:, 0] - x[:, 1].square() / 4, x[:, 1]), -1)
    return _log_normal(residual, torch.tensor([1.0, 2.0]))


def _square(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, 2, generator=generator, dtype=torch.float64) * 2 - 1


def _square_log_density(x: Tensor) -> Tensor:
    return torch.where((x.abs() <= 1).all(-1), -math.log(4), -math.inf)


def _checkerboard(n: int, generator: torch.Generator | None) -> Tensor:
    column, row = _choice(n, 4, generator), _choice(n, 2, generator)
    corner = torch.stack((column, 2 * row + column % 2), -1) - 2.0
    return corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)


def _checkerboard_log_density(x: Tensor) -> Tensor:
    cell = x.floor()
    inside = (x.abs() <= 2).all(-1) & ((cell[:, 0] + cell[:, 1]) % 2 == 0)
    return torch.where(inside, -math.log(8), -math.inf)


BLADES, BLADE_STD, BLADE_TWIST = 5, torch.tensor([0.3, 0.1], dtype=torch.float64), 0.25


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]), -1)


def _blade_angle(x: Tensor, blade: Tensor) -> Tensor:
    # The twist depends on the radius alone, which a rotation keeps: volume is kept too, and the density stays exact.
    return 2 * math.pi * blade / BLADES + BLADE_TWIST * x.norm(dim=-1).exp()


def _pinwheel(n: int, generator: torch.Generator | None) -> Tensor:
    x = _normal(n, generator) * BLADE_STD + torch.tensor([1.0, 0.0])
    return _turn(x, _blade_angle(x, _choice(n, BLADES, generator)))


def _pinwheel_log_density(x: Tensor) -> Tensor:
    blades = torch.arange(BLADES, dtype=torch.float64)
    straight = _turn(x[:, None], -_blade_angle(x[:, None], blades))
    return _log_normal(straight - torch.tensor([1.0, 0.0]), BLADE_STD).logsumexp(-1) - math.log(BLADES)


def _circle_of(count: int, radius: float) -> Tensor:
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return radius * torch.stack((angle.cos(), angle.sin()), -1)


BLOB_CENTERS = torch.tensor([[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5]], dtype=torch.float64)
BLOB_STD = 0.4


def _normal_entropy(std: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e) + math.log(std)


def _toys() -> dict[str, Toy]:
    both = (1.0, 1.0)
    toys: list[Toy] = []

    def add(name, about, draw, log_density, *, mean=(0.0, 0.0), variance=both, raw_entropy=None, entropy=math.nan):
        std = (math.sqrt(variance[0]), math.sqrt(variance[1]))
        if raw_entropy is not None:
            entropy = raw_entropy - math.log(std[0] * std[1])
        toys.append(Toy(name, about, draw, log_density, mean, std, entropy))

    add(
        "moons",
        "two interleaving half circles, noise 0.05 (scikit-learn's make_moons)",
        *_noisy_curve(_moon, 2, NOISE),
        mean=(0.5, 0.25),
        variance=(0.75 + NOISE**2, 0.5625 - 1 / math.pi + NOISE**2),
        entropy=1.1312,
    )
    add(
        "circles",
        "two concentric circles of radius 1 and 0.5, noise 0.05 (scikit-learn's make_circles)",
        *_noisy_curve(_ring, 2, NOISE),
        variance=(0.3125 + NOISE**2,) * 2,
        entropy=1.7613,
    )
    add(
        "blobs",
        "three round normals of standard deviation 0.4",
        *_mixture(BLOB_CENTERS, BLOB_STD),
        mean=tuple(BLOB_CENTERS.mean(0).tolist()),
        variance=tuple((BLOB_CENTERS.var(0, correction=0) + BLOB_STD**2).tolist()),
        entropy=1.6310,
    )
    add(
        "uniform",
        "a uniform square: no structure, sharp edges",
        _square,
        _square_log_density,
        variance=(1 / 3, 1 / 3),
        raw_entropy=math.log(4),
    )
    add(
        "spirals",
        "two arms of one and a half turns, noise 0.1",
        *_noisy_curve(_spiral, 2, 0.1),
        variance=tuple(moment + 0.1**2 for moment in _spiral_second_moments()),
        entropy=1.6340,
    )
    add(
        "banana",
        "x2 normal of variance 4, x1 normal of variance 1 around x2²/4",
        _banana,
        _banana_log_density,
        mean=(1.0, 0.0),
        variance=(3.0, 4.0),
        raw_entropy=_normal_entropy(1) + _normal_entropy(2),
    )
    add(
        "checkerboard",
        "eight unit squares of a 4 x 4 board",
        _checkerboard,
        _checkerboard_log_density,
        variance=(4 / 3, 4 / 3),
        raw_entropy=math.log(8),
    )
    add(
        "pinwheel",
        "five twisted blades",
        _pinwheel,
        _pinwheel_log_density,
        variance=((1 + BLADE_STD.square().sum().item()) / 2,) * 2,
        entropy=1.5321,
    )
    add(
        "8gaussians",
        "eight normals of standard deviation 0.25 on a circle of radius 2",
        *_mixture(_circle_of(8, 2.0), 0.25),
        variance=(2 + 0.25**2,) * 2,
        entropy=1.4145,
    )
    return {toy.name: toy for toy in toys}


TOYS: dict[str, Toy] = _toys()
