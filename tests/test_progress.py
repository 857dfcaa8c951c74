"""The progress of a training: lines in a log, a bar in a terminal, and what they say."""

import io
import re
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowstone
from flowstone.errors import SettingError
from flowstone.train import Settings, progress
from flowstone.train.history import History, Record
from training import QUICK

pytestmark = pytest.mark.filterwarnings("ignore:validation has not moved")  # in so few steps


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(steps: list[float], monkeypatch, **settings: Any) -> list[str]:
    """The lines of a training whose steps take so many seconds each; its loss is the number of the step."""
    clock, stream = Clock(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "time", clock)
        patch.setattr(sys, "stderr", stream)
        resolved = Settings(steps=len(steps), **settings).for_data((2,), 100)
        with progress.training_bar(resolved, enabled=True) as update:
            for step, seconds in enumerate(steps, 1):
                clock.now += seconds
                update(step, clock.now, float(step), History())
    return stream.getvalue().splitlines()


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=60))
def test_a_log_has_a_line_at_most_every_half_minute_and_one_at_the_end(steps):
    with pytest.MonkeyPatch.context() as patch:
        lines = lines_of(steps, patch)
    assert 1 <= len(lines) <= sum(steps) // progress.LINE_EVERY + 1
    assert lines[-1].startswith(f"step {len(steps)} of {len(steps)} ")
    assert len(lines) >= sum(steps) // (progress.LINE_EVERY + max(steps))


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_line_for_each_so_many_steps_holds_the_mean_loss_since_the_line_before(steps, every):
    with pytest.MonkeyPatch.context() as patch:
        lines = lines_of([0.5] * steps, patch, log_every=every)
    at = [*range(every, steps + 1, every)]
    at += [steps] if steps % every else []
    assert [int(line.split()[1]) for line in lines] == at
    for before, here, line in zip([0, *at], at, lines, strict=False):
        assert f"train {(before + 1 + here) / 2:.4f} nats  2 steps/s" in line


def test_a_line_says_how_long_it_will_take(monkeypatch):
    lines = lines_of([10.0] * 400, monkeypatch, log_every=100)
    assert [line.partition("steps/s  ")[2] for line in lines] == [
        "16:40, 50:00 left", "33:20, 33:20 left", "50:00, 16:40 left", "1:06:40",
    ]  # fmt: skip


def test_fit_writes_lines_with_the_last_validation(capsys):
    history = flowstone.fit(
        flowstone.nice(2), torch.randn(200, 2), **QUICK | {"progress": True, "steps": 35, "log_every": 10}
    )
    lines = capsys.readouterr().err.splitlines()
    found = [re.match(r"step (\d+) of 35  train \S+  val (\S+) \(step (\d+)\) nats  ", line) for line in lines]
    assert [int(match[1]) for match in found if match] == [10, 20, 30, 35]
    validated = {record.step: f"{record.val_nll:.4f}" for record in history}
    assert all(match and validated[int(match[3])] == match[2] for match in found)
    assert found[-1]
    assert found[-1][3] == "35"


def test_nothing_is_written_without_progress(capsys):
    flowstone.fit(flowstone.nice(2), torch.randn(100, 2), steps=4, log_every=1, progress=False)
    assert capsys.readouterr().err == ""


def test_the_bar_ends_with_the_last_validation_although_it_was_drawn_just_before(monkeypatch):
    """It kept an older one where a training ended within a tenth of a second of the last drawing."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(progress, "time", Clock())  # which stands still
    resolved = Settings(steps=1000).for_data((2,), 100)
    records = [Record(step, 1.0, 2.0, 3.0 + step, 1e-3, 1.0) for step in range(3)]
    with progress.training_bar(resolved, enabled=True) as update:
        for step in range(1, 4):
            update(step, float(step), 2.0, History(records[:step]))
    assert "val 5.0000 nats" in terminal.getvalue()


def test_lines_are_written_above_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    resolved = Settings(steps=4, log_every=2).for_data((2,), 100)
    with progress.training_bar(resolved, enabled=True) as update:
        for step in range(1, 5):
            update(step, float(step), 2.0, History())
    assert len(re.findall(r"step [24] of 4  train 2.0000 nats", terminal.getvalue())) == 2


def test_log_every_is_a_whole_number():
    with pytest.raises(SettingError, match="log_every=0 must be a whole number, at least 1"):
        Settings(log_every=0)
