"""The least likely test rows, and the column to blame for each."""

import math
from collections import Counter

from markupsafe import Markup

from flowstone.evaluation.anomaly import AnomalyJudge
from flowstone.evaluation.metrics import log_prob
from flowstone.report.markup import join, number, paragraph, table
from flowstone.report.subject import Subject

__all__ = ["least_likely"]

SHOWN, COLUMNS = 10, 12  # rows; of a wide table the columns shown
JUDGING = 300  # validation rows


def least_likely(subject: Subject) -> Markup | None:
    """Ten test rows with the lowest likelihood, their p-values against validation rows, and their blame. None of
    images, whose least likely are among their pictures, and without data.
    """
    test, validation = subject.test, subject.validation
    if test is None or validation is None or subject.images:
        return None
    density = subject.density
    scores = log_prob(density, test.x, test.context)
    order = scores.nan_to_num(nan=-math.inf).argsort()[:SHOWN]  # rows without a likelihood are the first
    worst = test.take(order)
    held = validation.take(slice(JUDGING))
    judge = AnomalyJudge(density, held.x, held.context)
    p_values, blamed = judge(worst.x, worst.context)
    chosen = _columns(len(subject.columns), blamed.tolist())
    head = ["rank", "column to blame", "log p (nats)", "p\u2011value", *(subject.columns[index] for index in chosen)]
    head += [f"given {name}" for name in subject.context_columns]
    shown = subject.written(worst)
    lines = []
    for place, (score, p_value, blame) in enumerate(
        zip(scores[order].tolist(), p_values, blamed.tolist(), strict=True)
    ):
        name = subject.columns[blame] if blame >= 0 else "–"
        cells = [
            Markup("<strong>{}</strong>").format(shown[place][index]) if index == blame else shown[place][index]
            for index in chosen
        ]
        cells += shown[place][len(subject.columns) :]
        lines.append((str(place + 1), name, number(score, ".2f"), number(p_value, ".3g"), *cells))
    said = (
        f"Of {len(test):,} test rows. The p-value is the share of rows at most as likely, among {len(held)} validation "
        "rows and this one; the column to blame is the one whose value, given the others of its row, is the most nats "
        "below what is usual."
    )
    left_out = len(subject.columns) - len(chosen)
    more = paragraph(f"{left_out} further columns are not shown.") if left_out else Markup("")
    words = {
        place for place, index in enumerate(chosen, 4) if subject.columns[index] in (*subject.levels, *subject.formats)
    }
    worst_rows = table(f"The {len(lines)} least likely test rows", head, lines, texts=2, also_texts=words)
    return join((paragraph(said), worst_rows, more))


def _columns(count: int, blamed: list[int]) -> list[int]:
    """The columns that are shown: all, or of many those that are blamed, and the first of the others."""
    often = Counter(index for index in blamed if index >= 0)
    return [*dict.fromkeys([*(index for index, _ in often.most_common()), *range(count)])][:COLUMNS]
