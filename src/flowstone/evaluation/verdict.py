"""Is this model good enough? One sentence about a density of a table, and the figures behind it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowstone.density import Density
from flowstone.evaluation.calibration import Calibration, calibration
from flowstone.evaluation.samples import sample_rows
from flowstone.evaluation.two_sample import classifier_two_sample_test

__all__ = ["DRAWS", "Verdict", "best_baseline", "lead_in_words", "rows_to_judge", "verdict"]

MOST_ROWS = 5000  # that are compared
FEWEST_ROWS = 100  # below which a classifier learns nothing
GOOD, USABLE = 0.55, 0.65  # up to these AUC samples are close to data, or near to it
LEVELS = (0.5, 0.9)
DRAWS = 100  # of which held-out rows have their ranks


@dataclass(frozen=True)
class Verdict:
    """What a density is worth.

    Attributes:
        word: ``good``, ``usable``, ``poor``, ``no better than NAME`` or ``unsure``.
        sentence: the word and its reasons in one line.
        auc, auc_stderr: how well a classifier tells samples from held-out rows (0.5: not at all); None: too few rows.
        coverage: by probability, the share of held-out rows inside the region of highest density that has it; empty
            where all rows have gaps.
        miscalibrated: columns whose ranks among samples are not even (p < 0.01 over all columns).
    """

    word: str
    sentence: str
    auc: float | None
    auc_stderr: float | None
    coverage: Mapping[float, float]
    miscalibrated: tuple[str, ...]


@torch.no_grad()
def verdict(
    density: Density,
    x: Tensor,
    context: Tensor | None = None,
    *,
    nll: float,
    baselines: Mapping[str, float | None] | None = None,
    lead_errors: Mapping[str, float | None] | None = None,
    names: Sequence[str] = (),
    ranked: Calibration | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a density of rows of columns by held-out rows: its likelihood beside that of simple models, a classifier
    between samples and rows, coverage, and the ranks of each column's values among samples.

    Args:
        x, context: held-out rows.
        nll: their mean negative log-likelihood, in nats.
        baselines: the mean negative log-likelihood of simple models, by name; those that are not finite, or None as in
            JSON, are left out.
        lead_errors: the standard errors of their differences to that of the density, by name.
        names: the names of the columns.
        ranked: the calibration of ``rows_to_judge`` by ``DRAWS`` draws, where it is known already.
    """
    x, context = rows_to_judge(x, context, seed)
    drawn = sample_rows(density, len(x), context, seed=seed).double()
    given = () if context is None else (context.double(),)
    auc = error = None
    if len(x) >= FEWEST_ROWS:
        real, other = (torch.cat((rows, *given), 1).numpy() for rows in (x.double(), drawn))
        found = classifier_two_sample_test(real, other, seed=seed)
        auc, error = found.auc, found.stderr
    ranked = ranked or calibration(density, x, context, draws=DRAWS, seed=seed)
    shares = {level: ranked.coverage(level)[0] for level in LEVELS}
    coverage = {level: share for level, share in shares.items() if not math.isnan(share)}
    names = list(names) or [f"x{index + 1}" for index in range(x.shape[1])]
    limit = 0.01 / len(names)
    wrong = tuple(name for name, p in zip(names, ranked.p_values().tolist(), strict=True) if p < limit)
    best = best_baseline(baselines or {}) if math.isfinite(nll) else None
    ahead = math.inf if best is None else best[1] - nll
    word = _word(auc, error, None if best is None or ahead > 0 else f"no better than {best[0]}")
    lead = None if best is None else lead_in_words(ahead, (lead_errors or {}).get(best[0]), best[0])
    return Verdict(word, f"{word}: {_reasons(auc, error, lead, coverage, wrong)}", auc, error, coverage, wrong)


def best_baseline(baselines: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The name and the figure of the simple model with the lowest one that is finite; None where there is none."""
    finite = {name: nll for name, nll in baselines.items() if nll is not None and math.isfinite(nll)}
    return min(finite.items(), key=lambda item: item[1], default=None)


def lead_in_words(ahead: float, error: float | None, name: str) -> str:
    """How far a density is ahead of a simple model, in nats a row, with the standard error where it is known.

    >>> lead_in_words(0.25, 0.1, "Gaussian"), lead_in_words(-0.001, None, "Gaussian")
    ('0.25 ± 0.10 nats a row better than Gaussian', 'within 0.01 nats a row of Gaussian')
    """
    spread = "" if error is None or not math.isfinite(error) else f" ± {error:.2f}"
    if abs(ahead) < 0.005 and spread in ("", " ± 0.00"):
        return f"within 0.01 nats a row of {name}"
    return f"{abs(ahead):.2f}{spread} nats a row {'better' if ahead > 0 else 'worse'} than {name}"


def rows_to_judge(x: Tensor, context: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """``MOST_ROWS`` of the rows at random, for tables may be sorted."""
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:MOST_ROWS].sort().values
    return x.cpu()[chosen], None if context is None else context.cpu()[chosen]


def _word(auc: float | None, error: float | None, no_better: str | None) -> str:
    if no_better is not None:
        return no_better
    if auc is None or error is None:
        return "unsure"
    least = auc - 2 * error  # what the rows show at least
    return "good" if least <= GOOD else "usable" if least <= USABLE else "poor"


def _reasons(
    auc: float | None,
    error: float | None,
    lead: str | None,
    coverage: Mapping[float, float],
    wrong: tuple[str, ...],
) -> str:
    parts = []
    if auc is None:
        parts.append(f"fewer than {FEWEST_ROWS} held-out rows")
    else:
        parts.append(
            f"a classifier tells samples from held-out rows with AUC {auc:.3f} ± {error:.3f} (0.5: not at all)"
        )
    if lead is not None:
        parts.append(lead)
    held = [f"{100 * level:.0f}% regions hold {100 * share:.1f}%" for level, share in coverage.items()]
    if held:
        parts.append(" and ".join(held) + " of the rows")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        parts.append(f"the ranks of {', '.join(wrong[:3])}{more} among samples are not even (p < 0.01)")
    return "; ".join(parts)
