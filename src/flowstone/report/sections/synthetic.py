"""Judges of synthetic rows: a classifier, usefulness in place of the data, and copies of training rows."""

import math

import numpy as np
from markupsafe import Markup

from flowstone.data import Rows
from flowstone.evaluation.nearest_rows import nearest_rows
from flowstone.evaluation.trees import INSTALL
from flowstone.evaluation.two_sample import score_of
from flowstone.evaluation.usefulness import train_on_synthetic
from flowstone.report.markup import join, number, paragraph, table
from flowstone.report.subject import Subject

__all__ = ["synthetic"]

TARGETS, LEVELS = 3, 8  # columns that are predicted; levels that one may have
RARE = 10  # test rows that the rarer of two values must have, for fewer say little about a prediction of it
LEAST = 100  # rows
COMPARED = 1500  # rows whose nearest rows are looked for
MEASURES = {"auc": "AUC", "accuracy": "accuracy", "r2": "R²"}


def synthetic(subject: Subject) -> Markup | None:
    """What samples are worth as a table. None of toys, images and conditional densities, and without data."""
    dataset = subject.dataset
    if dataset is None or dataset.kinds is None or subject.context_columns or not isinstance(dataset.train, Rows):
        return None
    training = subject.shown.x.double().numpy()
    held_out, drawn = dataset.test.x[:COMPARED].double().numpy(), subject.samples.double().numpy()
    coded = np.array([name in subject.levels for name in subject.columns])
    parts = []
    if not subject.has_judges:
        parts.append(paragraph(f"For two-sample scores and usefulness, {INSTALL}.", "note"))
    elif len(held_out) < LEAST:
        parts.append(paragraph(f"{len(held_out)} test rows are too few for a classifier to judge samples by."))
    else:
        parts += [_two_sample(subject), _usefulness(subject, training, drawn, held_out, coded)]
    learned, test, made = (
        dataset.without_noise(rows, most=math.inf).numpy()
        for rows in (dataset.rows_to_show.x, dataset.test.x[:COMPARED], subject.samples)
    )
    found = nearest_rows(learned, test, made, coded, most=COMPARED)
    share = f"{number(found.nearer_to_training, '.1%')} ± {number(100 * found.stderr, '.1f')}"
    lines = [
        ("nearer to a training row than to any test row, of as many", share, "50%"),
        ("equal to a training row in every column", number(found.copies, ".2%"), number(found.copies_held_out, ".2%")),
    ]
    parts.append(table("Privacy: are samples copies?", ("samples that are …", "samples", "right by chance"), lines))
    parts.append(paragraph("± is the standard error, in percentage points, of samples that copy nothing."))
    return join(parts)


def _two_sample(subject: Subject) -> Markup:
    found = subject.verdict
    if found is None or found.auc is None or found.auc_stderr is None:
        return Markup("")
    lines = [
        ("AUC of the classifier", f"{found.auc:.3f} ± {found.auc_stderr:.3f}", "0.5"),
        ("two-sample score, 1 − (2 AUC − 1)", f"{score_of(found.auc):.3f} ± {2 * found.auc_stderr:.3f}", "1"),
    ]
    caption = "Two-sample test: can boosted trees tell samples from test rows?"
    return table(caption, ("figure", "value", "where they cannot"), lines)


def _usefulness(
    subject: Subject, training: np.ndarray, drawn: np.ndarray, held_out: np.ndarray, coded: np.ndarray
) -> Markup:
    lines = []
    for target in _targets(training, held_out, coded):
        found = train_on_synthetic(training, drawn[: len(training)], held_out, target, coded)
        scores = ("–" if np.isnan(score) else f"{score:.3f}" for score in (found.synthetic, found.real))
        lines.append((subject.columns[target], MEASURES[found.measure], *scores))
    if not lines:
        return Markup("")
    head = ("column that is predicted", "measure", "trained on samples", "trained on data")
    caption = f"Train on samples, test on {len(held_out):,} test rows: boosted trees predict a column from the others"
    return table(caption, head, lines, texts=2)


def _targets(training: np.ndarray, held_out: np.ndarray, coded: np.ndarray) -> list[int]:
    """Columns to predict: those of two values first, then those of few levels, then numbers; the last ones first. Left
    out are those of which the test rows hold too little to tell a good prediction.
    """
    ranked = []
    for index in range(training.shape[1]):
        present = training[~np.isnan(training[:, index]), index]
        count = len(np.unique(present))
        tested = np.unique(held_out[~np.isnan(held_out[:, index]), index], return_counts=True)[1]
        if count < 2 or len(tested) < 2 or (coded[index] and count > LEVELS) or (count == 2 and min(tested) < RARE):
            continue
        ranked.append((0 if count == 2 else 1 if coded[index] else 2, -index))
    return [-index for _, index in sorted(ranked)[:TARGETS]] if training.shape[1] > 1 else []
