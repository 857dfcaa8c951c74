"""Detectors of anomalies that learn from rows with anomalies among them: docs/results.md.

    python benchmarks/contamination.py [--data-dir FOLDER] [--seeds N] [--results FILE]

Half of a set's normal rows (at most 2000) are learned, once alone and once with anomalies among them, a tenth of all
learned rows or half of the set's anomalies, whichever is fewer. The other rows (at most 4000) are judged. The detectors
are those of ``benchmarks/anomaly.py``.

``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``anomaly/*.parquet``. Outcomes are stored in
``--results``, one line each, so that an interrupted run continues where it stopped; the page is written when no outcome
is missing.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from anomaly import DETECTOR, RIVALS, TRIMMED, read_rows, strangeness
from measure import data_folder, machine, measured, write_section

LEARNED, JUDGED, SHARE = 2000, 4000, 0.1
METHODS = (*RIVALS, DETECTOR, TRIMMED)


@dataclass(frozen=True)
class Outcome:
    """One detector on one set: its ROC-AUC after learning normal rows, and after learning some anomalies, too."""

    set: str
    seed: int
    method: str
    clean: float
    contaminated: float


def measure(path: Path, seed: int, method: str) -> Outcome:
    """One detector on one set."""
    x, anomalous = read_rows(path)
    random = np.random.default_rng(seed)
    normal, strange = (random.permutation(np.flatnonzero(anomalous == which)) for which in (False, True))
    learned, rest = normal[: len(normal) // 2][:LEARNED], normal[len(normal) // 2 :]
    count = min(round(len(learned) * SHARE / (1 - SHARE)), len(strange) // 2)
    judged = random.permutation(np.concatenate([rest, strange[count:]]))[:JUDGED]
    rows = learned, random.permutation(np.concatenate([learned, strange[:count]]))
    clean, contaminated = (
        float(roc_auc_score(anomalous[judged], strangeness(method, x[each], x[judged], seed))) for each in rows
    )
    return Outcome(path.stem, seed, method, clean, contaminated)


HEAD = """## Anomalies among the rows that are learned

    python benchmarks/contamination.py

ROC-AUC of detectors that learned half of the normal rows (at most {learned}), and that learned as well anomalies of the
same set, a tenth of all learned rows or half of the anomalies, whichever is fewer. Means over {sets} sets and {seeds}
seeds. Each detector has the settings of the section before; `trim=0.1` leaves out the tenth of the rows that lies
farthest from the rest before anything is learned, and scores rows by their likelihood and the distance to the (n/10)-th
of n learned rows. Where anomalies lie close together (cardio, optdigits, pendigits, wine), those that were learned make
the others look normal to whatever looks at near rows. How `trim` scores was chosen on these sets and seeds.
Machine: {machine}.

"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/results.md."""
    lines = ["| detector | normal rows learned | anomalies among them | change |", "|---|---|---|---|"]
    for method in METHODS:
        same = [each for each in outcomes if each.method == method]
        clean, contaminated = (np.mean([getattr(each, name) for each in same]) for name in ("clean", "contaminated"))
        lines.append(f"| {method} | {clean:.3f} | {contaminated:.3f} | {contaminated - clean:+.3f} |")
    sets, seeds = ({getattr(each, name) for each in outcomes} for name in ("set", "seed"))
    head = HEAD.format(learned=LEARNED, sets=len(sets), seeds=len(seeds), machine=machine())
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/contamination.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        (path.stem, seed, method): partial(measure, path, seed, method)
        for seed in range(arguments.seeds)
        for path in sorted((data_folder(arguments.data_dir) / "anomaly").glob("*.parquet"))
        for method in METHODS
    }
    found = measured(arguments.results, Outcome, runs, lambda each: (each.set, each.seed, each.method))
    write_section("contamination", page(found))


if __name__ == "__main__":
    main()
