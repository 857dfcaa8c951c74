"""Numbers in the data's own units: statistics in float64, columns far from zero, integers."""

import copy
import math

import pytest
import torch

import flowstone
from flowstone.bijections import Chain, Dequantize, Interval, Logit, Positive, Rescale, Standardize, Whiten
from flowstone.bijections.statistics import DataLayer
from flowstone.priors import StandardNormal

FAR = torch.tensor([[1.7e9 + 77, 3.0], [1.7e9 + 95, -2.0], [1.7e9 + 60, 1.0], [1.7e9 + 81, 0.5]], dtype=torch.float64)


def set_by_data(layer):
    layer.initialize(FAR)
    return layer


def standardized_context():
    flow = flowstone.nice(1, context_features=2, couplings=1, hidden=(4,))
    flow.initialize(torch.randn(4, 1), FAR)
    return flow


def refilled(module):
    """Without memory, with memory, and with its numbers again."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module = module.to("meta").to_empty(device="cpu")
    module.load_state_dict(state)
    return module


def reloaded(module, change):
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in statistics(other).values():
            value.zero_()
    other.load_state_dict({name: change(value) for name, value in module.state_dict().items()})
    return other


LAYERS = {
    "Standardize": lambda: set_by_data(Standardize(2)),
    "Whiten": lambda: set_by_data(Whiten(2)),
    "Interval": lambda: Interval([1.7e9, -9.1], [1.7e9 + 99.1, 9.7]),
    "in a flow": lambda: set_by_data(flowstone.spline(2, couplings=1, hidden=(4,))),
    "of a context": standardized_context,
}
MOVES = {
    "float": lambda module: module.float(),
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.to(torch.bfloat16),
    "to float32": lambda module: module.to(torch.float32),
    "double and back": lambda module: module.double().float(),
    "deepcopy": copy.deepcopy,
    "meta and back": refilled,
    "state": lambda module: reloaded(module, lambda value: value),
}


def statistics(module) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.{name}": layer._buffers[name]  # pyright: ignore
        for prefix, layer in module.named_modules()
        if isinstance(layer, DataLayer)
        for name in layer._statistics
    }


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", LAYERS)
def test_statistics_keep_every_digit(name, move):
    module = LAYERS[name]()
    before = {key: value.clone() for key, value in statistics(module).items()}
    assert any((value != value.float().double()).any() for value in before.values())  # float32 would lose some
    after = statistics(MOVES[move](module))
    assert after.keys() == before.keys()
    for key, value in after.items():
        assert value.dtype == torch.float64
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", LAYERS)
def test_statistics_of_float32_files_become_float64(name):
    module = LAYERS[name]()
    wanted = {key: value.float().double() for key, value in statistics(module).items()}
    after = statistics(reloaded(module, lambda value: value.float() if value.is_floating_point() else value))
    assert all(value.dtype == torch.float64 and torch.equal(value, wanted[key]) for key, value in after.items())


def test_precision_of_the_result_is_that_of_the_flow():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = set_by_data(Standardize(2)).to(dtype)
        assert {part.dtype for part in layer(FAR)} == {dtype}


def test_latents_near_a_border_come_back_from_an_interval_far_from_zero():
    layer, z = Interval(1e5, 1e5 + 1), torch.tensor([[-12.0], [12.0]])
    x, log_det = layer.inverse(z)
    assert x.dtype == torch.float64
    back, log_det_back = layer(x)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [Standardize, Whiten])
@pytest.mark.parametrize("rows", [FAR, FAR - FAR.mean(0)])
def test_precision_of_the_data_is_what_the_inverse_returns(layer, rows):
    made = layer(2)
    made.initialize(rows)
    assert made.inverse(torch.zeros(1, 2))[0].dtype == made.data_dtype


@pytest.mark.parametrize(("scale", "offset", "log_density"), [(10.0, 1.7e9 + 77, -5.14), (1e3, 1.7e12 + 123457, -9.75)])
@pytest.mark.parametrize("layer", [Standardize, Whiten])
def test_columns_far_from_zero_have_their_exact_density(layer, scale, offset, log_density):
    x = torch.randn(20_000, 2, dtype=torch.float64) * torch.tensor([scale, 1.0]) + torch.tensor([offset, 0.0]).double()
    flow = flowstone.Flow(layer(2), StandardNormal(2))
    flow.initialize(x)
    normal = torch.distributions.Normal(x.mean(0), x.std(0, correction=0))
    log_prob = flow.log_prob(x)
    assert log_prob.dtype == torch.float32
    if layer is Standardize:
        torch.testing.assert_close(log_prob.double(), normal.log_prob(x).sum(-1), atol=1e-4, rtol=1e-5)
    assert log_prob.mean().item() == pytest.approx(log_density, abs=0.02)
    samples = flow.sample(20_000, seed=0).double()
    off = (samples.mean(0) - x.mean(0)) / x.std(0)
    assert off.abs().max() < 0.05
    torch.testing.assert_close(samples.std(0) / x.std(0), torch.ones(2).double(), atol=0.03, rtol=0)
    z, _ = flow.to_latent(x)
    back = flow.from_latent(z)[0].double()
    assert ((back - x).abs() / x.std(0)).max() < 1e-5


@pytest.mark.parametrize("size", [1e44, 1e-60])
def test_columns_beyond_float32_are_standardised(size):
    x = size * torch.randn(500, 2, dtype=torch.float64)
    flow = flowstone.Flow(Standardize(2), StandardNormal(2))
    flow.initialize(x)
    expected = -2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(size))
    assert flow.log_prob(x).mean().item() == pytest.approx(expected, rel=1e-3)
    samples = flow.sample(2000, seed=0)
    assert samples.isfinite().all()
    assert (samples.std(0) / size).tolist() == pytest.approx([1, 1], abs=0.2)


INTEGERS = {
    "Standardize": (lambda: Standardize(2), torch.int64, 2**53 - 100, 2**53 - 1),
    "Whiten": (lambda: Whiten(2), torch.int64, 2**40, 2**40 + 200),
    "Interval": (lambda: Interval(2.0**40 - 1, 2.0**40 + 200), torch.int64, 2**40, 2**40 + 199),
    "Positive": (lambda: Positive(low=2.0**30), torch.int32, 2**30, 2**30 + 50),
    "Logit": (lambda: Logit(alpha=0.1), torch.int64, 0, 2),
    "Rescale": (lambda: Rescale(2.0**40, 2.0**40 + 256), torch.int64, 2**40, 2**40 + 256),
    "Standardize of pixels": (lambda: Standardize(2), torch.uint8, 0, 256),
    "Whiten of pixels": (lambda: Whiten(2), torch.uint8, 0, 256),
    "Interval of pixels": (lambda: Interval(0.0, 256.0), torch.uint8, 0, 256),
    "Positive of pixels": (Positive, torch.uint8, 1, 256),
    "Logit of pixels": (lambda: Logit(alpha=0.1), torch.uint8, 0, 2),
    "Dequantize of pixels": (Dequantize, torch.uint8, 0, 256),
    "Standardize of truths": (lambda: Standardize(2), torch.bool, 0, 2),
    "Whiten of truths": (lambda: Whiten(2), torch.bool, 0, 2),
    "Interval of truths": (lambda: Interval(-0.5, 1.5), torch.bool, 0, 2),
    "Positive of truths": (lambda: Positive(low=-1.0), torch.bool, 0, 2),
    "Logit of truths": (lambda: Logit(alpha=0.1), torch.bool, 0, 2),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_the_numbers_they_are(name):
    make, dtype, low, high = INTEGERS[name]
    x = torch.randint(low, high, (200, 2)).to(dtype)
    results = []
    for data in (x, x.double()):
        flow = flowstone.Flow(Chain(make()), StandardNormal(2))
        flow.initialize(data)
        torch.manual_seed(0)
        results.append((*flow.to_latent(data), flow.log_prob(data), *statistics(flow).values()))
    integers, exact = results
    assert len(integers) == len(exact)
    if "Dequantize" not in name:  # whose noise is another one the second time
        assert all(torch.equal(a, b) for a, b in zip(integers, exact, strict=True))
    assert torch.equal(integers[0], exact[0])
    assert integers[0].dtype == torch.float32
