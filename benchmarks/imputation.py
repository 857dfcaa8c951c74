"""Gaps filled, and densities learned from rows with gaps: docs/results.md.

    python benchmarks/imputation.py [--data-dir FOLDER] [--sets NAME,NAME] [--results FILE]

Of up to 2500 rows of each set a fifth is held out; of the others' values 20% are removed at random. Each method fills
these gaps: by the mean (of categories the most frequent one), by the 5 nearest rows (``KNNImputer``), by chained ridge
regressions (``IterativeImputer``: their means, and a draw from their posterior, MICE), and by ``mixed`` with its
defaults, trained on the same rows for 600 steps: the most likely values, one after the other, and draws. Another
density learns from the rows without a gap alone; both are scored on the held-out rows, which are whole.

``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``tables/*.parquet`` and ``mixed/*.parquet``. Outcomes are
stored in ``--results``, one line each, so that an interrupted run continues where it stopped; the page is written when
no outcome is missing.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor

import flowstone
from flowstone.data.request import MIN_ROWS
from flowstone.data.tables import Columns, read_table
from flowstone.mixed import MixedDensity
from measure import data_folder, machine, measured, write_section

ROWS, HELD_OUT, REMOVED = 2500, 5, 0.2
COMPARED = 1000  # rows between which the transport distance is computed
DRAWS = 20
STEPS = 600
METHODS = ("mean", "nearest", "chained", "chained drawn", "flowstone likely", "flowstone drawn")


@dataclass(frozen=True)
class Outcome:
    """One set.

    Attributes:
        distances: by method: the least mean transport (L1, columns from 0 to 1, a category costs 1) from rows with
            filled gaps to the same rows as they were.
        errors: by method: root of the mean squared error of a value that was removed, of draws that of the mean of 20
            (of chains of one).
        gaps_nll, whole_nll: of held-out rows, of densities learned from all rows and from those without gaps; None
            where there are fewer than 10 of these.
        whole_rows: how many there are.
    """

    set: str
    rows: int
    columns: int
    distances: dict[str, float]
    errors: dict[str, float]
    seconds: dict[str, float]
    gaps_nll: float
    whole_nll: float | None
    whole_rows: int


class Scale:
    """Rows as numbers between 0 and 1: columns by their range, categories by an indicator for each level."""

    def __init__(self, columns: Columns, x: np.ndarray) -> None:
        self.heads = columns.heads()
        self.low, self.high = np.nanmin(x, 0), np.nanmax(x, 0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        parts = []
        for index, head in enumerate(self.heads):
            value = x[:, index, None]
            if head["rest"] is None:
                parts.append(np.where(np.isnan(value), np.nan, value == np.array(head["atoms"])) / 2)
            else:
                parts.append((value - self.low[index]) / max(self.high[index] - self.low[index], 1e-12))
        return np.concatenate(parts, 1)

    def decided(self, wide: np.ndarray) -> np.ndarray:
        """The same rows where each category is the level whose indicator is the largest."""
        at, found = 0, wide.copy()
        for head in self.heads:
            width = len(head["atoms"]) if head["rest"] is None else 1
            if head["rest"] is None:
                found[:, at : at + width] = np.eye(width)[wide[:, at : at + width].argmax(1)] / 2
            at += width
        return found


def read_rows(path: Path, seed: int) -> tuple[Columns, Tensor]:
    """Rows of a table, in random order; those with gaps of their own are left out."""
    table = read_table(parquet.read_table(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = flowstone.kinds_of(table)
    x = columns.encode(table)
    x = x[~x.isnan().any(1)]
    return columns, x[torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:ROWS])]


def learned(columns: Columns, rows: Tensor, seed: int) -> MixedDensity:
    """A density of rows, a tenth of which decide when its training ends."""
    heads = [{**head, "gaps": bool(gap)} for head, gap in zip(columns.heads(), rows.isnan().any(0), strict=True)]
    torch.manual_seed(seed)
    density = flowstone.recipes.mixed(len(heads), columns=heads)
    held_out = len(rows) // 10
    validation = rows[:held_out] if held_out >= MIN_ROWS else None
    flowstone.fit(density, rows[held_out:], validation=validation, seed=seed, steps=STEPS, progress=False)
    return density.eval()


def measure(path: Path, seed: int = 0) -> Outcome:
    """All methods on one set."""
    columns, x = read_rows(path, seed)
    held_out, rows = x[: len(x) // HELD_OUT], x[len(x) // HELD_OUT :]
    removed = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)) < REMOVED
    gappy = rows.masked_fill(removed, torch.nan)
    scale = Scale(columns, rows.numpy())
    truth, holes = scale(rows.numpy()), np.isnan(scale(gappy.numpy()))
    distances, errors, seconds = {}, {}, {}

    def judge(name: str, draws: Sequence[np.ndarray], started: float) -> None:
        seconds[name] = round(time.perf_counter() - started, 1)
        distances[name] = _transport(scale.decided(draws[0]), truth)
        errors[name] = float(np.sqrt(np.square(np.mean(draws, 0) - truth)[holes].mean()))

    for name in METHODS[:4]:
        started = time.perf_counter()
        judge(name, [_filled(name, scale(gappy.numpy()))], started)
    started = time.perf_counter()
    density = learned(columns, gappy, seed)
    judge("flowstone likely", [scale(density.fill_likely(gappy).numpy())], started)
    judge("flowstone drawn", [scale(density.fill(gappy, removed, seed=n).numpy()) for n in range(DRAWS)], started)
    whole = gappy[~removed.any(1)]
    alone = learned(columns, whole, seed) if len(whole) >= MIN_ROWS else None

    def nll(model: MixedDensity) -> float:
        with torch.no_grad():
            return -model.log_prob(held_out).mean().item()

    return Outcome(
        set=path.stem, rows=len(rows), columns=rows.shape[1], distances=distances, errors=errors, seconds=seconds,
        gaps_nll=nll(density), whole_nll=None if alone is None else nll(alone), whole_rows=len(whole),
    )  # fmt: skip


def _filled(name: str, wide: np.ndarray) -> np.ndarray:
    """Gaps filled by one of scikit-learn's imputers."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    low = np.nanmin(wide, 0)
    high = np.maximum(np.nanmax(wide, 0), low + 1e-9)  # a level may be absent
    imputers: dict[str, Any] = {
        "mean": SimpleImputer(),
        "nearest": KNNImputer(),
        "chained": IterativeImputer(random_state=0, min_value=low, max_value=high),
        "chained drawn": IterativeImputer(sample_posterior=True, random_state=0, min_value=low, max_value=high),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the chain has not converged after its 10 rounds
        return imputers[name].fit_transform(wide)


def _transport(one: np.ndarray, other: np.ndarray) -> float:
    """The mean distance of the assignment of rows to rows that is shortest."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(one[:COMPARED], other[:COMPARED], "cityblock")
    return float(cost[linear_sum_assignment(cost)].mean())


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """## Gaps: filled, and learned from

    python benchmarks/imputation.py

20% of the values of each set were removed at random (of at most 2000 rows; seed 0) and filled by each method. *W1*: the
Wasserstein distance, the least mean transport cost from rows with filled gaps to the same rows as they were, in L1,
with columns scaled to 0 … 1 and a cost of 1 for another category (1000 rows). *Error*: the root mean squared error of
the values that are filled in; for *flowstone drawn* that of the mean of 20 draws. The methods: *mean* of the column;
*nearest*, `KNNImputer`; *chained*, `IterativeImputer`; *chained drawn*, a draw from its posteriors; *flowstone likely*,
the most probable level, or the median of numbers, one column after the other; *flowstone drawn*, a draw. *NLL with
gaps*: nats a row of held-out whole rows (at most 500), of a density learned from all rows with their gaps; *whole rows
alone*: of one learned only from the rows in which nothing was removed, and how many these are; where they are too few
to learn from, the last line counts learning with gaps as better. Flowstone is `mixed` with its defaults and 600 steps.
Machine: {machine}.

"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/results.md."""
    head = ["set (rows x columns)", *(f"W1 {name}" for name in METHODS), *(f"error {name}" for name in METHODS)]
    head += ["NLL with gaps", "whole rows alone (how many)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for each in outcomes:
        cells = [f"{each.set} ({each.rows} x {each.columns})", *_row(each.distances), *_row(each.errors)]
        alone = "too few" if each.whole_nll is None else f"{each.whole_nll:.2f}"
        lines.append("| " + " | ".join([*cells, f"{each.gaps_nll:.2f}", f"{alone} ({each.whole_rows})"]) + " |")
    ranks = [*_row(_ranks([each.distances for each in outcomes])), *_row(_ranks([each.errors for each in outcomes]))]
    better = sum(each.whole_nll is None or each.gaps_nll < each.whole_nll for each in outcomes)
    lines.append("| mean rank | " + " | ".join(ranks) + f" | better on {better} of {len(outcomes)} | |")
    return HEAD.format(machine=machine()) + "\n".join(lines) + "\n"


def _row(figures: dict[str, float]) -> list[str]:
    least = min(figures.values())
    return [f"**{figures[name]:.3f}**" if figures[name] == least else f"{figures[name]:.3f}" for name in METHODS]


def _ranks(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean rank of each method; 1 is the best."""
    table = np.array([[each[name] for name in METHODS] for each in figures])
    ranks = table.argsort(1).argsort(1) + 1
    return dict(zip(METHODS, ranks.mean(0).tolist(), strict=True))


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sets", default=None)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/imputation.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = data_folder(arguments.data_dir)
    paths = sorted([*(folder / "tables").glob("*.parquet"), *(folder / "mixed").glob("*.parquet")])
    paths = [path for path in paths if not path.stem.endswith("-test")]
    if arguments.sets:
        paths = [path for path in paths if path.stem in arguments.sets.split(",")]
    runs = {path.stem: partial(measure, path) for path in paths}
    write_section("imputation", page(measured(arguments.results, Outcome, runs, lambda outcome: outcome.set)))


if __name__ == "__main__":
    main()
