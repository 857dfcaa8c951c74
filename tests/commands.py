"""The command line, run in the process of the tests, and what its tests share."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import disturb
from flowstone.cli import app, main
from flowstone.data import open_source
from flowstone.density import Density
from flowstone.recipes import build
from flowstone.runs import save

__all__ = ["QUICK", "flowstone", "make_run", "make_table", "refused"]

QUICK = ["--set", "couplings=2", "hidden=16", "--steps", "60", "--batch-size", "128", "--quiet", "--no-plots"]


def flowstone(*words: object) -> None:
    """Run a command in this process; a FlowstoneError or SystemExit is raised."""
    app([str(word) for word in words], result_action="return_value")


def refused(capsys, monkeypatch, *words: object) -> str:
    """Run ``main``, expect exit status 1 and one line on stderr, and return that line."""
    monkeypatch.setattr(sys, "argv", ["flowstone", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("flowstone: ")
    return lines[0]


def make_table(path: Path, rows: int = 200, columns: int = 3) -> Path:
    """A table of random walks in the columns a, b, c."""
    values = np.random.default_rng(0).normal(size=(rows, columns)).cumsum(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c"][:columns])
        writer.writerows(values.tolist())
    return path


def make_run(folder: Path | str, source: Path | str, *, recipe: str = "realnvp", **options: Any) -> Density:
    """A run folder whose density knows the data's means and deviations; its other weights are random."""
    dataset = open_source(source, **options)
    train = dataset.test if callable(dataset.train) else dataset.train
    arguments = {"features": len(dataset.columns), "context_features": len(dataset.context_columns)}
    density = build(recipe, {**arguments, "couplings": 2, "hidden": 8})
    density.initialize(train.x, train.context)
    disturb(density, 0.3)
    extra = {
        "columns": list(dataset.columns),
        "context_columns": list(dataset.context_columns),
        "data": dict(dataset.description),
    }
    save(density.eval(), folder, extra=extra)
    return density
