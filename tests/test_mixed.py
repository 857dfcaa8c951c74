"""The laws of densities of mixed columns: they sum and integrate to 1, and every way to ask gives the same numbers."""

import itertools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import flowstone
from cases import disturb, same
from flowstone.errors import SettingError, ShapeError, UnknownNameError
from flowstone.mixed import Column, MixedDensity
from flowstone.nets import AnyOrderNet
from flowstone.recipes import mixed

NAN = math.nan
DISCRETE = [
    {"name": "level", "atoms": [0, 1, 2], "rest": None},
    {"name": "gap", "atoms": [0, 1], "rest": None, "gaps": True},
    {"name": "count", "atoms": [1, 2], "rest": "grid", "step": 1, "low": 0, "high": 4},
]
DOMAINS = {
    "real": {"rest": "real"},
    "real with atoms": {"rest": "real", "atoms": [0.0, 1.5]},
    "positive": {"rest": "positive"},
    "above 2": {"rest": "positive", "low": 2.0},
    "interval": {"rest": "interval", "low": -1.0, "high": 3.0},
    "circle": {"rest": "circle", "low": -180.0, "high": 180.0},
}
ALL = [
    {"name": "level", "atoms": [0, 1, 2], "rest": None},
    {"name": "real", "atoms": [0.0], "rest": "real", "gaps": True},
    {"name": "positive", "rest": "positive"},
    {"name": "interval", "rest": "interval", "low": 0.0, "high": 1.0},
    {"name": "angle", "rest": "circle", "low": 0.0, "high": 360.0},
    {"name": "count", "atoms": [1, 2], "rest": "grid", "step": 1.0, "low": 0.0},
    {"name": "flag", "atoms": [0, 1], "rest": None, "gaps": True},
]
both_orders = pytest.mark.parametrize("order", ["any", "given"])


def rows(n: int, *, gaps: bool = True, seed: int = 0) -> Tensor:
    """Rows of the columns ``ALL``, dependent on each other."""
    random = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, generator=random, dtype=torch.float64) for _ in range(2))
    level, flag = (a > 0).double() + (a > 1).double(), (b + a > 0).double()
    real = torch.where(b > 0.5, 0.0, 3 * a + b)
    count = torch.poisson((1 + 0.7 * a).exp().float(), generator=random).double()
    x = torch.stack((level, real, (a + b / 2).exp(), b.sigmoid(), (60 * (a + level)) % 360, count, flag), 1)
    missing = torch.rand(x.shape, generator=random) < 0.2
    missing &= torch.tensor([column.get("gaps", False) for column in ALL])
    return x.masked_fill(missing, NAN) if gaps else x


def density(columns: list, x: Tensor | None = None, *, order: str = "any", seed: int = 0, **settings) -> MixedDensity:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"width": 16, "blocks": 1, "bins": 4}
    made = mixed(len(columns), columns=columns, order=order, **sizes | settings)
    if x is not None:
        made.initialize(x)
    disturb(made, 1.0)
    return made.eval()


def small(x: Tensor | None = None, *, order: str = "any", seed: int = 0) -> MixedDensity:
    return density(ALL, rows(300) if x is None else x, order=order, seed=seed)


# Sums and integrals


def all_rows(columns: list, *, gaps: bool) -> Tensor:
    values = []
    for column in columns:
        own = list(column["atoms"]) if column["rest"] is None else [0, 1, 2, 3, 4]
        values.append(own + [NAN] * (gaps and column.get("gaps", False)))
    return torch.tensor(list(itertools.product(*values)), dtype=torch.float64)


@both_orders
@given(seed=st.integers(0, 10_000))
def test_probabilities_of_a_discrete_table_sum_to_one(float64, order, seed):
    made = density(DISCRETE, order=order, seed=seed)
    x = all_rows(DISCRETE, gaps=True)
    same(made.log_prob(x, gaps="event").exp().sum(), torch.tensor(1.0, dtype=torch.float64), 1e-9)
    same(made.log_prob(all_rows(DISCRETE, gaps=False)).exp().sum(), torch.tensor(1.0, dtype=torch.float64), 1e-9)


