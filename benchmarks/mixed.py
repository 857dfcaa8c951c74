"""Tables of mixed columns, judged like for like with published figures: docs/results.md.

    python benchmarks/mixed.py [--data-dir FOLDER] [--sets adult,shoppers,magic] [--seeds 3] [--orders any,given]

Each set is split 80/10/10 by the seed, or has a test part of its own; ``flowstone.learn`` gets all other rows, of
which it keeps a tenth for validation, with its defaults on one thread. The judge is that of the published figures:
XGBoost's classifier with default settings, three folds, as many synthetic rows as training rows. ``--data-dir`` (or
FLOWSTONE_DATA) names a folder that holds ``mixed/*.parquet``. Outcomes are stored in ``--results``, one line each, so
that an interrupted run continues where it stopped; the page is written when no outcome is missing.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

import flowstone
from flowstone.evaluation import classifier_two_sample_test, independent_columns, nearest_rows
from flowstone.table_model import TableModel, learn
from measure import data_folder, machine, measured, write_section

TARGETS = {"adult": "income", "shoppers": "Revenue", "magic": "class"}
PUBLISHED = {"adult": (0.855, 0.916), "shoppers": (0.894, 0.917), "magic": (0.860, 0.937)}  # C2ST, AUC of TSTR
DEFAULTS = {"any": {}, "given": {"order": "given"}}


@dataclass(frozen=True)
class Outcome:
    """One model of one set and seed.

    Attributes:
        nll, independent: nats a row of the test part, of the model and of independent columns, gaps counted as events.
        c2st, c2st_test: of samples against training rows, and against the test part.
        c2st_reference: of training rows against the test part, which bounds the one before.
        c2st_given: of test rows half of whose columns are drawn given the others, against them; any order alone.
        synthetic_auc, real_auc: on the test part, of trees that learned the target from samples and from training rows.
        conditional_auc: of the model's own probability of the target given all other columns.
        nearer, copies, copies_test: see ``flowstone.evaluation.nearest_rows``.
        settled_seconds: of training until the validation rows were within 0.5% of their least NLL.
        train_seconds, sample_seconds, score_rows: processor time of training, of drawing as many rows as were learned
            from, and rows a second of scoring.
    """

    set: str
    seed: int
    order: str
    rows: int
    columns: int
    nll: float
    independent: float
    c2st: float
    c2st_test: float
    c2st_reference: float
    c2st_given: float | None
    synthetic_auc: float
    real_auc: float
    conditional_auc: float
    nearer: float
    copies: float
    copies_test: float
    steps: int
    settled_seconds: float
    train_seconds: float
    sample_seconds: float
    score_rows: float
    version: str = flowstone.__version__


def read_parts(folder: Path, name: str, seed: int) -> tuple[pa.Table, pa.Table]:
    """Rows to learn from and test rows."""
    if (folder / f"{name}-test.parquet").exists():
        return parquet.read_table(folder / f"{name}-train.parquet"), parquet.read_table(folder / f"{name}-test.parquet")
    table = parquet.read_table(folder / f"{name}.parquet")
    order = np.random.default_rng(seed).permutation(len(table))
    return table.take(order[len(table) // 10 :]), table.take(order[: len(table) // 10])


def judge(categorical: np.ndarray, **settings: Any) -> Callable[[], Any]:
    """XGBoost's classifier, told which columns are codes."""
    import xgboost  # pyright: ignore[reportMissingImports]

    types = ["c" if coded else "q" for coded in categorical]
    return lambda: xgboost.XGBClassifier(
        eval_metric="logloss", enable_categorical=True, random_state=0, feature_types=types, n_jobs=1, **settings
    )


def measure(folder: Path, name: str, seed: int, order: str) -> Outcome:
    """Train one model and judge it."""
    train, test = read_parts(folder, name, seed)
    started = time.process_time()
    model = learn(train, seed=seed, progress=False, arguments=DEFAULTS[order])
    train_seconds = time.process_time() - started
    density: Any = model.density
    x, held_out = model.encode(train), model.encode(test)
    started = time.process_time()
    drawn = density.sample(len(x), seed=seed, gaps=True)
    sample_seconds = time.process_time() - started
    started = time.process_time()
    with torch.no_grad():
        nll = -density.log_prob(held_out, gaps="event").double().mean().item()
        score_rows = len(held_out) / (time.process_time() - started)
        alone = independent_columns(density, x)
        independent = -alone.log_prob(held_out, gaps="event").double().mean().item()
    rows, held, made = x.numpy(), held_out.numpy(), drawn.numpy()
    categorical = np.array([head["rest"] is None for head in model.columns.heads()])

    def c2st(one: np.ndarray, other: np.ndarray) -> float:
        return classifier_two_sample_test(one, other, classifier=judge(categorical)).score

    privacy = nearest_rows(rows, held, made, categorical, seed=seed)
    target = model.columns.names.index(TARGETS[name])
    return Outcome(
        set=name, seed=seed, order=order, rows=len(train), columns=len(model.columns.names), nll=nll,
        independent=independent, c2st=c2st(rows, made), c2st_test=c2st(held, made), c2st_reference=c2st(held, rows),
        c2st_given=_given(model, held_out, c2st, seed) if density.any_order else None,
        synthetic_auc=_auc(made, held, target, categorical), real_auc=_auc(rows, held, target, categorical),
        conditional_auc=_own_auc(model, held_out, target), nearer=privacy.nearer_to_training, copies=privacy.copies,
        copies_test=privacy.copies_held_out, steps=model.history.records[-1].step if model.history else 0,
        settled_seconds=_settled(model),
        train_seconds=round(train_seconds, 1), sample_seconds=round(sample_seconds, 1), score_rows=round(score_rows),
    )  # fmt: skip


