"""Pictures: functions ``(data, ax) -> ax`` that draw one thing, and figures put together from them."""

from flowstone.plot.calibration import calibration_figure, coverage_curve, rank_histogram
from flowstone.plot.figures import DATA, SAMPLES, loss_curve, new_figure, png_of, save_figure
from flowstone.plot.images import (
    image_figure,
    interpolation_figure,
    likelihood_figure,
    mosaic,
    nearest_figure,
    reconstruction_figure,
    save_mosaic,
    scale_figure,
    temperature_figure,
)
from flowstone.plot.live import Live, live_figure
from flowstone.plot.save import save_plots
from flowstone.plot.vectors import (
    data_latent_samples,
    density,
    density_curve,
    layers,
    limits_of,
    marginal,
    pair_plot,
    points,
    sample_figure,
)

__all__ = [
    "DATA",
    "SAMPLES",
    "Live",
    "calibration_figure",
    "coverage_curve",
    "data_latent_samples",
    "density",
    "density_curve",
    "image_figure",
    "interpolation_figure",
    "layers",
    "likelihood_figure",
    "limits_of",
    "live_figure",
    "loss_curve",
    "marginal",
    "mosaic",
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