@both_orders
@given(seed=st.integers(0, 10_000), absent=st.integers(0, 2))
def test_the_marginal_of_what_is_there_sums_to_one(float64, order, seed, absent):
    made = density(DISCRETE, order=order, seed=seed)
    x = all_rows(DISCRETE, gaps=False)
    x[:, absent] = NAN
    x = torch.unique(x.nan_to_num(-1.0), dim=0)
    x[:, absent] = NAN
    same(made.log_prob(x).exp().sum(), torch.tensor(1.0, dtype=torch.float64), 1e-9)


def test_a_mixture_of_orders_is_a_density_too(float64):
    made, x = density(DISCRETE, seed=7), all_rows(DISCRETE, gaps=False)
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    found = made.log_prob(x, order=orders)
    same(found.exp().sum(), torch.tensor(1.0, dtype=torch.float64), 1e-9)
    each = torch.stack([made.log_prob(x, order=order) for order in orders])
    assert not torch.allclose(each[0], each[1])
    same(found.exp(), each.exp().mean(0), 1e-12)


def places(column: Column, x: Tensor) -> Tensor:
    """Points between which a density is smooth enough, out to where nothing is left."""
    low, high = column.border
    far = 1e5 * torch.logspace(-9, 0, 20_001, dtype=torch.float64)
    middle = x.median()
    near = torch.linspace(x.min().item() - 1, x.max().item() + 1, 40_001, dtype=torch.float64)
    points = torch.cat(
        (
            torch.tensor(column.atoms),
            middle - far,
            middle + far,
            near,
            torch.linspace(-200, 400, 6_001, dtype=torch.float64),
        )
    )
    if low is not None:
        points = torch.cat((points, low + far / 1e4))
        points = torch.cat((points[points > low], points.new_tensor([low])))
    if high is not None:
        points = torch.cat((points, high - far / 1e4))
        points = torch.cat((points[points < high], points.new_tensor([high])))
    return points.unique()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("data", [False, True])
def test_a_density_integrates_to_one(float64, domain, data):
    columns = [{"name": "flag", "atoms": [0, 1], "rest": None}, {"name": "x", **DOMAINS[domain]}]
    column = Column.of(columns[1])
    low, high = column.border
    values = torch.randn(400, dtype=torch.float64).exp() + (low or 0.0)
    values = values if high is None else values.clamp(low, high)
    x = torch.stack((torch.randint(2, (400,)).double(), values), 1)
    made = density(columns, x if data else None, seed=3)
    grid = places(column, values)
    atoms = torch.tensor(column.atoms, dtype=torch.float64)
    grid = grid[~torch.isin(grid, atoms)]
    given_flag = torch.stack((torch.ones_like(grid), grid), 1)
    found = made.column_log_prob(given_flag)[:, 1].exp()
    mass = torch.trapezoid(found, grid)
    if len(atoms):
        mass = mass + made.column_log_prob(torch.stack((torch.ones_like(atoms), atoms), 1))[:, 1].exp().sum()
    assert mass.item() == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("step", [1.0, 0.05, 1e-7])
