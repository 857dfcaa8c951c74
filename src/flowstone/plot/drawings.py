"""The pictures that suit a density, by name, each drawn when it is called for."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.data import Dataset, Rows
from flowstone.density import Density
from flowstone.evaluation.calibration import calibration
from flowstone.evaluation.samples import sample_rows
from flowstone.flow import Flow
from flowstone.mixed import MixedDensity
from flowstone.plot.calibration import calibration_figure
from flowstone.plot.columns import column_figure
from flowstone.plot.conditional import conditional_figure
from flowstone.plot.figures import loss_curve, new_figure
from flowstone.plot.images import (
    image_figure,
    interpolation_figure,
    label_figure,
    likelihood_figure,
    nearest_figure,
    reconstruction_figure,
    scale_figure,
    temperature_figure,
)
from flowstone.plot.pairs import most_dependent, pair_plot
from flowstone.plot.texts import name_axis
from flowstone.plot.vectors import SHOWN, data_latent_samples, density, density_curve, layers, limits_of
from flowstone.train.history import History

__all__ = ["arguments_of", "drawings"]

Drawing = Callable[[], Figure | None]

# Numbers of images: in a sheet, in pictures of few rows, with their nearest neighbours, compared by likelihood.
SHEET, FEW, WITH_NEAREST, SCORED = 64, 16, 8, 1000
ROWS = 5000  # of mixed columns
RANKED, DRAWS = 2000, 40  # rows that are ranked among draws, and draws for each of them


def arguments_of(dataset: Dataset) -> dict[str, Any]:
    """The arguments of ``drawings`` that a data set gives."""
    rows = dataset.rows_to_show
    return {
        "x": rows.x,
        "context": rows.context,
        "columns": dataset.columns,
        "context_columns": dataset.context_columns,
        "test": dataset.test.x,
        "test_context": dataset.test.context,
        "entropy": dataset.entropy,
        "levels": dataset.levels,
        "formats": dataset.formats,
        "shown": dataset.without_noise,
    }


def drawings(
    model: Density,
    x: Tensor,
    columns: Sequence[str],
    history: History,
    *,
    context: Tensor | None = None,
    test: Tensor | None = None,
    test_context: Tensor | None = None,
    entropy: float | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    formats: Mapping[str, Callable[[float], str]] | None = None,
    context_columns: Sequence[str] = (),
    shown: Callable[[Tensor], Tensor] = lambda rows: rows,
    seed: int = 0,
) -> dict[str, Drawing]:
    """Functions that draw the pictures which suit the density ``model``, by name; one may return None for no picture.

    The loss curve is always drawn. For one column without context: its density; for two: data, latent and samples, the
    density, the layers; otherwise the pair plot. Given a context, the pair plot shows it, too, and of one or two
    columns there is their density as it changes. For mixed columns: each column beside that of samples, and pairs. For
    images: samples beside data and beside the training images nearest to them, temperatures, reconstructions,
    interpolations, scales, samples of each label, and the most and least likely of ``test``. Pictures of latents and
    layers need a Flow. Of rows of columns, where ``test`` is given, also their calibration.

    Args:
        x, context: rows of data.
        test, test_context: rows that were not learned.
        entropy: of the data, where it is known.
        levels: of categorical columns, the names of their values 0, 1, …
        formats: of columns such as dates, how their numbers are written.
        context_columns: names of the columns of the context.
        shown: a function from rows to what is shown of them, such as the rows without their noise.
        seed: of samples.
    """
    found: dict[str, Drawing] = {}
    if len(history):
        found["loss"] = partial(_loss, history, entropy)
    given = None if context is None else context.to(model.device)
    if len(model.event_shape) == 3:
        found |= _of_images(model, x, given, seed)
        if context_columns and given is not None:
            labels = [name.partition("=")[2] for name in context_columns]
            found["labels"] = partial(label_figure, model, labels, seed=seed)
        if test is not None and len(test) >= 2 and isinstance(model, Flow):
            scored = Rows(test, test_context).some(SCORED)
            found["likely"] = partial(likelihood_figure, model, scored.x, context=scored.context)
    elif isinstance(model, MixedDensity):
        found |= _of_mixed(model, x[:ROWS], columns, levels, formats, seed)
    elif given is not None:
        names = list(context_columns) or [f"c{index + 1}" for index in range(given.shape[1])]
        found |= _given_context(model, x.to(model.device, model.data_dtype), given, columns, names, shown, seed)
    else:
        found |= _of_vectors(model, x.to(model.device, model.data_dtype), columns, shown, seed)
    if test is not None and len(model.event_shape) == 1 and len(test):
        rows, of_rows = test[:RANKED], None if test_context is None else test_context[:RANKED]
        found["calibration"] = lambda: calibration_figure(
            calibration(model, rows, of_rows, draws=DRAWS, seed=seed), columns
        )
    return found


def _loss(history: History, entropy: float | None) -> Figure:
    figure, axes = new_figure(1, 1, (5.4, 4.0))
    loss_curve(history, axes[0, 0], entropy=entropy)
    return figure


def _of_images(model: Density, x: Tensor, context: Tensor | None, seed: int) -> dict[str, Drawing]:
    few, row = x[:SHEET].to(model.device), slice(0, FEW)
    given = None if context is None else context[:SHEET]
    drawn = sample_rows(model, len(few), given, seed=seed)
    first = None if given is None else given[row]
    found: dict[str, Drawing] = {
        "samples": partial(image_figure, few, drawn),
        "nearest": partial(nearest_figure, drawn[:WITH_NEAREST], x),
    }
    if isinstance(model, Flow):
        found["temperatures"] = partial(temperature_figure, model, len(few), context=given, seed=seed)
        found["reconstructions"] = partial(reconstruction_figure, model, few[row], context=first)
        if len(few) >= 4:
            found["interpolation"] = partial(interpolation_figure, model, few, context=given)
        found["scales"] = partial(scale_figure, model, few[row], context=first, seed=seed)
    return found


def _of_mixed(
    model: MixedDensity,
    x: Tensor,
    columns: Sequence[str],
    levels: Mapping[str, Sequence[str]] | None,
    formats: Mapping[str, Callable[[float], str]] | None,
    seed: int,
) -> dict[str, Drawing]:
    drawn = sample_rows(model, len(x), seed=seed)
    found: dict[str, Drawing] = {"columns": partial(column_figure, x, drawn, columns, levels, formats)}
    if len(columns) > 1:
        found["pairs"] = partial(_pairs, x, drawn, columns, levels=levels, formats=formats)
    return found


def _given_context(
    model: Density,
    x: Tensor,
    context: Tensor,
    columns: Sequence[str],
    context_columns: Sequence[str],
    shown: Callable[[Tensor], Tensor],
    seed: int,
) -> dict[str, Drawing]:
    rows, given = x[:SHOWN], context[:SHOWN]
    drawn = sample_rows(model, len(given), given, seed=seed)
    found: dict[str, Drawing] = {}
    if len(columns) <= 2:
        found["conditional"] = partial(conditional_figure, model, rows, given, columns, context_columns)
    both = [torch.cat((shown(part).cpu(), given.cpu()), 1) for part in (rows, drawn)]
    found["pairs"] = partial(_pairs, *both, [*columns, *(f"given {name}" for name in context_columns)])
    return found


def _of_vectors(
    model: Density, x: Tensor, columns: Sequence[str], shown: Callable[[Tensor], Tensor], seed: int
) -> dict[str, Drawing]:
    if len(columns) == 1:
        return {"density": partial(_curve, model, x, columns[0])}
    if len(columns) > 2:
        rows = x[:SHOWN]
        return {"pairs": lambda: _pairs(shown(rows), shown(model.sample(len(rows), seed=seed)), columns)}
    found: dict[str, Drawing] = {"density": partial(_plane, model, x, columns, seed)}
    if isinstance(model, Flow):
        found["data-latent-samples"] = partial(data_latent_samples, model, x, columns=columns, seed=seed)
        found["layers"] = partial(layers, model, x, seed=seed)
    return found


def _curve(model: Density, x: Tensor, column: str) -> Figure:
    figure, axes = new_figure(1, 1, (5.4, 3.6))
    density_curve(model, axes[0, 0], x, column=column)
    return figure


def _plane(model: Density, x: Tensor, columns: Sequence[str], seed: int) -> Figure:
    figure, axes = new_figure(1, 1, (5.4, 4.5))
    density(model, axes[0, 0], limits=limits_of(x), samples=model.sample(400, seed=seed))
    name_axis(axes[0, 0].xaxis, columns[0])
    name_axis(axes[0, 0].yaxis, columns[1])
    return figure


def _pairs(x: Tensor, drawn: Tensor, columns: Sequence[str], **options: Any) -> Figure:
    """Pairs of the columns that depend most on each other."""
    chosen = most_dependent(x)
    note = f" (of {len(columns)} columns those that depend most)" if len(chosen) < len(columns) else ""
    return pair_plot(x[:, chosen], drawn[:, chosen], [columns[index] for index in chosen], note=note, **options)
