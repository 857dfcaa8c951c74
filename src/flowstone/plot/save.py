"""All pictures that suit a flow, written into a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.data import Dataset
from flowstone.density import Density
from flowstone.evaluation.calibration import calibration
from flowstone.flow import Flow
from flowstone.mixed import MixedDensity
from flowstone.plot.calibration import calibration_figure
from flowstone.plot.columns import column_figure
from flowstone.plot.conditional import conditional_figure
from flowstone.plot.figures import loss_curve, new_figure, save_figure
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
from flowstone.plot.pairs import pair_plot
from flowstone.plot.vectors import SHOWN, data_latent_samples, density, density_curve, layers, limits_of
from flowstone.train.history import History

__all__ = ["arguments_of", "draw_all", "save_plots"]

# Numbers of images: in a sheet, in pictures of few rows, with their nearest neighbours, compared by likelihood.
SHEET, FEW, WITH_NEAREST, SCORED = 64, 16, 10, 1000
ROWS = 5000  # of mixed columns
PAIRED_WITH_CONTEXT = 4  # columns beside those of a context
RANKED, DRAWS = 2000, 40  # rows in the picture of calibration, and draws for each of them


def arguments_of(dataset: Dataset) -> dict[str, Any]:
    """The arguments of ``draw_all`` that a data set gives."""
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


def save_plots(
    model: Density, x: Tensor, columns: Sequence[str], history: History, folder: Path, **options: Any
) -> list[Path]:
    """Write all pictures that suit a density into ``folder``; arguments are those of ``draw_all``."""
    figures = draw_all(model, x, columns, history, **options)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_all(
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
) -> dict[str, Figure]:
    """All pictures that suit the density ``model``, by name.

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
        shown: what is shown of rows, such as those without their noise.
        seed: of samples.
    """
    figures: dict[str, Figure | None] = {}
    if len(history):
        figures["loss"], axes = new_figure(1, 1, (6.4, 4.2))
        loss_curve(history, axes[0, 0], entropy=entropy)
    given = None if context is None else context.to(model.device)
    if len(model.event_shape) == 3:
        figures |= _of_images(model, x, given, seed)
        if context_columns and given is not None:
            figures["labels"] = label_figure(model, [name.partition("=")[2] for name in context_columns], seed=seed)
        if test is not None and len(test) >= 2 and isinstance(model, Flow):
            few = None if test_context is None else test_context[:SCORED]
            figures["likely"] = likelihood_figure(model, test[:SCORED], context=few)
    elif isinstance(model, MixedDensity):
        rows = x[:ROWS]
        drawn = model.sample(len(rows), seed=seed, gaps=True)
        figures["columns"] = column_figure(rows, drawn, columns, levels, formats)
        if len(columns) > 1:
            figures["pairs"] = pair_plot(rows, drawn, columns, levels=levels, formats=formats)
    else:
        given_names = list(context_columns) or [f"c{index + 1}" for index in range(model.context_features)]
        figures |= _of_vectors(model, x.to(model.device, model.dtype), given, columns, given_names, shown, seed)
    if test is not None and len(model.event_shape) == 1 and len(test):
        rows, of_rows = test[:RANKED], None if test_context is None else test_context[:RANKED]
        figures["calibration"] = calibration_figure(calibration(model, rows, of_rows, draws=DRAWS, seed=seed), columns)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _of_images(model: Density, x: Tensor, context: Tensor | None, seed: int) -> dict[str, Figure | None]:
    few, row = x[:SHEET].to(model.device), slice(0, FEW)
    given = None if context is None else context[:SHEET]
    drawn = model.sample(len(few), seed=seed) if given is None else model.sample(1, given, seed=seed)[0]
    first = None if given is None else given[row]
    if not isinstance(model, Flow):
        return {"samples": image_figure(few, drawn), "nearest": nearest_figure(drawn[:WITH_NEAREST], x)}
    return {
        "samples": image_figure(few, drawn),
        "temperatures": temperature_figure(model, len(few), context=given, seed=seed),
        "nearest": nearest_figure(drawn[:WITH_NEAREST], x),
        "reconstructions": reconstruction_figure(model, few[row], context=first),
        "interpolation": interpolation_figure(model, few, context=given) if len(few) >= 4 else None,
        "scales": scale_figure(model, few[row], context=first, seed=seed),
    }


def _of_vectors(
    model: Density,
    x: Tensor,
    context: Tensor | None,
    columns: Sequence[str],
    context_columns: Sequence[str],
    shown: Callable[[Tensor], Tensor],
    seed: int,
) -> dict[str, Figure | None]:
    figures: dict[str, Figure | None] = {}
    if context is not None:
        rows, given = x[:SHOWN], context[:SHOWN]
        drawn = model.sample(1, given, seed=seed)[0]
        if len(columns) <= 2:
            figures["conditional"] = conditional_figure(model, rows, given, columns, context_columns)
        names = [*columns[:PAIRED_WITH_CONTEXT], *(f"given {name}" for name in context_columns)]
        both = [torch.cat((shown(part).cpu()[:, :PAIRED_WITH_CONTEXT], given.cpu()), 1) for part in (rows, drawn)]
        figures["pairs"] = pair_plot(*both, names)
    elif len(columns) == 2:
        figures["density"], axes = new_figure(1, 1, (6.2, 5.2))
        density(model, axes[0, 0], limits=limits_of(x), samples=model.sample(400, seed=seed))
        axes[0, 0].set(xlabel=columns[0], ylabel=columns[1])
        if isinstance(model, Flow):
            figures["data-latent-samples"] = data_latent_samples(model, x, columns=columns, seed=seed)
            figures["layers"] = layers(model, x, seed=seed)
    elif len(columns) == 1:
        figures["density"], axes = new_figure(1, 1, (6.4, 4.2))
        density_curve(model, axes[0, 0], x, column=columns[0])
    else:
        rows = x[:SHOWN]
        figures["pairs"] = pair_plot(shown(rows), shown(model.sample(len(rows), seed=seed)), columns)
    return figures
