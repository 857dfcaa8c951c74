"""Detectors of anomalies on fourteen sets, beside those of scikit-learn: docs/results.md.

    python benchmarks/anomaly.py [--data-dir FOLDER] [--sets NAME,NAME] [--seeds N] [--results FILE]

Half of a set's normal rows (at most 5000) are learned; the other half and all anomalies (at most 10,000 rows together,
drawn at random) are judged. All detectors have the same rows, and one default for all sets. Those of scikit-learn have
columns standardised by the learned rows.

``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``anomaly/*.parquet``. Outcomes are stored in
``--results``, one line each, so that an interrupted run continues where it stopped; the page is written when no outcome
is missing.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from flowstone import FlowDensity, FlowOutlierDetector
from measure import data_folder, machine, measured, write_section

LEARNED, JUDGED = 5000, 10_000
NOISE = 0.3  # in standard deviations
COMPONENTS = (1, 2, 4, 8, 16)
BANDWIDTHS = np.geomspace(0.05, 2, 12)

Scores = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # learned rows, rows to judge, seed; larger is stranger


@dataclass(frozen=True)
class Outcome:
    """One detector on one set.

    Attributes:
        roc_auc, precision: area under the ROC curve, and average precision.
        coverage: share of normal rows whose p-value is at most 0.1; None of detectors without p-values.
    """

    set: str
    seed: int
    method: str
    roc_auc: float
    precision: float
    seconds: float
    coverage: float | None = None


# --- detectors --------------------------------------------------------------------------------------------------------


def nearest(count: int) -> Scores:
    """The distance to the nearest learned row of this number."""

    def scores(learned: np.ndarray, judged: np.ndarray, _seed: int) -> np.ndarray:
        return NearestNeighbors(n_neighbors=count).fit(learned).kneighbors(judged)[0][:, -1]

    return scores


def local_outliers(learned: np.ndarray, judged: np.ndarray, _seed: int) -> np.ndarray:
    """The local outlier factor."""
    return -LocalOutlierFactor(n_neighbors=20, novelty=True).fit(learned).score_samples(judged)


def kernels(learned: np.ndarray, judged: np.ndarray, seed: int) -> np.ndarray:
    """A kernel density; up to 500 rows, a fifth, choose its bandwidth by their likelihood."""
    order = np.random.default_rng(seed).permutation(len(learned))
    count = min(500, len(learned) // 5)
    held_out, rest = learned[order[:count]], learned[order[count:]]
    tolerance: Any = 1e-4  # which scikit-learn's hints take for a whole number
    likelihood = [KernelDensity(bandwidth=width, rtol=tolerance).fit(rest).score(held_out) for width in BANDWIDTHS]
    width = float(BANDWIDTHS[int(np.argmax(likelihood))])
    return -KernelDensity(bandwidth=width, rtol=tolerance).fit(learned).score_samples(judged)


def mixture(learned: np.ndarray, judged: np.ndarray, seed: int) -> np.ndarray:
    """A mixture of Gaussians, with as many components as BIC wants."""
    counts = [count for count in COMPONENTS if 10 * count <= len(learned)]
    fitted = [GaussianMixture(count, random_state=seed).fit(learned) for count in counts]
    return -min(fitted, key=lambda each: each.bic(learned)).score_samples(judged)


def forest(learned: np.ndarray, judged: np.ndarray, seed: int) -> np.ndarray:
    """An isolation forest."""
    return -IsolationForest(random_state=seed).fit(learned).score_samples(judged)


def support_vectors(learned: np.ndarray, judged: np.ndarray, _seed: int) -> np.ndarray:
    """A one-class support vector machine."""
    return -OneClassSVM(gamma="scale").fit(learned).score_samples(judged)


RIVALS: dict[str, Scores] = {
    "kNN, k=5": nearest(5),
    "kNN, k=1": nearest(1),
    "LOF": local_outliers,
    "KDE": kernels,
    "GaussianMixture": mixture,
    "IsolationForest": forest,
    "OneClassSVM": support_vectors,
}
DENSITY, NOISY, DETECTOR = "FlowDensity alone", "FlowDensity, noise", "FlowOutlierDetector"
TRIMMED = "FlowOutlierDetector, trim=0.1"
METHODS = (*RIVALS, DENSITY, NOISY, DETECTOR)


# --- measuring --------------------------------------------------------------------------------------------------------


def read(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to learn, rows to judge, and which of these are anomalies."""
    x, anomalous = read_rows(path)
    random = np.random.default_rng(seed)
    normal = random.permutation(np.flatnonzero(~anomalous))
    learned, rest = normal[: len(normal) // 2], normal[len(normal) // 2 :]
    judged = random.permutation(np.concatenate([rest, np.flatnonzero(anomalous)]))[:JUDGED]
    return x[learned[:LEARNED]], x[judged], anomalous[judged]


def read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a set, and which of them are anomalies."""
    table = parquet.read_table(path)
    x = np.stack([table[name].to_numpy().astype(np.float64) for name in table.column_names if name != "y"], 1)
    return x, table["y"].to_numpy() == 1


def strangeness(method: str, learned: np.ndarray, judged: np.ndarray, seed: int) -> np.ndarray:
    """Scores of a rival, or of the detector; larger is stranger."""
    if method in (DETECTOR, TRIMMED):
        trim = 0.1 if method == TRIMMED else 0.0
        return -FlowOutlierDetector(trim=trim, random_state=seed).fit(learned).score_samples(judged)
    scaler = StandardScaler().fit(learned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mixtures that have not converged, repeated rows in LOF
        return RIVALS[method](np.asarray(scaler.transform(learned)), np.asarray(scaler.transform(judged)), seed)


def measure(path: Path, seed: int, method: str) -> Outcome:
    """One detector on one set."""
    learned, judged, anomalous = read(path, seed)
    started, coverage = time.perf_counter(), None
    if method == DETECTOR:
        detector = FlowOutlierDetector(random_state=seed).fit(learned)
        scores = -detector.score_samples(judged)
        coverage = float((detector.p_values(judged[~anomalous]) <= 0.1).mean())
    elif method in (DENSITY, NOISY):
        width = NOISE * learned.std(0) if method == NOISY else 0.0
        rows = learned + width * np.random.default_rng(seed).normal(size=learned.shape)
        density = FlowDensity(models=("independent", "gaussian", "mixture"), random_state=seed).fit(rows)
        scores = -density.score_samples(judged).clip(-1e300)
    else:
        scores = strangeness(method, learned, judged, seed)
    return Outcome(
        set=path.stem, seed=seed, method=method, roc_auc=float(roc_auc_score(anomalous, scores)),
        precision=float(average_precision_score(anomalous, scores)),
        seconds=round(time.perf_counter() - started, 2), coverage=coverage,
    )  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """## Anomalies

    python benchmarks/anomaly.py

The {sets} classical sets of ADBench in the data folder. Half of the normal rows of a set (at most {learned}) are
learned; the other half and all anomalies (at most {judged} together, drawn at random) are judged. There are {seeds}
seeds, 0 … {last}. All detectors get the same rows, and each has the same settings for all sets; those of scikit-learn
get columns standardised by the learned rows: *kNN* is the distance to the k-th neighbour (PyOD's default is 5), *LOF*
has 20 neighbours, *KDE* the bandwidth under which held-out rows are likeliest, *GaussianMixture* 1 to 16 components by
BIC, *IsolationForest* and *OneClassSVM* have scikit-learn's defaults. *FlowDensity alone*: the likelihood term of the
detector, from independent columns, Gaussians and mixtures; *FlowDensity, noise*: the same, learned from rows to which
Gaussian noise of 0.3 standard deviations was added. The terms of *FlowOutlierDetector* and their weights were chosen on
these sets (with seeds 0 and 1), so that its figures are slightly favourable to it. Ranks are those of each set's mean
among the detectors, 1 the best; seconds of learning and judging are rough, as the machine did other work. Machine:
{machine}.

Likelihood alone is behind where columns nearly follow from others, or hold few distinct values: a density is then
decided by directions in which rows hardly vary, and a normal row that is a little off in one of them is as unlikely as
an anomaly that is far off (pendigits, Pima, optdigits). Noise makes such directions at least as wide as itself: it
helps on these sets, and costs detail on sets that have much of it (magic.gamma, vowels). In the distance to the nearest
row those directions hardly count, and the kernels smooth them; the likelihood adds which points between neighbours are
unlikely. On these sets anomalies are hardly ever more likely than all learned rows, so that typicality changes next to
nothing here.

"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The tables of docs/results.md."""
    sets, seeds = sorted({each.set for each in outcomes}), sorted({each.seed for each in outcomes})

    def table(attribute: str) -> np.ndarray:
        """Means over seeds, (sets, methods)."""
        values = {(o.set, o.seed, o.method): getattr(o, attribute) for o in outcomes}
        return np.array([[np.mean([values[s, n, m] for n in seeds]) for m in METHODS] for s in sets])

    roc_auc, precision, seconds = table("roc_auc"), table("precision"), table("seconds")
    figures = {
        "ROC-AUC": roc_auc.mean(0),
        "average precision": precision.mean(0),
        "rank by ROC-AUC": rankdata(-roc_auc.round(4), axis=1).mean(0),
        "rank by average precision": rankdata(-precision.round(4), axis=1).mean(0),
        "seconds": seconds.mean(0),
    }
    lines = ["| mean over sets | " + " | ".join(figures) + " |", "|" + "---|" * (1 + len(figures))]
    best = {name: values.min() if "rank" in name else values.max() for name, values in figures.items()}
    for index, method in enumerate(METHODS):
        cells = []
        for name, values in figures.items():
            shown = f"{values[index]:.1f}" if name == "seconds" else f"{values[index]:.{2 if 'rank' in name else 4}f}"
            cells.append(f"**{shown}**" if name != "seconds" and values[index] == best[name] else shown)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "| ROC-AUC, average precision | " + " | ".join(METHODS) + " |", "|" + "---|" * (1 + len(METHODS))]
    for row, name in enumerate(sets):
        pairs = [f"{a:.3f}, {p:.3f}" for a, p in zip(roc_auc[row], precision[row], strict=True)]
        lines.append(f"| {name} | " + " | ".join(pairs) + " |")
    lines += ["", _margins(outcomes)]
    coverage = [each.coverage for each in outcomes if each.coverage is not None]
    lines += ["", f"Share of normal rows with a p-value of at most 0.1, mean over sets: {np.mean(coverage):.3f}."]
    head = HEAD.format(
        sets=len(sets), learned=LEARNED, judged=JUDGED, seeds=len(seeds), last=seeds[-1], machine=machine()
    )
    return head + "\n".join(lines) + "\n"


def _margins(outcomes: Sequence[Outcome]) -> str:
    """By how much the detector is ahead of the nearest neighbour, the best of the others, on each seed."""
    said = []
    for name, attribute in (("ROC-AUC", "roc_auc"), ("average precision", "precision")):
        by_seed = []
        for seed in sorted({each.seed for each in outcomes}):
            values = {
                method: np.mean([getattr(o, attribute) for o in outcomes if (o.seed, o.method) == (seed, method)])
                for method in (DETECTOR, "kNN, k=1")
            }
            by_seed.append(f"{values[DETECTOR] - values['kNN, k=1']:+.4f}")
        said.append(f"{name} {', '.join(by_seed)}")
    return f"FlowOutlierDetector minus kNN with k=1, means over sets, for each seed: {'; '.join(said)}."


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sets", default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/anomaly.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted((data_folder(arguments.data_dir) / "anomaly").glob("*.parquet"))
    if arguments.sets:
        paths = [path for path in paths if path.stem in arguments.sets.split(",")]
    runs = {
        (path.stem, seed, method): partial(measure, path, seed, method)
        for seed in range(arguments.seeds)
        for path in paths
        for method in METHODS
    }
    found = measured(arguments.results, Outcome, runs, lambda each: (each.set, each.seed, each.method))
    write_section("anomalies", page(found))


if __name__ == "__main__":
    main()
