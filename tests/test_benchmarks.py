"""The parts of ``benchmarks/`` that decide what is measured."""

import copy
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from flowstone.bijections import Affine

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_spread_and_ratios_of_neighbours(benchmark_module):
    measure = benchmark_module("measure")
    assert f"{measure.Spread.of([3.0, 1.0, 2.0]):.1f}" == "2.0 (1.0 – 3.0)"
    assert measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == measure.Spread(3.0, 2.0, 4.0)


def test_functions_take_turns(benchmark_module):
    called = []
    times = benchmark_module("measure").interleaved(3, a=lambda: called.append("a"), b=lambda: called.append("b"))
    assert called == ["a", "b"] + ["a", "b"] * 3  # the first of each warms it up
    assert {name: len(spent) for name, spent in times.items()} == {"a": 3, "b": 3}


def test_a_worker_answers_with_the_time_of_each_call(benchmark_module, tmp_path):
    measure = benchmark_module("measure")
    script = tmp_path / "script.py"
    script.write_text("import sys, measure\nmeasure.answer(sys.argv[1], lambda: None)\n")
    worker = measure.Worker(str(script), "hello", environment=os.environ | {"PYTHONPATH": str(BENCHMARKS)})
    assert worker.greeting == "hello"
    assert len(worker(4)) == 4
    assert set(measure.interleaved_blocks(2, {"it": worker}, seconds=0.0, pause=0.0)) == {"it"}
    worker.close()
    script.write_text("import sys\nsys.exit(0)\n")
    failed = measure.Worker(str(script), environment=os.environ)
    assert failed.greeting is None
    failed.close()


def test_what_was_measured_is_not_measured_again(benchmark_module, tmp_path, capsys):
    measure, path, called = benchmark_module("measure"), tmp_path / "kept.jsonl", []

    def run(least: float) -> Callable[[], Any]:
        return lambda: (called.append(least), measure.Spread(2.0, least, 3.0))[1]

    first = measure.measured(path, measure.Spread, {1.0: run(1.0)}, lambda each: each.least)
    both = measure.measured(path, measure.Spread, {0.5: run(0.5), 1.0: run(1.0)}, lambda each: each.least)
    assert called == [1.0, 0.5]
    assert both == [measure.Spread(2.0, 0.5, 3.0), *first]
    assert path.read_text() == capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_growth_of_the_peak_is_what_a_call_needs():
    """In a process of its own: memory that earlier tests returned and the allocator kept would be used first."""
    script = "import measure, torch; print(measure.peak_growth(lambda: torch.ones(16 << 20)))"  # 64 MiB
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert 60 < float(done.stdout) < 80


def test_a_section_is_replaced_and_the_rest_stays(benchmark_module, tmp_path):
    page, write_section = tmp_path / "page.md", benchmark_module("measure").write_section
    page.write_text("before\n<!-- one -->\nold\n<!-- end of one -->\nafter\n")
    write_section("one", "new", page)
    assert page.read_text() == "before\n<!-- one -->\n\nnew\n\n<!-- end of one -->\nafter\n"
    with pytest.raises(SystemExit, match="no section 'two'"):
        write_section("two", "new", page)


@pytest.mark.parametrize("kind", ["affine", "spline", "autoregressive"])
def test_nets_have_the_sizes_that_the_page_counts(benchmark_module, kind):
    libraries = benchmark_module("libraries")
    task = libraries.Task(kind, 5, 3, 16)
    flow = libraries.flowstone_flow(task)
    weights = [p.numel() for p in flow.parameters() if p.ndim == 2]
    assert weights == [a * b for sizes in libraries.net_sizes(task) for a, b in pairwise(sizes)]
    assert flow.log_prob(torch.randn(7, 5)).isfinite().all()


def test_the_step_against_another_checkout_is_adam_with_clipping(benchmark_module, monkeypatch):
    against, libraries = benchmark_module("against"), benchmark_module("libraries")
    monkeypatch.setattr(against, "RATE", 0.1)
    torch.manual_seed(0)
    flow: Any = libraries.flowstone_flow(libraries.Task("affine", 3, 2, 8))
    plain, x = copy.deepcopy(flow), 100 * torch.randn(20, 3)
    adam = torch.optim.Adam(plain.parameters(), lr=against.RATE)
    step = against.Training(flow, x)
    for _ in range(3):
        step()
        adam.zero_grad()
        (-plain.log_prob(x).mean()).backward()
        assert torch.nn.utils.clip_grad_norm_(plain.parameters(), against.CLIP) > against.CLIP
        adam.step()
    for one, other in zip(flow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)  # three steps of 0.1


def test_both_ways_of_a_step_are_the_same_step(benchmark_module, monkeypatch):
    direct, libraries = benchmark_module("direct"), benchmark_module("libraries")
    flows, original = [], direct.flowstone_flow
    monkeypatch.setattr(direct, "flowstone_flow", lambda task: flows.append(original(task)) or flows[-1])
    item = direct.Item("step", libraries.Task("affine", 3, 2, 8, rate=0.1), 20, 1)
    for way in direct.WAYS:
        step = direct.steps(item)[way]
        for _ in range(3):
            step()
    for one, other in zip(flows[0].parameters(), flows[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)  # three steps of 0.1


def test_what_an_ablation_changes_is_changed_and_is_a_bijection(benchmark_module, float64):
    ablations = benchmark_module("ablations")
    torch.manual_seed(0)
    x, parameters = 256 * torch.rand(5, 3), torch.randn(5, 3, 2)
    unbounded, one_sided = ablations.Unbounded(), ablations.OneSidedLogit()
    moved, log_slope = unbounded(x, parameters)
    torch.testing.assert_close(moved, x * log_slope.exp() + parameters[..., 1])
    torch.testing.assert_close(log_slope, parameters[..., 0])
    torch.testing.assert_close(unbounded.inverse(moved, parameters)[0], x)
    z, log_det = one_sided(x)
    slopes = torch.func.vmap(torch.func.jacrev(lambda row: one_sided(row[None])[0][0]))(x)
    torch.testing.assert_close(log_det.double(), slopes.slogdet().logabsdet, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one_sided.inverse(z)[0].double(), x, rtol=1e-4, atol=1e-3)
    assert one_sided(torch.full((1, 1), 256.0))[0].isinf().all()
    assert not any(isinstance(layer, Affine) for layer in ablations.without_tanh().modules())
    starts = [net.output.weight.abs().sum() for net in ablations.without_zero_start().modules() if hasattr(net, "phi")]
    assert len(starts) > 3
    assert min(starts) > 0.1


def test_the_table_of_ablations_names_what_failed_and_compares_equal_seeds(benchmark_module):
    line = benchmark_module("ablations").line
    whole = [{"bits_per_dim": bits} for bits in (5.0, 6.0, 7.0)]
    more = [{"bits_per_dim": bits} for bits in (5.5, 6.5, 7.5)]
    assert line("everything", whole, whole) == "| everything | 6.000 ± 0.577 |  |"
    assert line("no norm", more, whole) == "| no norm | 6.500 ± 0.577 | +0.500 ± 0.000 |"
    broken = [*more[:2], {"failed": "step 7"}]
    assert line("no tanh", broken, whole) == "| no tanh | not finite with 1 of 3 seeds (step 7) | |"
