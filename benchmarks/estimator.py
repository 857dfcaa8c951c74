"""FlowDensity beside the best GaussianMixture of scikit-learn: docs/results.md.

    python benchmarks/estimator.py [--data-dir FOLDER] [--sets NAME,NAME] [--results FILE]

A fifth of each set is held out (seed 0). The rival is scikit-learn's ``GaussianMixture`` with 1, 2, 4, 8 or 16
components, chosen by its likelihood in 3-fold cross-validation of the other rows, with full covariances and the
library's defaults. ``FlowDensity(time_limit=90)`` learns the same rows. The held-out rows are scored once. Sets of more
than 6000 rows are cut to their first 6000.

The sets are scikit-learn's iris, wine, breast cancer and diabetes, 1500 rows of 200 columns made by 8 factors, and the
tables in ``--data-dir`` (or FLOWSTONE_DATA). Outcomes are stored in ``--results``, one line each, so that an
interrupted run continues where it stopped; the page is written when no outcome is missing.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from sklearn import datasets
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score

from flowstone import FlowDensity
from measure import data_folder, machine, measured, write_section

COMPONENTS = (1, 2, 4, 8, 16)
HELD_OUT, MOST_ROWS = 5, 6000
SECONDS = 90


@dataclass(frozen=True)
class Outcome:
    """One set: log-likelihoods in nats a held-out row, and the standard error of their difference.

    Attributes:
        chosen: what ``FlowDensity`` is made of, with weights.
    """

    set: str
    rows: int
    columns: int
    flowstone: float
    mixture: float
    stderr: float
    components: int
    chosen: dict[str, float]
    flowstone_seconds: float
    mixture_seconds: float


def factors() -> np.ndarray:
    """1500 rows of 200 columns that depend on 8 hidden factors."""
    generator = np.random.default_rng(0)
    loadings = generator.normal(size=(200, 8))
    return generator.normal(size=(1500, 8)) @ loadings.T + 0.5 * generator.normal(size=(1500, 200))


def table(path: Path) -> np.ndarray:
    """The columns of a table that vary."""
    columns = [column.to_numpy().astype(np.float64) for column in parquet.read_table(path).columns]
    rows = np.stack(columns, 1)
    return rows[:, rows.std(0) > 0]


def sets_in(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """All sets by name."""
    known: dict[str, Callable[[], np.ndarray]] = {
        "iris": lambda: np.asarray(datasets.load_iris(return_X_y=True)[0]),
        "wine": lambda: np.asarray(datasets.load_wine(return_X_y=True)[0]),
        "breast cancer": lambda: np.asarray(datasets.load_breast_cancer(return_X_y=True)[0]),
        "diabetes": lambda: np.asarray(datasets.load_diabetes(return_X_y=True)[0]),
        "factors": factors,
    }
    for path in sorted(folder.glob("*.parquet")):
        known[path.stem] = partial(table, path)
    return known


def best_mixture(rows: np.ndarray) -> GaussianMixture:
    """The mixture whose number of components cross-validation prefers."""
    worth = {}
    for count in COMPONENTS:
        try:
            worth[count] = float(np.mean(cross_val_score(GaussianMixture(count, random_state=0), rows, cv=3)))
        except ValueError:  # a covariance that is singular, or fewer rows than components
            continue
    return GaussianMixture(max(worth, key=lambda count: worth[count]), random_state=0).fit(rows)


def measure_set(name: str, read: Callable[[], np.ndarray]) -> Outcome:
    """Learn by both, and score the held-out rows."""
    rows = read()[:MOST_ROWS]
    order = np.random.default_rng(0).permutation(len(rows))
    held_out, learned = rows[order[: len(rows) // HELD_OUT]], rows[order[len(rows) // HELD_OUT :]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        rival = best_mixture(learned)
        mixture_seconds = time.perf_counter() - started
        started = time.perf_counter()
        density = FlowDensity(time_limit=SECONDS, random_state=0).fit(learned)
        flowstone_seconds = time.perf_counter() - started
    ours, theirs = density.score_samples(held_out), rival.score_samples(held_out)
    stderr = float((ours - theirs).std() / math.sqrt(len(held_out)))
    chosen = {each.name: each.weight for each in density.candidates_ if each.weight}
    components = int(rival.get_params()["n_components"])
    return Outcome(
        name, len(learned), learned.shape[1], float(ours.mean()), float(theirs.mean()), stderr, components, chosen,
        flowstone_seconds, mixture_seconds,
    )  # fmt: skip


HEAD = """## The estimator beside mixtures of Gaussians

    python benchmarks/estimator.py

Mean log-likelihood of held-out rows in nats a row, in the columns' own units; higher is better.
`FlowDensity(time_limit=90, random_state=0)` is compared with scikit-learn's `GaussianMixture` with 1 to 16 components,
chosen by cross-validation. ±: the standard error of the difference. *Seconds*: of `FlowDensity` (and of the mixture);
its time limit is for the training of nets alone. *Made of*: the heaviest parts of the blend that `FlowDensity` chose,
with their weights. Machine: {machine}.

`FlowDensity` is worse than the mixture by more than one standard error on {worse} of {sets} sets.

"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/results.md."""
    lines = [
        "| set (rows x columns) | FlowDensity | mixture (components) | difference | seconds | made of |",
        "|" + "---|" * 6,
    ]
    for each in outcomes:
        heaviest = sorted(each.chosen.items(), key=lambda item: -item[1])[:3]
        made_of = ", ".join(f"{name} {weight:.2f}" for name, weight in heaviest)
        lines.append(
            f"| {each.set} ({each.rows} x {each.columns}) | {each.flowstone:.2f} | {each.mixture:.2f} "
            f"({each.components}) | {each.flowstone - each.mixture:+.2f} ± {each.stderr:.2f} | "
            f"{each.flowstone_seconds:.0f} ({each.mixture_seconds:.0f}) | {made_of} |"
        )
    worse = sum(each.flowstone - each.mixture < -each.stderr for each in outcomes)
    return HEAD.format(machine=machine(), worse=worse, sets=len(outcomes)) + "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sets", default=None)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/estimator.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = sets_in(data_folder(arguments.data_dir) / "tables")
    wanted = arguments.sets.split(",") if arguments.sets else list(known)
    runs = {name: partial(measure_set, name, known[name]) for name in wanted}
    write_section("estimator", page(measured(arguments.results, Outcome, runs, lambda outcome: outcome.set)))


if __name__ == "__main__":
    main()