def _settled(model: TableModel) -> float:
    """Seconds until the NLL of the validation rows was within 0.5% of its least."""
    assert model.history is not None
    best = model.history.best.val_nll
    enough = best + 0.005 * abs(best)
    return round(next(record.seconds for record in model.history if record.val_nll <= enough), 1)


def _given(model: TableModel, x: torch.Tensor, c2st: Callable[[np.ndarray, np.ndarray], float], seed: int) -> float:
    """Half of the columns, chosen at random three times, are known; the others are drawn given them."""
    generator, scores = torch.Generator().manual_seed(seed), []
    density: Any = model.density
    for draw in range(3):
        unknown = torch.ones(x.shape[1], dtype=torch.bool)
        unknown[torch.randperm(x.shape[1], generator=generator)[: x.shape[1] // 2]] = False
        scores.append(c2st(x.numpy(), density.fill(x, unknown, seed=seed + draw, gaps=True).numpy()))
    return float(np.mean(scores))


def _auc(rows: np.ndarray, test: np.ndarray, target: int, categorical: np.ndarray) -> float:
    """Of boosted trees that learn the target from rows, on the test part."""
    from sklearn.metrics import roc_auc_score

    make = judge(np.delete(categorical, target), n_estimators=200, max_depth=6, learning_rate=0.1)
    model = make().fit(np.delete(rows, target, 1), rows[:, target])
    return float(roc_auc_score(test[:, target], model.predict_proba(np.delete(test, target, 1))[:, 1]))


def _own_auc(model: TableModel, x: torch.Tensor, target: int) -> float:
    """Of log p(target = 1, others) − log p(target = 0, others) by the model, in its own order."""
    from sklearn.metrics import roc_auc_score

    density: Any = model.density
    if density.any_order:
        probability = density.predict(x, target, gaps="event").probabilities[:, 1].numpy()
    else:
        sides = [x.clone() for _ in range(2)]
        for value, side in enumerate(sides):
            side[:, target] = value
        with torch.no_grad():
            probability = (density.log_prob(sides[1], gaps="event") - density.log_prob(sides[0], gaps="event")).numpy()
    return float(roc_auc_score(x[:, target].numpy(), probability))


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """## Tables of mixed columns

    python benchmarks/mixed.py

Mean ± standard deviation over {seeds} seeds; XGB-C2ST is 1 where XGBoost cannot tell samples from rows (3 folds, as
many samples as training rows). *Published*: the best of the literature under the same protocol (TabPC, TabDiff).
*Test rows*: the same score of samples against the test part, and of training rows against it, which is the best that
samples can be expected to reach. *Given half*: the score of the test rows with half of their columns drawn given the
other half, against the test rows as they are. *TSTR, real*: AUC on the test part of boosted trees trained on samples,
and of trees trained on the training rows. *p(target)*: AUC of the model's own probability of the target given all other
columns. *Nearer*: share of samples that are nearer to a training row than to a test row (0.5: nothing is memorized);
*copies*: share of samples, and of test rows, that equal a training row. *NLL, independent*: NLL in nats a row, gaps
counted as events, of the model, and of independent columns. *Settled, train s*: seconds until the NLL of the validation
rows was within 0.5% of its least, and of the whole training. Seconds are of one processor, training with the defaults
of `flowstone.learn`. Earlier runs of this page used the test parts, too; the changes between them (rates, dropout,
steps, validations, the share of random orders, `encoding_pieces`, `scaled`) were decided by rows held out of the
training parts. Machine: {machine}.

"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/results.md."""
    head = (
        "set | order | XGB-C2ST | published | test rows | given half | TSTR, real | p(target) | nearer | copies | "
        "NLL, independent | settled, train s | sample s | scored rows/s"
    )
    lines = [f"| {head} |", "|" + "---|" * len(head.split(" | "))]
    for name in dict.fromkeys(each.set for each in outcomes):
        for order in DEFAULTS:
            same = [each for each in outcomes if (each.set, each.order) == (name, order)]
            if same:
                lines.append("| " + " | ".join(_cells(name, order, same)) + " |")
    return HEAD.format(seeds=len({each.seed for each in outcomes}), machine=machine()) + "\n".join(lines) + "\n"


def _cells(name: str, order: str, same: Sequence[Outcome]) -> list[str]:
    def cell(key: str, digits: int = 3) -> str:
        values = [getattr(each, key) for each in same]
        if None in values:
            return ""
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    return [
        f"{name} ({same[0].rows} x {same[0].columns})", order, f"**{cell('c2st')}**", f"{PUBLISHED[name][0]:.3f}",
        f"{cell('c2st_test')}, {cell('c2st_reference')}", cell("c2st_given"),
        f"{cell('synthetic_auc')}, {cell('real_auc')}", cell("conditional_auc", 4), cell("nearer", 2),
        f"{cell('copies')}, {cell('copies_test')}", f"{cell('nll', 2)}, {cell('independent', 2)}",
        f"{cell('settled_seconds', 0)}, {cell('train_seconds', 0)}", cell("sample_seconds", 1), cell("score_rows", 0),
    ]  # fmt: skip


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sets", default=",".join(TARGETS))
    parser.add_argument("--orders", default="any,given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/mixed.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = data_folder(arguments.data_dir) / "mixed"
    runs = {
        (name, seed, order, flowstone.__version__): partial(measure, folder, name, seed, order)
        for seed in range(arguments.seeds)
        for name in arguments.sets.split(",")
        for order in arguments.orders.split(",")
    }
    found = measured(arguments.results, Outcome, runs, lambda each: (each.set, each.seed, each.order, each.version))
    write_section("mixed", page(found))


if __name__ == "__main__":
    main()
