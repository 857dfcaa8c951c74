"""``--flow auto``: the recipe of a table, chosen by the likelihood of held-out rows."""

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flowstone.data import Dataset, Rows
from flowstone.density import Density
from flowstone.errors import NonFiniteError, SettingError
from flowstone.evaluation.metrics import log_prob
from flowstone.recipes import DEFAULT, IMAGE_DEFAULT, MIXED_DEFAULT, build
from flowstone.train import Settings, fit
from flowstone.train.interrupt import EXIT_STATUS
from flowstone.train.processes import Processes

__all__ = ["AUTO", "choose", "comparable", "default_recipe", "said"]

AUTO = "auto"
FLOWS = ("gaussian_mixture", "spline")
SHARE = 4  # each candidate has a quarter of the training's steps and minutes
LINES = ("real", "positive", "interval")  # for these rests mixed learns densities, as flows do, and not probabilities


def default_recipe(dataset: Dataset) -> str:
    """The recipe that measures best on data of this kind."""
    return IMAGE_DEFAULT if dataset.images else MIXED_DEFAULT if dataset.mixed else DEFAULT


def comparable(dataset: Dataset) -> tuple[str, ...]:
    """The recipes whose likelihoods of these rows compare.

    For columns of several kinds that is ``mixed`` alone. For numbers these are flows, and ``mixed`` too where it learns
    densities of all columns and no noise is added. There is none where the data have a context or are no table.
    """
    if not isinstance(dataset.train, Rows) or dataset.kinds is None or dataset.context_columns:
        return ()
    if dataset.mixed:
        return (MIXED_DEFAULT,)
    heads = dataset.kinds.select(dataset.columns).heads()
    lines = all(head["rest"] in LINES and not head["atoms"] for head in heads)
    return (*FLOWS, MIXED_DEFAULT) if lines and not dataset.description.get("noise") else FLOWS


def choose(
    dataset: Dataset,
    request: Mapping[str, Any],
    settings_for: Callable[[Density], Settings],
    *,
    device: str,
    progress: bool,
) -> tuple[str, list[dict[str, Any]]]:
    """The comparable recipe under which the validation rows are likeliest, and what each of them was worth:
    ``{"recipe", "nats", "stderr"}``; an empty list where one recipe alone is comparable.

    Args:
        settings_for: gives the settings of the whole training of a density.

    Raises:
        SettingError: the data is no table or has a context; arguments of a recipe are given, though none is named;
            several processes train; or no recipe can be trained.
    """
    names = comparable(dataset)
    if not names:
        raise SettingError(f"--flow {AUTO} chooses for a table without a context; leave --flow out, or name a recipe")
    if request["set"]:
        raise SettingError(f"--set gives arguments to a recipe, and --flow {AUTO} leaves open to which one: name it")
    if Processes().size > 1:
        raise SettingError(f"--flow {AUTO} chooses in one process: choose first, then train what it names in several")
    if len(names) == 1:
        return names[0], []
    seed = request["training"].get("seed", Settings.seed)
    choice = [_tried(name, dataset, settings_for, seed=seed, device=device, progress=progress) for name in names]
    best = max(choice, key=lambda each: each["nats"])
    if not math.isfinite(best["nats"]):
        raise SettingError(f"--flow {AUTO}: none of {', '.join(names)} can be trained on these rows; see columns TABLE")
    return best["recipe"], choice


def said(choice: Sequence[Mapping[str, Any]]) -> str:
    """The choice in words; a recipe whose training diverged has no likelihood."""
    each = [
        f"{one['recipe']} diverged"
        if one["stderr"] is None or math.isnan(one["stderr"])
        else f"{one['recipe']} {one['nats']:.4f} ± {one['stderr']:.4f}"
        for one in choice
    ]
    return f"chosen by held-out likelihood, nats a row: {', '.join(each)}"


def _tried(
    recipe: str,
    dataset: Dataset,
    settings_for: Callable[[Density], Settings],
    *,
    seed: int,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """The mean log-likelihood of the validation rows, and its standard error, after a quarter of the training."""
    assert isinstance(dataset.train, Rows)
    assert dataset.kinds is not None
    arguments: dict[str, Any] = {"features": len(dataset.columns)}
    if recipe == MIXED_DEFAULT:
        arguments["columns"] = dataset.kinds.select(dataset.columns).heads()
    torch.manual_seed(seed)
    density = build(recipe, arguments).to(device)
    train, held_out = dataset.train.x, dataset.validation.x
    settings = settings_for(density).for_data(dataset.event_shape, len(train), density.training_settings(len(train)))
    shorter = replace(
        settings,
        steps=None if settings.steps is None else math.ceil(settings.steps / SHARE),
        minutes=None if settings.minutes is None else settings.minutes / SHARE,
    )
    if progress:
        print(f"--flow {AUTO} tries {recipe}", file=sys.stderr)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "validation has not moved")  # the likelihoods show it
            history = fit(density, train, validation=held_out, settings=shorter, progress=progress)
    except NonFiniteError:
        return {"recipe": recipe, "nats": -math.inf, "stderr": math.nan}
    if history.stopped in EXIT_STATUS:
        print(f"flowstone: {history.stopped} before a recipe was chosen; nothing is written", file=sys.stderr)
        sys.exit(EXIT_STATUS[history.stopped])
    terms = log_prob(density.eval(), held_out.to(density.data_dtype)).double()
    mean, error = terms.mean().item(), terms.std().item() / math.sqrt(len(terms))
    return {"recipe": recipe, "nats": mean if math.isfinite(mean) else -math.inf, "stderr": error}
