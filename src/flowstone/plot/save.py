"""All pictures that suit a density, written into a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flowstone.density import Density
from flowstone.plot.drawings import drawings
from flowstone.plot.figures import save_figure
from flowstone.train.history import History

__all__ = ["save_plots"]


def save_plots(
    model: Density, x: Tensor, columns: Sequence[str], history: History, folder: Path, **options: Any
) -> list[Path]:
    """Write all pictures that suit the density ``model`` into ``folder``; arguments are those of ``drawings``."""
    written = []
    for name, draw in drawings(model, x, columns, history, **options).items():
        if (figure := draw()) is not None:
            written.append(save_figure(figure, folder / f"{name}.png"))
    return written