@pytest.mark.parametrize("low", [None, 0.0])
def test_probabilities_on_a_grid_are_exact_however_fine_it_is(float64, step, low):
    values = (torch.randn(500, dtype=torch.float64).abs() / step * 2).round() * step
    made = density([{"name": "x", "rest": "grid", "step": step, "low": low}], values[:, None], seed=1)
    if step >= 0.05:
        every = torch.arange(-40_000 if low is None else 0, 40_000, dtype=torch.float64)[:, None] * step
        assert made.log_prob(every).exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    continuous = density([{"name": "x", "rest": "positive" if low == 0 else "real"}], values[:, None], seed=1)
    if step < 1e-3:  # so fine a grid is a density times its step
        continuous.load_state_dict(made.state_dict())
        wanted = continuous.log_prob(values[:, None]) + math.log(step)
        same(made.log_prob(values[:, None]), wanted, 1e-4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_values_at_borders_have_a_density_and_values_beyond_have_none(float64, domain):
    column = Column.of({"name": "x", **DOMAINS[domain]})
    low, high = column.border
    values = torch.rand(300, dtype=torch.float64) * 1.5 + (low or 0.0)
    made = density([{"name": "x", **DOMAINS[domain]}], values[:, None])
    for border, side in ((low, -1.0), (high, 1.0)):
        at = torch.tensor([[1e12 * side if border is None else border]], dtype=torch.float64)
        assert made.log_prob(at).isfinite().all()
        beyond = bool(made.log_prob(at + 1e-3 * side).isfinite())
        assert beyond is (border is None or domain == "circle")  # a circle begins again
    impossible = {"interval": -1.5, "positive": -0.5, "above 2": 1.0}
    if domain in impossible:
        assert made.log_prob(torch.tensor([[impossible[domain]]])).item() == -math.inf


def test_what_a_column_cannot_be_has_no_probability():
    made = density(DISCRETE)
    x = torch.tensor([[3.0, 0, 1], [0, 0.5, 1], [0, 0, 1.5], [0, 0, 5], [0, 0, 3]])
    assert made.log_prob(x).isfinite().tolist() == [False, False, False, False, True]
    without = torch.tensor([[NAN, 0.0, 1.0]])
    assert made.log_prob(without).isfinite().all()
    assert made.log_prob(without, gaps="event").item() == -math.inf  # this column has no gaps


def test_a_circle_has_no_seam(float64):
    x = 40 * torch.randn(500, dtype=torch.float64) + 180
    made = density([{"name": "x", "rest": "circle", "low": -180.0, "high": 180.0}], x[:, None], seed=2)
    ends = torch.tensor([[-180 + 1e-9], [180 - 1e-9], [180 + 1e-9], [540 - 1e-9]], dtype=torch.float64)
    found = made.log_prob(ends)
    same(found, found[:1].expand(4), 1e-6)


# Given, absent, unknown


@given(mask=st.lists(st.booleans(), min_size=7, max_size=7), seed=st.integers(0, 100))
def test_marginal_times_conditional_is_the_joint_in_the_order_used(float64, mask, seed):
    x, known = rows(20, gaps=False), torch.tensor(mask)
    made = small(seed=seed)
    marginal = made.log_prob(x.masked_fill(~known, NAN))
    joint = made.conditional_log_prob(x, known) + marginal
    order = [*known.nonzero()[:, 0].tolist(), *(~known).nonzero()[:, 0].tolist()]
    same(joint, made.log_prob(x, order=order), 1e-9)


@both_orders
def test_the_first_columns_given_are_in_every_density(float64, order):
    x, made = rows(20, gaps=False), small(order=order)
    known = torch.tensor([True, True, True, False, False, False, False])
    joint = made.conditional_log_prob(x, known) + made.log_prob(x.masked_fill(~known, NAN))
    same(joint, made.log_prob(x), 1e-9)
    same(made.column_log_prob(x).sum(1), made.log_prob(x), 1e-9)


def test_masks_of_rows_are_rows_of_masks(float64):
    x, made = rows(20), small()
    known = torch.rand(x.shape) < 0.5
    found = made.conditional_log_prob(x, known)
    one_by_one = torch.cat([made.conditional_log_prob(x[i : i + 1], known[i]) for i in range(20)])
    same(found, one_by_one, 1e-9)


@both_orders
def test_no_column_follows_from_itself_or_from_later_ones(float64, order):
    x, made = rows(10, gaps=False), small(order=order)
    before = made.column_log_prob(x)
    for index in range(7):
        other = x.clone()
        other[:, index] = rows(10, gaps=False, seed=1)[:, index]
        other[:, index] = torch.where(other[:, index] == x[:, index], 1.0 - x[:, index].clamp(0, 1), other[:, index])
        after = made.column_log_prob(other)
        assert torch.equal(after[:, :index], before[:, :index])
        if index < 6:
            assert not torch.equal(after[:, index + 1 :], before[:, index + 1 :])


@both_orders
def test_an_absent_column_says_nothing_and_a_gap_does(float64, order):
    x, made = rows(50, gaps=False), small(order=order)
    x[:, 1] = NAN
    terms = made.column_log_prob(x)
    assert (terms[:, 1] == 0).all()
    event = made.column_log_prob(x, gaps="event")
    assert (event[:, 1] < 0).all()
    assert not torch.allclose(event[:, 2], terms[:, 2])  # a gap is told to the columns after it


def test_a_fixed_order_refuses_what_it_cannot_know():
    x, made = rows(5, gaps=False), small(order="given")
    late = torch.tensor([False] + [True] * 6)
    with pytest.raises(SettingError, match=r"column 'real' is given, but comes after 'level'.*order='any'"):
        made.conditional_log_prob(x, late)
    with pytest.raises(SettingError, match="order='any'"):
        made.fill(x, ~late)
    with pytest.raises(SettingError, match="order='any'"):
        made.predict(x, "level")
    x[:, 1:] = NAN  # gaps that are known as such say something, too
    with pytest.raises(SettingError, match="column 'real' is given"):
        made.fill(x, ~late, gaps=True)
    with pytest.raises(SettingError, match="column 'real' is given"):
        made.predict(x, "level", gaps="event")
    with pytest.raises(SettingError, match="fixed order"):
        made.log_prob(x, order=[1, 0, 2, 3, 4, 5, 6])


def test_masks_and_names_are_checked():
    x, made = rows(5), small()
    with pytest.raises(ShapeError, match="known"):
        made.conditional_log_prob(x, torch.ones(3, dtype=torch.bool))
    with pytest.raises(SettingError, match="mask"):
        made.fill(x, torch.ones(7))
    with pytest.raises(UnknownNameError, match="did you mean 'level'"):
        made.predict(x, "levle")
    with pytest.raises(SettingError, match="column=7"):
        made.predict(x, 7)
    with pytest.raises(UnknownNameError, match="'event'"):
        made.log_prob(x, gaps="evnt")
    with pytest.raises(SettingError, match="order"):
        made.log_prob(x, order=[0, 0, 1])


# Samples


def kolmogorov(a: Tensor, b: Tensor) -> float:
    """The Kolmogorov-Smirnov distance of two samples, in units of what chance gives: above 2.5 in 1 of 100,000."""
    both = torch.cat((a, b)).unique()
    first, second = (torch.searchsorted(v.sort().values, both, right=True) / len(v) for v in (a, b))
    return ((first - second).abs().max() * math.sqrt(len(a) * len(b) / (len(a) + len(b)))).item()


def between_points(points: Tensor, density: Tensor, is_atom: Tensor) -> Tensor:
    """The mass from each point, without it, to the next one, with it: that of atoms, and of trapezoids."""
    smooth = density.where(~is_atom, density.roll(1))
    areas = (smooth[1:] + smooth[:-1]) / 2 * points.diff()
    return torch.cat((areas.new_zeros(1), areas)) + density.where(is_atom, 0.0)


@pytest.mark.parametrize("domain", [*DOMAINS, "grid"])
def test_samples_have_the_distribution_of_the_density(float64, domain):
    head = DOMAINS.get(domain, {"rest": "grid", "step": 1.0, "low": 0.0, "atoms": [2.0]})
    column = Column.of({"name": "x", **head})
    low, high = column.border
    values = 2 * torch.randn(400, dtype=torch.float64).exp() + (low or 0.0)
    values = values if high is None else values.clamp(low, high)
    values = values.round() if domain == "grid" else values
    made = density([{"name": "x", **head}], values[:, None], seed=5)
    drawn = made.sample(4000, seed=0)[:, 0]
    assert made.log_prob(drawn[:, None]).isfinite().all()
    points = torch.arange(0.0, 30_000) if domain == "grid" else places(column, values)
    mass = made.log_prob(points[:, None]).exp().detach()
    if domain != "grid":
        mass = between_points(points, mass, torch.isin(points, torch.tensor(column.atoms)))
    share = mass.cumsum(0)
    assert share[-1].item() == pytest.approx(1.0, abs=1e-3)
    empirical = torch.searchsorted(drawn.sort().values, points, right=True) / len(drawn)
    assert (empirical - share).abs().max().item() * math.sqrt(len(drawn)) < 2.0  # beyond, 1 in 1500 by chance


@both_orders
def test_samples_of_a_discrete_table_come_as_often_as_they_are_probable(float64, order):
    made = density(DISCRETE, order=order, seed=4)
    n, table = 40_000, all_rows(DISCRETE, gaps=True)
    drawn = made.sample(n, seed=0, gaps=True)
    probability = made.log_prob(table, gaps="event").exp()
    counts = (drawn.nan_to_num(-1)[:, None] == table.nan_to_num(-1)).all(2).sum(0)
    assert counts.sum() == n
    expected = n * probability
    assert ((counts - expected).square() / expected).sum().item() < len(table) + 5 * math.sqrt(2 * len(table))
    assert not made.sample(500, seed=1).isnan().any()


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ({"low": 0.0, "high": 5.3}, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ({"low": 0.2, "high": 3.0, "anchor": 0.5}, [0.5, 1.5, 2.5]),
        ({"low": 0.2, "high": 3.0, "anchor": 0.0}, [1.0, 2.0, 3.0]),
    ],
)
def test_a_grid_ends_at_its_last_values_within_its_bounds(float64, head, wanted):
    values = torch.tensor(wanted, dtype=torch.float64)[:, None]
    made = density([{"name": "n", "rest": "grid", "step": 1.0, **head}], values.repeat(30, 1), seed=3)
    probability = made.log_prob(values).exp()
    assert probability.sum().item() == pytest.approx(1)
    drawn = set(made.sample(5000, seed=0)[:, 0].tolist())
    assert set(values[5000 * probability > 20].flatten().tolist()) <= drawn <= set(wanted)
    beyond = torch.tensor([[wanted[0] - 1], [wanted[-1] + 1]], dtype=torch.float64)
    assert (made.log_prob(beyond) == -math.inf).all()


