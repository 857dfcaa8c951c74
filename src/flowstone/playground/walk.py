"""The walk through a flow of two columns: points and a grid carried from layer to layer, and where log p comes from."""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from flowstone.bijections import State
from flowstone.density import Density
from flowstone.flow import Flow
from flowstone.playground.fragments import floats, section
from flowstone.plot.stages import require_two_columns, stage_limits, stage_names, stages_of
from flowstone.plot.vectors import Limits
from flowstone.runs.frames import Frames, samples_of_frame
from flowstone.validation import require_seed

__all__ = ["walk_section"]

POINTS = 300  # of the data, and as many samples
LINES, ON_LINE = 13, 37  # lines of the grid in each direction, and places on each of them
STOPS = 22  # of the slider at most; longer flows have several layers between two stops, so that the page stays small
LATENT = 0.97  # part of the latents that the grid of the latent covers


@torch.no_grad()
def walk_section(
    flow: Density, x: Tensor, *, columns: Sequence[str] = ("x1", "x2"), frames: Frames | None = None, seed: int = 0
) -> str:
    r"""A section of HTML with the walk through the layers of a flow of two columns.

    A slider carries points and a grid through the layers, from data to latent or back; between two layers they move in
    straight lines. For a chosen place a table shows the terms of

    $$ \log p(x) = \log p_\text{prior}(z) + \sum_k \log|\det_k| $$

    in nats, as ``flow.states`` gives them. With ``frames`` a second slider shows the training from start to end. The
    section needs nothing but itself: it can stand in any page, and makes no request.

    Args:
        flow: a Flow of two columns without a context; a copy in evaluation mode is shown.
        x: rows of data ``(n, 2)``, of which 300 are shown; they become part of the section.
        columns: the names of the columns.
        frames: what the training left in its run folder (``flowstone.runs.frames.read_frames``).
        seed: of the rows and samples shown.

    Returns:
        HTML of less than a megabyte.

    Raises:
        SettingError: the flow has another width, a context, or layers that draw noise.

    >>> import flowstone, torch
    >>> html = walk_section(flowstone.nice(2, couplings=2, hidden=(8,)), torch.randn(50, 2))
    >>> html.startswith('<div class="flowstone-part flowstone-walk">'), "src=" in html
    (True, False)
    """
    flow = deepcopy(require_two_columns(flow)).eval()
    require_seed("seed", seed)
    x = x.to(flow.device, flow.data_dtype)
    shown = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:POINTS].to(x.device)]
    states = {"data": flow.states(shown), "samples": flow.states(flow.sample(POINTS, seed=seed).to(x))}
    stops = stages_of(states["data"], STOPS)
    limits = stage_limits(x, tuple(states.values()), stops)
    views = [_view(each) for each in limits]
    latents = torch.cat([each[-1].value for each in states.values()])
    back = flow.inverse_states(_grid(_latent_limits(latents)).to(latents))[::-1]
    states["grid"] = flow.states(_grid(limits[0]).to(x))
    return section(
        "walk",
        {
            "columns": list(columns),
            "layers": stage_names(states["data"], stops),
            "views": views,
            "lines": LINES,
            "onLine": ON_LINE,
            "sets": {name: _ledger(flow, each, stops, views) for name, each in states.items()},
            "latentGrid": floats(_places(back, stops, views)),
            "training": None if frames is None else _training(flow, frames, views[0]),
        },
    )


def _ledger(flow: Flow, states: Sequence[State], stops: Sequence[int], views: Sequence[Any]) -> dict[str, Any]:
    """The places of points at each stop, and the terms of their log-densities."""
    log_dets = [
        torch.stack([state.log_det.double() for state in states[before + 1 : after + 1]]).sum(0)
        for before, after in itertools.pairwise(stops)
    ]
    return {
        "count": len(states[0].value),
        "places": floats(_places(states, stops, views)),
        "logDets": floats(torch.stack(log_dets)),
        "logPrior": floats(flow.prior.log_prob(states[-1].value)),
    }


def _places(states: Sequence[State], stops: Sequence[int], views: Sequence[Any]) -> Tensor:
    """The values at each stop ``(stops, n, 2)``, in units of its view: within it they lie between -1 and 1."""
    return torch.stack([_in_view(states[stop].value, view) for stop, view in zip(stops, views, strict=True)])


def _training(flow: Flow, frames: Frames, view: dict[str, list[float]]) -> dict[str, Any]:
    """The frames in the view of the data, and after them the samples of the density that was kept."""
    samples = torch.cat((frames.samples, samples_of_frame(flow)[None]))
    return {
        "steps": frames.steps.tolist(),
        "valNll": [value if abs(value) < float("inf") else None for value in frames.val_nll.tolist()],
        "count": samples.shape[1],
        "samples": floats(_in_view(samples, view)),
    }


def _view(limits: Limits) -> dict[str, list[float]]:
    return {
        "middle": [(low + high) / 2 for low, high in limits],
        "half": [(high - low) / 2 for low, high in limits],
    }


def _in_view(values: Tensor, view: dict[str, list[float]]) -> Tensor:
    values = values.double().cpu()
    placed = (values - values.new_tensor(view["middle"])) / values.new_tensor(view["half"])
    return placed.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)  # far outside, where it is not drawn


def _latent_limits(latents: Tensor) -> Limits:
    """A square around the middle in which nearly all latents lie: further out few points of the data come from."""
    half = latents.double().abs().amax(1).quantile(LATENT).item()
    return (-half, half), (-half, half)


def _grid(limits: Limits) -> Tensor:
    """Upright and then level lines over a frame, ``(2 · LINES · ON_LINE, 2)``."""
    (left, right), (bottom, top) = limits
    fine_x, fine_y = (torch.linspace(a, b, ON_LINE, dtype=torch.float64) for a, b in ((left, right), (bottom, top)))
    coarse_x, coarse_y = (torch.linspace(a, b, LINES, dtype=torch.float64) for a, b in ((left, right), (bottom, top)))
    upright = torch.stack(torch.meshgrid(coarse_x, fine_y, indexing="ij"), -1)
    level = torch.stack(torch.meshgrid(fine_x, coarse_y, indexing="ij"), -1).transpose(0, 1)
    return torch.cat((upright.reshape(-1, 2), level.reshape(-1, 2)))
