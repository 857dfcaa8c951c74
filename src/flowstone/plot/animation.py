"""Animation: points that move through the layers of a flow of two columns, as a GIF or a film."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import matplotlib
import torch
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.bars import counting_bar
from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.files import atomic_path
from flowstone.plot.stages import require_two_columns, stage_limits, stage_names, stages_of
from flowstone.validation import require_choice, require_seed

__all__ = ["ANIMATIONS", "animate_layers"]

ANIMATIONS = ("gif", "mp4")
POINTS = 800
BRIGHTEST = 1.2  # end of the scale of ranks, beyond 1, as yellow points are hardly seen on white
STAGES = 16  # of longer flows several layers are passed at once
MOVING, RESTING, SECOND = 8, 4, 16  # frames between two stages, frames at each of them, frames in a second


@torch.no_grad()
def animate_layers(
    flow: Density,
    x: Tensor,
    path: Path,
    *,
    columns: Sequence[str] = ("x1", "x2"),
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write ``path``, a GIF or an MP4, in which points move through the layers of a flow of two columns.

    On the left rows of the data become latents, on the right latents become samples. A point keeps its colour, which is
    the rank of its first coordinate in the data; the title names the layer. Between two layers points move in straight
    lines. All layers after the first one share the axes; the data have axes in their own units.

    Args:
        flow: a Flow of two columns without a context; a copy in evaluation mode is shown.
        x: rows of data ``(n, 2)``, of which 800 are shown.
        path: its ending, ``.gif`` or ``.mp4``, says what is written; an MP4 needs the program ffmpeg.
        columns: the names of the columns.
        seed: of the rows and samples shown.
        progress: whether to show a progress bar on stderr.

    Raises:
        SettingError: the flow has another width, a context, or layers that draw noise; or ffmpeg is missing.
        UnknownNameError: the ending of ``path`` is another one.
        OutputError: it cannot be written.
    """
    flow = deepcopy(require_two_columns(flow)).eval()
    require_seed("seed", seed)
    writer, program = _writer(path.suffix.removeprefix("."))
    x = x.to(flow.device, flow.data_dtype)
    shown = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:POINTS].to(x.device)]
    samples = flow.sample(len(shown), seed=seed).to(x)
    there, back = flow.states(shown), flow.states(samples)
    stages = stages_of(there, STAGES)
    limits = torch.tensor(stage_limits(x, (there, back), stages), dtype=torch.float64)
    values = [torch.stack([states[stage].value.double().cpu() for stage in stages]) for states in (there, back)]
    names = [f"data ({columns[0]}, {columns[1]})", *stage_names(there, stages)]
    moments = list(_moments(len(stages)))
    figure, draw = _panels(values, limits, names)
    with (
        counting_bar(f"drawing {path.name}", len(moments), enabled=progress) as advance,
        matplotlib.rc_context({"animation.ffmpeg_path": program}),
        atomic_path(path) as temporary,
        writer.saving(figure, str(temporary), dpi=90),
    ):
        for at in moments:
            draw(at)
            writer.grab_frame()
            advance(1)
    return path


def _panels(values: Sequence[Tensor], limits: Tensor, names: Sequence[str]) -> tuple[Figure, Callable[[float], None]]:
    """A figure of both directions, and the function that draws it at a moment from 0 to the number of layers."""
    figure = Figure(
        figsize=(8.4, 4.4)
    )  # pixels of a film are even; no layout engine, so that the panels stay where they are
    edges = {"left": 0.06, "right": 0.985, "bottom": 0.1, "top": 0.87, "wspace": 0.14}
    left, right = figure.subplots(1, 2, gridspec_kw=edges)
    last = len(limits) - 1
    order = values[0][0, :, 0].contiguous().sort().values
    for ax, each in zip((left, right), values, strict=True):
        rank = torch.searchsorted(order, each[0, :, 0].contiguous()) / len(order)
        ax.scatter(*each[0].T, c=rank, s=7, cmap="viridis", vmin=0, vmax=BRIGHTEST, alpha=0.8, linewidths=0)
        ax.set_box_aspect(1)

    def draw(at: float) -> None:
        for ax, each, where, way in (
            (left, values[0], at, "data → latent"),
            (right, values[1], last - at, "latent → data"),
        ):
            before = min(int(where), last - 1)
            part = where - before
            ax.collections[0].set_offsets(torch.lerp(each[before], each[before + 1], part).numpy())
            (x_low, x_high), (y_low, y_high) = torch.lerp(limits[before], limits[before + 1], part).tolist()
            ax.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
            ax.set_title(f"{way}\n{_title(names, where)}", fontsize=10)

    return figure, draw


def _title(names: Sequence[str], where: float) -> str:
    """The layer that points are in, or after which they rest."""
    if where != int(where):
        return names[int(where) + 1]
    if where == len(names) - 1:
        return "latent"
    return names[0] if where == 0 else f"after {names[int(where)]}"


def _moments(stages: int) -> Iterator[float]:
    """The moments of the frames: a rest at each stage, and between two of them a move that begins and ends slowly."""
    for stage in range(stages):
        yield from [float(stage)] * (RESTING if 0 < stage < stages - 1 else 3 * RESTING)
        if stage < stages - 1:
            parts = [(frame + 1) / (MOVING + 1) for frame in range(MOVING)]
            yield from (stage + part * part * (3 - 2 * part) for part in parts)


def _writer(kind: str) -> tuple[AbstractMovieWriter, str]:
    """What writes the frames, and the program that it runs, which is none for a GIF."""
    require_choice("kind of animation", kind, ANIMATIONS)
    if kind == "gif":
        return PillowWriter(fps=SECOND), ""
    program = shutil.which("ffmpeg") or _ffmpeg_of_package()
    if program is None:
        raise SettingError(
            "an MP4 needs the program ffmpeg: install it, or `pip install imageio-ffmpeg`; a GIF does not"
        )
    return FFMpegWriter(fps=SECOND, codec="libx264", extra_args=["-pix_fmt", "yuv420p", "-threads", "1"]), program


def _ffmpeg_of_package() -> str | None:
    """The program that the package imageio-ffmpeg brings; None where that is not installed."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