def test_an_atom_beside_the_grid_has_nothing_of_a_step(float64):
    column = {"name": "n", "atoms": [0.5, 2.0], "rest": "grid", "low": 0.0, "high": 4.0, "step": 1.0}
    every = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    made = density([column], every.repeat(40)[:, None], seed=2)
    probability = made.log_prob(every[:, None]).exp()
    assert probability.sum().item() == pytest.approx(1)
    told = made.predict(torch.full((6, 1), NAN), "n")
    same(told.mass(every), probability, 1e-9)
    same(told.cdf(every), probability.cumsum(0), 1e-9)


def test_rounding_makes_no_other_value_of_an_atom_and_no_value_impossible(float64):
    """3 * 0.1 is no 0.3 in floating point, and steps of 0.01 near 10^9 are wrong by a thousandth."""
    tenths = {"name": "n", "atoms": [0.3], "rest": "grid", "low": 0.0, "step": 0.1}
    made = density([tenths], (torch.arange(12.0, dtype=torch.float64).repeat(30) / 10)[:, None], seed=1)
    either = torch.tensor([[0.3], [3 * 0.1]], dtype=torch.float64)
    found = made.log_prob(either)
    assert found[0] == found[1]
    told = made.predict(torch.full((2, 1), NAN), "n")
    same(told.mass(either[:, 0]), found.exp(), 1e-9)
    assert told.cdf(either[:, 0]).unique().numel() == 1
    anchor, counts = 1e9 + 0.07, torch.arange(200.0, dtype=torch.float64)
    far = {"name": "n", "rest": "grid", "step": 0.01, "anchor": anchor, "low": anchor, "high": anchor + 1.99}
    made = density([far], (anchor + counts[:, None] / 100), seed=1)
    assert made.log_prob(anchor + counts[:, None] / 100).exp().sum().item() == pytest.approx(1)
    assert made.log_prob(made.sample(1000, seed=0)).isfinite().all()


