"""The choice among candidates by the likelihood of rows that they have not seen."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowstone.density import Density
from flowstone.errors import FlowstoneError
from flowstone.estimators.candidates import Candidate
from flowstone.evaluation import log_prob
from flowstone.train.history import History

__all__ = ["Judgement", "choose"]

FOLDS, FEW, SOME = 5, 300, 2000  # cross-validation by 5 folds below 300 rows, by 3 below 2000; then a fifth is held out
HELD_OUT, MOST_HELD_OUT = 5, 10_000


@dataclass(frozen=True)
class Judgement:
    """What a candidate was worth on held-out rows.

    Attributes:
        name: of the candidate.
        log_likelihood: mean over these rows, in nats. stderr: of that mean.
        seconds: that its fits took.
        problem: why it could not be judged, if it could not.
    """

    name: str
    log_likelihood: float
    stderr: float
    seconds: float
    problem: str | None = None


def choose(
    candidates: Sequence[Candidate],
    x: Tensor,
    *,
    seed: int,
    minutes: float | None,
    say: Callable[[str], None],
) -> tuple[Density, History | None, list[Judgement]]:
    """Judge all candidates, then fit the best one to all rows.

    Args:
        x: rows in random order.
        minutes: that all fits of nets may take together.
        say: is told of each judgement.
    """
    splits = _splits(len(x))
    fits = sum(candidate.trained for candidate in candidates) * len(splits) + 1
    share = None if minutes is None else minutes / fits
    judged: list[Judgement] = []
    best: dict[str, float] = {}
    ended: set[str | None] = set()
    for candidate in candidates if len(candidates) > 1 else []:
        if candidate.family in ended:
            continue
        found = _judge(candidate, x, splits, seed, share)
        judged.append(found)
        say(f"{found.name}: {found.problem or f'{found.log_likelihood:.4f} ± {found.stderr:.4f} nats held out'}")
        if candidate.family is not None:
            if found.log_likelihood <= best.get(candidate.family, -math.inf):
                ended.add(candidate.family)
            best[candidate.family] = found.log_likelihood
    likelihoods = {each.name: each.log_likelihood for each in judged}
    ranked = sorted(candidates, key=lambda each: -likelihoods.get(each.name, -math.inf))
    for candidate in ranked:
        try:
            density, history = candidate.fit(x, seed, share)
        except (FlowstoneError, ValueError, np.linalg.LinAlgError):
            if candidate is ranked[-1]:
                raise
            continue
        say(f"chosen: {candidate.name}")
        return density, history, judged
    raise AssertionError("there is at least one candidate")


def _splits(rows: int) -> list[tuple[Tensor, Tensor]]:
    """Rows to learn from and rows to judge by: of few rows several times, so that each judges once."""
    index = torch.arange(rows)
    if rows >= SOME:
        held_out = min(MOST_HELD_OUT, rows // HELD_OUT)
        return [(index[held_out:], index[:held_out])]
    folds = min(rows, FOLDS if rows < FEW else 3)
    return [(index[index % folds != fold], index[index % folds == fold]) for fold in range(folds)]


def _judge(
    candidate: Candidate, x: Tensor, splits: Sequence[tuple[Tensor, Tensor]], seed: int, minutes: float | None
) -> Judgement:
    started, found = time.perf_counter(), []
    try:
        for learned, held_out in splits:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of models that are not chosen
                density, _ = candidate.fit(x[learned], seed, minutes)
                found.append(log_prob(density, x[held_out].to(density.dtype)).double())
    except (FlowstoneError, ValueError, np.linalg.LinAlgError) as error:
        return Judgement(candidate.name, -math.inf, math.nan, time.perf_counter() - started, str(error))
    values = torch.cat(found)
    mean, error = values.mean().item(), values.std().item() / math.sqrt(len(values))
    problem = None if math.isfinite(mean) else f"{int((~values.isfinite()).sum())} held-out rows are impossible"
    return Judgement(
        candidate.name, mean if problem is None else -math.inf, error, time.perf_counter() - started, problem
    )
