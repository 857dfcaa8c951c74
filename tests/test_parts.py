"""Parts that are computed on several threads are what they are alone, and leave no trace in the thread that asked."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
import torch

from flowstone.kernels import computed_parts
from flowstone.mixed import MixedDensity
from flowstone.recipes import mixed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_parts_are_computed_at_once_and_in_order():
    both = threading.Barrier(2)

    def function(part: int) -> tuple[int, int]:
        both.wait(timeout=60)  # breaks where one part waits for the end of another
        return part, torch.get_num_threads()

    assert computed_parts(function, list(range(4)), CPU) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("parts", [1, 2, 3, 20])
def test_a_part_is_computed_on_as_many_threads_whatever_the_number_of_parts(parts):
    torch.set_num_threads(16)
    assert computed_parts(lambda _: torch.get_num_threads(), [None] * parts, CPU) == [2] * parts
    assert torch.get_num_threads() == 16


def test_threads_see_what_their_caller_has_set_and_record_no_gradient():
    setting = ContextVar("setting", default="default")
    setting.set("set")
    assert computed_parts(lambda _: (setting.get(), torch.is_grad_enabled()), [0, 1], CPU) == [("set", False)] * 2
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert computed_parts(lambda _: torch.zeros(1).is_inference(), [0, 1], CPU) == [True, True]


def test_threads_that_begin_later_have_the_number_of_before():
    computed_parts(lambda _: None, [0, 1], CPU)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2


def test_an_error_of_a_part_is_raised_and_ends_the_others():
    def function(part: int) -> None:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        computed_parts(function, list(range(1000)), CPU)
    assert torch.get_num_threads() == 2


def test_what_is_set_for_one_thread_keeps_the_parts_there():
    here = threading.get_ident()
    with torch.autocast("cpu"):
        assert computed_parts(lambda _: threading.get_ident(), [0, 1], CPU) == [here, here]


@pytest.mark.parametrize("order", ["any", "given"])
def test_scores_of_a_mixed_density_are_those_of_one_thread_bit_for_bit(order, monkeypatch):
    columns = [{"name": "s", "atoms": [0, 1], "rest": None}, {"name": "x"}, {"name": "y", "gaps": True}]
    density = mixed(3, columns=columns, order=order, width=8, blocks=1).eval()
    monkeypatch.setattr("flowstone.mixed.density.VALUES", 300)  # parts of 100 rows
    x = torch.randn(450, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] = (x[:, 0] > 0).double()
    x[::7, 2] = torch.nan
    density.initialize(x)
    threads, terms = set(), MixedDensity._terms

    def noted(self, *arguments, **more):
        threads.add(threading.get_ident())
        return terms(self, *arguments, **more)

    monkeypatch.setattr(MixedDensity, "_terms", noted)
    with torch.no_grad():
        found = density.column_log_prob(x)
        assert threading.get_ident() not in threads
        torch.set_num_threads(1)
        assert torch.equal(found, density.column_log_prob(x))
    assert threading.get_ident() in threads


@pytest.mark.parametrize("rows", range(1, 13))
def test_a_chunk_alone_has_the_scores_that_it_has_within_a_table_bit_for_bit(rows, monkeypatch):
    monkeypatch.setattr("flowstone.mixed.density.VALUES", 100)  # chunks of 20 rows
    density = mixed(5, columns=[{"name": name} for name in "abcde"]).eval()
    x = torch.randn(100 + rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density.initialize(x)
    assert density.rows_at_once % 20 == 0
    with torch.no_grad():
        assert torch.equal(density.log_prob(x[100:]), density.log_prob(x)[100:])