def test_an_angle_is_the_same_a_turn_farther(float64):
    column = {"name": "angle", "atoms": [180.0, 0.1], "rest": "circle", "low": -180.0, "high": 180.0}
    x = 360 * torch.rand(300, 1, dtype=torch.float64) - 180
    x[:80], x[80:160] = 180.0, 0.1
    made = density([column], x, seed=0)
    asked = torch.tensor([180.0, -180.0, 77.0, 437.0, 0.1, 0.1], dtype=torch.float64)
    found, told = made.log_prob(asked[:, None]), made.predict(torch.full((6, 1), NAN), "angle")
    for one in (found, told.cdf(asked), told.mass(asked)):
        same(one[::2], one[1::2], 1e-9)
    same(told.probabilities[0, :2], found.exp()[[0, 4]], 1e-9)
    drawn = made.sample(20_000, seed=0)[:, 0]
    for atom, share in zip((-180.0, 0.1), told.probabilities[0].tolist(), strict=False):
        assert (drawn == atom).double().mean().item() == pytest.approx(share, abs=0.02)


def test_an_angle_just_below_the_low_end_is_the_low_end(float64):
    column = {"name": "a", "atoms": [-1e-20, 90.0], "rest": "circle", "low": 0.0, "high": 360.0}
    made = density([column], torch.tensor([[0.0], [90.0], [10.0], [200.0]]).repeat(20, 1))
    assert made.columns[0].atoms == (0.0, 90.0)
    same(made.log_prob(torch.tensor([[-1e-20], [360.0]])), made.log_prob(torch.zeros(2, 1)), 1e-12)


