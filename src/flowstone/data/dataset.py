"""Dataset: data read, checked and split, ready to learn from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowstone.data.rows import Rows

if TYPE_CHECKING:
    from flowstone.data.tables import Columns

__all__ = ["FEW", "Dataset"]

MANY, MANY_IMAGES = 1_000_000, 20_000  # rows, images
FEW = 24  # different values of a column that are shown one by one


@dataclass(frozen=True)
class Dataset:
    """Data ready to learn from.

    Attributes:
        columns, context_columns: names of the features of x, and of the context. The pixels of images have none; the
            context of images is one-hot, with a column for each class: ``label=cat``.
        train: rows, or a function ``(n, generator)`` that draws fresh ones. Images are uint8, ``(n, C, H, W)``.
        validation, test: held-out rows; the test part is to be used once, at the end.
        description: how to open the same data again, for ``flow.json``.
        entropy: entropy in nats, where it is known: no model has a lower expected NLL.
        kinds: for a table, the kinds of its columns, also of those that are left out.
    """

    columns: tuple[str, ...]
    context_columns: tuple[str, ...]
    train: Rows | Callable[[int, torch.Generator], Tensor]
    validation: Rows
    test: Rows
    description: Mapping[str, Any]
    entropy: float | None = None
    kinds: "Columns | None" = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x: ``(features,)``, of images ``(channels, height, width)``."""
        return tuple(self.validation.x.shape[1:])

    @property
    def images(self) -> bool:
        """Whether these are images."""
        return self.description.get("kind") == "images"

    @property
    def mixed(self) -> bool:
        """Whether rows are encoded by the kinds of a table's columns, and may have gaps."""
        return bool(self.description.get("mixed"))

    @property
    def levels(self) -> dict[str, list[str]]:
        """Names of the levels 0, 1, … of categorical columns, and of those of truth values."""
        from flowstone.data.tables.kinds import Boolean

        kinds = () if self.kinds is None else self.kinds.modelled
        found = {kind.column: getattr(kind, "levels", None) for kind in kinds}
        found |= {
            kind.column: ("false", "true") for kind in kinds if isinstance(kind, Boolean) and kind.of_truth_values
        }
        return {name: list(map(str, levels)) for name, levels in found.items() if levels is not None}

    @property
    def formats(self) -> dict[str, Callable[[float], str]]:
        """How numbers that are not those of the table are written: of columns of dates and times, by a ``TimeFormat``,
        and of whole numbers so large that they are counted from another one.
        """
        from flowstone.data.tables.kinds import Datetime, Numbers

        kinds = () if self.kinds is None else self.kinds.modelled
        found: dict[str, Callable[[float], str]] = {
            kind.column: kind.said for kind in kinds if self.mixed and isinstance(kind, Numbers) and kind.origin
        }
        dates = [kind for kind in kinds if isinstance(kind, Datetime) and (self.mixed or not kind.form)]
        return found | {kind.column: kind.format() for kind in dates}

    def in_words(self, name: str, value: float) -> str:
        """A value of a column as the table shows it."""
        from flowstone.data.tables.kinds import Numbers

        if math.isnan(value):
            return "missing"
        if name in self.levels:
            return self.levels[name][int(value)] if int(value) < len(self.levels[name]) else "(others)"
        if name in self.formats:
            return self.formats[name](value)
        kind = None if self.kinds is None or name not in self.kinds.names else self.kinds.kind(name)
        return kind.said(value) if isinstance(kind, Numbers) and not kind.origin else f"{value:.6g}"

    def without_noise(self, x: Tensor, *, most: float = FEW) -> Tensor:
        """Rows of x whose columns of at most so many different values are rounded to these, without the noise that was
        added for the training.
        """
        from flowstone.data.tables.kinds import Numbers

        x = x.double().cpu().clone()
        for index, name in enumerate(self.columns):
            if self.kinds is None or name not in self.description.get("noise", {}):
                continue
            kind = self.kinds.kind(name)
            if isinstance(kind, Numbers) and kind.step and kind.distinct <= most:
                x[:, index] = torch.from_numpy(kind.on_grid(x[:, index].numpy()))
        return x

    @property
    def rows_to_show(self) -> Rows:
        """Rows for pictures and simple models: the training rows, or of a large table the first ``MANY`` of them, which
        are in random order; some of the images at random, for those of a folder are in the order of their classes; the
        test rows where the training draws fresh ones.
        """
        if callable(self.train):
            return self.test
        return self.train.some(MANY_IMAGES) if self.images else self.train.take(slice(MANY))
