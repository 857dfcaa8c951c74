"""The playground of a flow: a folder of static files in which the model itself runs in the browser."""

import html
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from flowstone.bars import counting_bar
from flowstone.density import Density
from flowstone.errors import OutputError
from flowstone.files import atomic_folder
from flowstone.playground.fragments import asset, section
from flowstone.playground.lesson import lesson_section
from flowstone.playground.onnx_model import model_record, require_exportable
from flowstone.playground.runtime import packed_runtime, runtime_folder
from flowstone.playground.walk import walk_section
from flowstone.runs.frames import Frames
from flowstone.validation import require_seed

__all__ = ["write_playground"]

ROWS = 300  # of the data, for the page to show and to compare log-densities on


def write_playground(
    density: Density,
    x: Tensor,
    folder: Path | str,
    *,
    columns: Sequence[str] | None = None,
    frames: Frames | None = None,
    title: str = "Flowstone playground",
    runtime: Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a folder of static files in which a flow can be tried in the browser, without a server.

    ``index.html`` holds the lesson in one dimension, the model itself (samples at any temperature, the density of any
    place) and, of two columns, the walk through its layers. The flow runs as ONNX programs in onnxruntime-web; all lies
    in the folder, and the page requests nothing from elsewhere, also when it is opened from disk. It needs the extra
    ``export`` and the files of the npm package onnxruntime-web.

    Args:
        density: a Flow of columns without a context; a copy in evaluation mode is exported.
        x: rows of data ``(n, features)``, of which 300 become part of the page.
        folder: the folder to be made; one that holds anything is never written over.
        columns: names of the columns; None for x1, x2, …
        frames: what the training left in its run folder (``flowstone.runs.frames.read_frames``).
        title: the heading of the page.
        runtime: the folder of onnxruntime-web; None for ``node_modules/onnxruntime-web``.
        seed: of the rows and samples shown.
        progress: whether to show a progress bar on stderr.

    Returns:
        The path of ``index.html``.

    Raises:
        SettingError: the density cannot be shown so, or packages are missing; the message says what to do.
        OutputError: the folder exists, or cannot be written.
    """
    flow = deepcopy(require_exportable(density)).cpu().eval()
    require_seed("seed", seed)
    out, place = Path(folder), runtime_folder(runtime)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists: choose another folder")
    names = [f"x{i + 1}" for i in range(x.shape[1])] if columns is None else list(columns)
    x = x.cpu()
    rows = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:ROWS]]
    with counting_bar("exporting the flow", 3, enabled=progress) as advance:
        record = model_record(flow, rows, advance=advance)
        model = section("model", {"columns": names, "seed": seed}, scripts=["onnx.js"])
        tabs = {"One dimension": lesson_section(), "The model": model}
        if x.shape[1] == 2:
            tabs["Layer by layer"] = walk_section(flow, x, columns=names, frames=frames, seed=seed)
        files = {
            "runtime.js": packed_runtime(place),
            "model-data.js": f"window.flowstoneModel = {json.dumps(record)};\n",
            "index.html": _page(title, tabs),
        }
        advance(1)
    with atomic_folder(out) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content.encode())
    return out / "index.html"


def _page(title: str, tabs: dict[str, str]) -> str:
    """A page with a tab for each section."""
    buttons, panels = [], []
    for i, (name, content) in enumerate(tabs.items()):
        state = 'aria-selected="false" tabindex="-1"' if i else 'aria-selected="true"'
        tab = f'<button type="button" role="tab" id="tab-{i}" aria-controls="panel-{i}" {state}>'
        buttons.append(f"{tab}{html.escape(name)}</button>")
        panel = f'<div role="tabpanel" id="panel-{i}" aria-labelledby="tab-{i}"{" hidden" if i else ""}>'
        panels.append(f"{panel}\n{content}</div>")
    return asset("page.html").format(
        title=html.escape(title), style=asset("page.css"), script=asset("page.js"), tabs="\n".join(buttons),
        panels="\n".join(panels),
    )  # fmt: skip