def test_a_grid_whose_rest_is_hardly_seen_is_drawn_as_it_is_scored(float64):
    """Of such a rest nothing is learned: it is as in the marginal, whatever the net says."""
    column = {"name": "n", "atoms": [3.0], "rest": "grid", "low": 0.0, "high": 40.0, "step": 1.0}
    x = torch.cat((torch.full((200, 1), 3.0), torch.arange(10.0, 20.0)[:, None])).double()
    made = density([column], x)
    assert not made.heads.learned.any()
    grid = torch.arange(41.0)[:, None].double()
    with torch.no_grad():
        for parameter in made.net.parameters():
            parameter.add_(torch.randn_like(parameter))
        probability = made.log_prob(grid).exp()
    assert probability.sum().item() == pytest.approx(1)
    drawn = made.sample(20_000, seed=0)[:, 0].long().bincount(minlength=41) / 20_000
    assert (drawn - probability).abs().sum().item() < 0.05


def test_what_is_filled_follows_from_what_is_given(float64):
    made = density(DISCRETE, seed=6)
    known = torch.tensor([False, True, False])
    x = torch.tensor([[NAN, 1.0, NAN]], dtype=torch.float64)
    drawn = made.fill(x.expand(40_000, 3), ~known, seed=0)
    assert (drawn[:, 1] == 1).all()
    table = all_rows(DISCRETE, gaps=False)
    table = table[table[:, 1] == 1]
    expected = 40_000 * made.conditional_log_prob(table, known).exp()
    assert expected.sum().item() == pytest.approx(40_000)
    counts = (drawn[:, None] == table).all(2).sum(0)
    assert ((counts - expected).square() / expected).sum().item() < len(table) + 5 * math.sqrt(2 * len(table))


def test_a_gap_that_is_given_is_known_where_gaps_are_events(float64):
    made = density(DISCRETE, seed=6)
    known = torch.tensor([False, True, False])
    gap = torch.tensor([[NAN, NAN, NAN]], dtype=torch.float64)
    drawn = made.fill(gap.expand(40_000, 3), ~known, seed=0, gaps=True)
    assert drawn[:, 1].isnan().all()
    table = all_rows(DISCRETE, gaps=True)
    table = table[table[:, 1].isnan()]
    probability = made.conditional_log_prob(table, known, gaps="event").exp()
    assert probability.sum().item() == pytest.approx(1)
    counts = (drawn.nan_to_num(-1)[:, None] == table.nan_to_num(-1)).all(2).sum(0)
    expected = 40_000 * probability
    assert ((counts - expected).square() / expected).sum().item() < len(table) + 5 * math.sqrt(2 * len(table))
    levels = torch.stack([probability[table[:, 0] == level].sum() for level in (0, 1, 2)])
    same(made.predict(gap, "level", gaps="event").probabilities[0], levels, 1e-9)
    asked = torch.tensor([[0.0, NAN, NAN], [1.0, NAN, NAN], [2.0, NAN, NAN]], dtype=torch.float64)
    found = made.conditional_log_prob(asked, torch.tensor([False, True, True]), gaps="event")  # the last has no gaps
    same(found.exp(), levels, 1e-9)
    assert (made.predict(gap, "level").probabilities[0] - levels).abs().max() > 1e-3


@given(mask=st.lists(st.booleans(), min_size=7, max_size=7), seed=st.integers(0, 100))
def test_marginal_times_conditional_is_the_joint_with_gaps_as_events(float64, mask, seed):
    x, known, made = rows(20), torch.tensor(mask), small(seed=seed)
    order = [*known.nonzero()[:, 0].tolist(), *(~known).nonzero()[:, 0].tolist()]
    conditional = made.conditional_log_prob(x, known, gaps="event")
    marginal = made.column_log_prob(x, gaps="event", order=order)[:, known].sum(1)
    same(conditional + marginal, made.log_prob(x, gaps="event", order=order), 1e-9)


