"""Stages: the values of a flow of two columns from layer to layer, for pictures in which points move."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from flowstone.bijections import Bijection, Conditioned, State
from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.flow import Flow
from flowstone.plot.vectors import Limits, limits_of

__all__ = [
    "layer_name",
    "require_two_columns",
    "stage_limits",
    "stage_names",
    "stages_of",
    "unlike_a_plain_flow",
]


def require_two_columns(density: Density) -> Flow:
    """The density as a Flow whose layers can be shown on the plane.

    Raises:
        SettingError: it is none; the message says what is possible instead.
    """
    what = unlike_a_plain_flow(density)
    if what is None and tuple(density.event_shape) != (2,):
        what = f"of {density.event_shape[0]} column{'s' * (density.event_shape[0] > 1)}"
    if what is not None or not isinstance(density, Flow):
        raise SettingError(
            f"layers are shown of flows of two columns without a context; this density is {what}: "
            "its pictures are those of `flowstone plot RUN`"
        )
    return density


def unlike_a_plain_flow(density: Density) -> str | None:
    """What keeps a density from being one map between columns and a latent, as in "this density is of images"; None
    where nothing does.
    """
    if len(density.event_shape) != 1:
        return f"of images {tuple(density.event_shape)}"
    if not isinstance(density, Flow):
        return f"a {type(density).__name__}, which has no map between data and latent"
    if density.context_features:
        return f"conditioned on {density.context_features} other column{'s' * (density.context_features > 1)}"
    return "one whose layers draw noise" if density.stochastic else None


def layer_name(layer: Bijection | None) -> str:
    """What a reader calls a layer, such as ``Coupling (RQSpline)``; the name of None is that of the data.

    >>> from flowstone.bijections import Scaling
    >>> layer_name(Scaling(2)), layer_name(None)
    ('Scaling', 'data')
    """
    if layer is None:
        return "data"
    transform = f" ({type(layer.transform).__name__})" if isinstance(layer, Conditioned) else ""
    return f"{type(layer).__name__}{transform}"


def stages_of(states: Sequence[State], most: int) -> list[int]:
    """The states that are shown: all, or of a flow with more than ``most`` layers that many, evenly spread."""
    last = len(states) - 1
    return [round(i * last / min(last, most)) for i in range(min(last, most) + 1)]


def stage_names(states: Sequence[State], stages: Sequence[int]) -> list[str]:
    """What lies between two stages: the number and the name of a layer, or of several."""
    names = []
    for before, after in itertools.pairwise(stages):
        between = [layer_name(state.layer) for state in states[before + 1 : after + 1]]
        counted = [(name, len(list(group))) for name, group in itertools.groupby(between)]
        numbers = f"{after}" if after == before + 1 else f"{before + 1}–{after}"
        names.append(f"{numbers} " + ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counted))
    return names


def stage_limits(x: Tensor, several: Sequence[Sequence[State]], stages: Sequence[int]) -> list[Limits]:
    """A frame for each stage: that of the data, in their own units, and one that all later stages share."""
    inner = [states[stage].value.double() for states in several for stage in stages[1:]]
    shared = limits_of(torch.cat([values[values.isfinite().all(1)] for values in inner]))
    return [limits_of(x), *(shared for _ in stages[1:])]
