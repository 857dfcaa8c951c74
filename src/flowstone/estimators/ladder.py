"""The choice among candidates by the likelihood of rows that they have not seen."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.errors import DataError, FlowstoneError
from flowstone.estimators.candidates import Candidate
from flowstone.evaluation import log_prob
from flowstone.recipes import build
from flowstone.train.history import History

__all__ = ["Judgement", "choose"]

FOLDS, FEW, SOME = 5, 300, 2000  # cross-validation by 5 folds below 300 rows, by 3 below 2000; then a fifth is held out
HELD_OUT, MOST_HELD_OUT = 5, 10_000
ROUNDS, LEAST_WEIGHT = 200, 0.02  # of the weights of a blend


@dataclass(frozen=True)
class Judgement:
    """What a candidate was worth on held-out rows.

    Attributes:
        name: of the candidate.
        log_likelihood: mean over these rows, in nats.
        stderr: standard error of that mean.
        seconds: how long its fits took.
        problem: why it could not be judged, if it could not.
        weight: its part of the density that was chosen, 0 to 1.
    """

    name: str
    log_likelihood: float
    stderr: float
    seconds: float
    problem: str | None = None
    weight: float = 0.0


def choose(
    candidates: Sequence[Candidate],
    rows: Rows,
    *,
    seed: int,
    minutes: float | None,
    blended: bool,
    say: Callable[[str], None],
) -> tuple[Density, History | None, list[Judgement]]:
    """Judge all candidates, then fit the best one, or a blend of the best ones, to all rows.

    Args:
        rows: in random order.
        minutes: how long all fits of nets may take together.
        blended: whether several may be blended, with the weights that make held-out rows likeliest.
        say: a function that is called with a sentence about each judgement.
    """
    splits = _splits(len(rows))
    fits = sum(len(splits) + candidate.members for candidate in candidates if candidate.trained)
    share = None if minutes is None else minutes / max(1, fits)
    judged, values = _judge_all(candidates, rows, splits, seed, share, say)
    weights = _weights(values, blended=blended) if values else {candidates[0].name: 1.0}
    judged = [replace(judgement, weight=weights.get(judgement.name, 0.0)) for judgement in judged]
    parts: list[tuple[float, Density, History | None]] = []
    for candidate in candidates:
        if candidate.name in weights:
            share_of_one = weights[candidate.name] / candidate.members
            fitted = [_fitted(candidate, rows, seed + member, share) for member in range(candidate.members)]
            parts.extend((share_of_one, *each) for each in fitted)
            say(f"chosen: {candidate.name}, weight {weights[candidate.name]:.2f}")
    parts.sort(key=lambda part: -part[0])
    history = next((history for _, _, history in parts if history is not None), None)
    if len(parts) == 1:
        return parts[0][1], history, judged
    return _blend([part for _, part, _ in parts], [weight for weight, _, _ in parts]), history, judged


def _fitted(candidate: Candidate, rows: Rows, seed: int, minutes: float | None) -> tuple[Density, History | None]:
    try:
        return candidate.fit(rows, seed, minutes)
    except (ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, FlowstoneError):
            raise
        raise DataError(f"{candidate.name} cannot be fitted to these {len(rows)} rows: {error}") from error


def _blend(parts: Sequence[Density], weights: Sequence[float]) -> Density:
    """A blend with a spec from which it can be built again."""
    specs = [dict(part.spec or {}) for part in parts]
    shared = {"features": parts[0].event_shape[0], "context_features": parts[0].context_features}
    made = build("blend", {**shared, "parts": specs, "weights": list(weights)}).double()
    for target, part in zip(made.densities, parts, strict=True):
        target.load_state_dict(part.state_dict())
    return made.to(parts[0].device).eval()


def _judge_all(
    candidates: Sequence[Candidate],
    rows: Rows,
    splits: Sequence[tuple[Tensor, Tensor]],
    seed: int,
    minutes: float | None,
    say: Callable[[str], None],
) -> tuple[list[Judgement], dict[str, Tensor]]:
    """Judgements, and the log-likelihood of each held-out row under each candidate that could be judged."""
    judged: list[Judgement] = []
    values: dict[str, Tensor] = {}
    best: dict[str, float] = {}
    ended: set[str | None] = set()
    for candidate in candidates if len(candidates) > 1 else []:
        if candidate.family in ended:
            continue
        found, likelihoods = _judge(candidate, rows, splits, seed, minutes)
        judged.append(found)
        if likelihoods is not None:
            values[candidate.name] = likelihoods
        say(f"{found.name}: {found.problem or f'{found.log_likelihood:.4f} ± {found.stderr:.4f} nats held out'}")
        if candidate.family is not None:
            if found.log_likelihood <= best.get(candidate.family, -math.inf):
                ended.add(candidate.family)
            best[candidate.family] = found.log_likelihood
    if judged and not values:
        raise DataError(f"no model can be fitted to these rows: {judged[0].name}: {judged[0].problem}")
    return judged, values


def _weights(values: Mapping[str, Tensor], *, blended: bool) -> dict[str, float]:
    """The weights of the blend that makes the held-out rows likeliest, by expectation-maximization, without those that
    are next to nothing; without a blend the best model has all.
    """
    names, table = list(values), torch.stack(list(values.values()), 1)
    best = int(table.mean(0).argmax())
    if not blended:
        return {names[best]: 1.0}
    weights = torch.full((len(names),), 1 / len(names), dtype=torch.float64)
    for _ in range(ROUNDS):
        weights = (table + weights.log()).softmax(1).mean(0)
    kept = weights >= max(LEAST_WEIGHT, weights.max().item() / 1000)
    return {
        name: share
        for name, share, keep in zip(names, (weights / weights[kept].sum()).tolist(), kept, strict=True)
        if keep
    }


def _splits(rows: int) -> list[tuple[Tensor, Tensor]]:
    """Rows to learn from and rows to judge by; few rows are split several times, so that each row judges once."""
    index = torch.arange(rows)
    if rows >= SOME:
        held_out = min(MOST_HELD_OUT, rows // HELD_OUT)
        return [(index[held_out:], index[:held_out])]
    folds = min(rows, FOLDS if rows < FEW else 3)
    return [(index[index % folds != fold], index[index % folds == fold]) for fold in range(folds)]


def _judge(
    candidate: Candidate, rows: Rows, splits: Sequence[tuple[Tensor, Tensor]], seed: int, minutes: float | None
) -> tuple[Judgement, Tensor | None]:
    started, found = time.perf_counter(), []
    try:
        for learned, held_out in splits:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # which may be about models that are not chosen
                density, _ = candidate.fit(rows.take(learned), seed, minutes)
                judges = rows.take(held_out)
                found.append(log_prob(density, judges.x.to(density.data_dtype), judges.context).double())
    except (FlowstoneError, ValueError, np.linalg.LinAlgError) as error:
        return Judgement(candidate.name, -math.inf, math.nan, time.perf_counter() - started, str(error)), None
    values, seconds = torch.cat(found), time.perf_counter() - started
    mean, error = values.mean().item(), values.std().item() / math.sqrt(len(values))
    if math.isfinite(mean):
        return Judgement(candidate.name, mean, error, seconds), values
    problem = f"{int((~values.isfinite()).sum())} held-out rows are impossible"
    return Judgement(candidate.name, -math.inf, error, seconds, problem), None