def test_what_is_not_asked_for_is_left_as_it_is(float64):
    x, made = rows(40), small()
    unknown = torch.rand(x.shape) < 0.4
    filled = made.fill(x, unknown, seed=0)
    assert torch.equal(filled[~unknown].nan_to_num(-9), x[~unknown].nan_to_num(-9))
    assert not filled[unknown].isnan().any()
    assert torch.equal(filled.nan_to_num(-9), made.fill(x, unknown, seed=0).nan_to_num(-9))
    assert made.fill(x, torch.ones(7, dtype=torch.bool), seed=0, gaps=True)[:, [1, 6]].isnan().any()


def test_lower_temperatures_stay_nearer_to_the_most_likely(float64):
    made = small()
    cold, warm = made.sample(2000, seed=0, temperature=0.2), made.sample(2000, seed=0)
    assert cold[:, 2].log().std() < warm[:, 2].log().std()


# Latents

LINES = [
    {"name": "a", "rest": "real"},
    {"name": "b", "rest": "positive"},
    {"name": "c", "rest": "interval", "low": 0.0, "high": 1.0, "gaps": True},
]


def of_lines(order: str) -> tuple[MixedDensity, Tensor]:
    random = torch.Generator().manual_seed(2)
    a, b = (torch.randn(60, generator=random, dtype=torch.float64) for _ in range(2))
    x = torch.stack((a, (a + b).exp(), (b - a).sigmoid()), 1)
    return density(LINES, x, order=order, seed=3), x


@both_orders
def test_latents_are_logistic_and_their_slopes_make_the_density(float64, order):
    made, x = of_lines(order)
    z, step = made.to_latent(x), 1e-6
    total = (torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)).sum(1)
    for column in range(3):
        side = step * torch.nn.functional.one_hot(torch.tensor(column), 3)
        slope = (made.to_latent(x + side) - made.to_latent(x - side))[:, column] / (2 * step)
        total += slope.log()
    same(total, made.log_prob(x), 1e-4)


@both_orders
def test_latents_come_back(float64, order):
    made, x = of_lines(order)
    same(made.from_latent(made.to_latent(x)), x, 1e-8)
    gap = x.clone()
    gap[0, 2] = NAN
    assert made.to_latent(gap).isnan().nonzero().tolist() == [[0, 2]]
    gap[1, 0] = NAN
    same(made.from_latent(made.to_latent(gap)).nan_to_num(), gap.nan_to_num(), 1e-8)
    with pytest.raises(SettingError, match="column 'level' has no latents"):
        small(order=order).to_latent(rows(3))


# Predictions


def test_a_prediction_is_the_conditional_density(float64):
    x, made = rows(30, gaps=False), small()
    told = made.predict(x, "flag")
    others = torch.arange(7) != 6
    for value in (0.0, 1.0):
        wanted = made.conditional_log_prob(torch.cat((x[:, :6], torch.full((30, 1), value)), 1), others).exp()
        same(told.probabilities[:, int(value)], wanted, 1e-9)
    same(told.probabilities.sum(1), torch.ones(30), 1e-12)
    assert torch.equal(told.mode(), told.probabilities.argmax(1).double())
    assert ((told.missing > 0) & (told.missing < 1)).all()


def test_quantiles_and_means_agree_with_draws(float64):
    made = small()
    x = rows(1).expand(20_000, 7)
    for name in ("real", "positive", "count"):
        told, index = made.predict(x[:1], name), [c["name"] for c in ALL].index(name)
        asked = torch.arange(7) == index
        drawn = made.fill(x, asked, seed=0)[:, index]
        for share in (0.2, 0.5, 0.8):
            below = (drawn < told.quantile(share)).double().mean().item()
            upto = (drawn <= told.quantile(share)).double().mean().item()
            assert below - 0.03 < share < upto + 0.03
        assert told.mode().isfinite().all()
        spread = (drawn.quantile(0.8) - drawn.quantile(0.2)).item()
        if name == "count":
            assert told.mean().item() == pytest.approx(drawn.mean().item(), abs=0.15 * spread + 0.1)


