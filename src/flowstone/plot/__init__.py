"""Pictures: functions ``(data, ax) -> ax`` that draw one thing, and figures put together from them."""

from flowstone.plot.animation import ANIMATIONS, animate_layers
from flowstone.plot.calibration import calibration_figure, coverage_curve, rank_histogram
from flowstone.plot.columns import ColumnScale, column_figure, compare_column
from flowstone.plot.conditional import conditional_figure
from flowstone.plot.directions import direction_colors
from flowstone.plot.drawings import arguments_of, drawings
from flowstone.plot.figures import DATA, SAMPLES, loss_curve, new_figure, png_of, save_figure
from flowstone.plot.images import (
    image_figure,
    interpolation_figure,
    label_figure,
    likelihood_figure,
    mosaic,
    nearest_figure,
    reconstruction_figure,
    save_mosaic,
    scale_figure,
    temperature_figure,
)
from flowstone.plot.latents import latent_figure
from flowstone.plot.live import Live
from flowstone.plot.pairs import most_dependent, pair_plot
from flowstone.plot.save import save_plots
from flowstone.plot.training_figure import live_figure
from flowstone.plot.vectors import (
    data_latent_samples,
    density,
    density_curve,
    layers,
    limits_of,
    points,
    sample_figure,
)

__all__ = [
    "ANIMATIONS",
    "DATA",
    "SAMPLES",
    "ColumnScale",
    "Live",
    "animate_layers",
    "arguments_of",
    "calibration_figure",
    "column_figure",
    "compare_column",
    "conditional_figure",
    "coverage_curve",
    "data_latent_samples",
    "density",
    "density_curve",
    "direction_colors",
    "drawings",
    "image_figure",
    "interpolation_figure",
    "label_figure",
    "latent_figure",
    "layers",
    "likelihood_figure",
    "limits_of",
    "live_figure",
    "loss_curve",
    "mosaic",
    "most_dependent",
    "nearest_figure",
    "new_figure",
    "pair_plot",
    "png_of",
    "points",
    "rank_histogram",
    "reconstruction_figure",
    "sample_figure",
    "save_figure",
    "save_mosaic",
    "save_plots",
    "scale_figure",
    "temperature_figure",
]