# What others need of it


@both_orders
def test_gradients_are_finite(float64, order):
    x, made = rows(60), small(order=order).train()
    x[:, 2] = torch.where(torch.arange(60) % 2 == 0, 1e9, 1e-12)  # far out
    x[:, 5] = torch.where(torch.arange(60) % 3 == 0, 5000.0, x[:, 5])
    for _ in range(4):
        made.zero_grad()
        (-made(x).mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_a_context_is_told_to_every_column(float64):
    columns = DISCRETE
    for order in ("any", "given"):
        torch.manual_seed(0)
        made = mixed(3, columns=columns, order=order, context_features=2, width=16, blocks=1)
        x, context = made_rows = all_rows(columns, gaps=False), torch.randn(30, 2)
        assert len(made_rows[0]) == 30
        made.initialize(x, context)
        disturb(made, 1.0)
        made.eval()
        terms, other = made.column_log_prob(x, context), made.column_log_prob(x, context + 1)
        assert (terms != other).any(0).all()
        assert made.sample(4, context, seed=0).shape == (4, 30, 3)
        made.fill(x, torch.tensor([False, False, True]), context)
        made.conditional_log_prob(x, torch.tensor([True, False, False]), context)


@both_orders
def test_a_density_is_saved_and_loaded(tmp_path, order):
    x, made = rows(60), small(order=order)
    flowstone.save(made, tmp_path)
    json.loads((tmp_path / "flow.json").read_text())
    again = flowstone.load(tmp_path)
    assert isinstance(again, MixedDensity)
    assert again.columns == made.columns
    assert torch.equal(again.log_prob(x), made.log_prob(x))
    assert torch.equal(again.sample(20, seed=0), made.sample(20, seed=0))


def test_the_scale_of_the_data_keeps_its_digits_in_float32():
    x = 1.7e9 + torch.rand(400, 1, dtype=torch.float64)
    made = density([{"name": "time", "rest": "real"}], x)
    assert made.dtype == torch.float32
    exact = made.double().log_prob(x)
    same(made.float().log_prob(x).double(), exact, 1e-4)
    drawn = made.sample(100, seed=0)
    assert drawn.dtype == torch.float64
    assert len(drawn.unique()) > 90


def test_initialize_gives_the_marginals_of_the_data():
    x = rows(2000, gaps=False)
    made = mixed(7, columns=ALL, width=16, blocks=1)
    made.initialize(x)
    assert isinstance(made.net, AnyOrderNet)
    for output in made.net.outputs:
        torch.nn.init.zeros_(output.get_parameter("weight"))  # of new nets it is small
    drawn = made.eval().sample(4000, seed=0)
    for index in range(7):
        assert kolmogorov(drawn[:, index], x[:, index]) < 2.5, ALL[index]["name"]
    before = made.log_prob(x)
    made.initialize(x * 2)  # only the first time counts
    assert torch.equal(made.log_prob(x), before)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"name": "x", "rest": None}, "neither atoms nor a rest"),
        ({"name": "x", "rest": "grid"}, "positive step"),
        ({"name": "x", "rest": "intervall"}, "did you mean 'interval'"),
        ({"name": "x", "rest": "interval", "low": 2.0}, "needs low and high"),
        ({"name": "x", "rest": "interval", "low": 2.0, "high": 1.0}, "must be below"),
        ({"name": "x", "atom": [1]}, "did you mean 'atoms'"),
        ({"name": "x", "atoms": [1, 1]}, "different"),
        ({"name": "x", "rest": "grid", "step": 1.0, "low": 0.2, "high": 0.8, "anchor": 0.0}, "no value of its grid"),
    ],
)
def test_a_column_that_cannot_be_is_named(head, said):
    with pytest.raises((SettingError, UnknownNameError), match=said) as caught:
        mixed(1, columns=[head])
    assert "'x'" in str(caught.value)


def test_columns_are_counted_and_have_different_names():
    with pytest.raises(SettingError, match="features=2, but 1 columns"):
        mixed(2, columns=[{"name": "x"}])
    with pytest.raises(SettingError, match="two columns are called 'x'"):
        mixed(2, columns=[{"name": "x"}, {"name": "x"}])
    assert [column.name for column in mixed(2, width=8).columns] == ["x1", "x2"]
