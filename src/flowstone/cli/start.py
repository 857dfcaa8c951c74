"""The start of a training by the command: from what was asked for to data, density, settings and a run folder."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowstone.cli.choice import AUTO, choose, default_recipe
from flowstone.cli.job import Job
from flowstone.data import DataRequest, Dataset, open_source
from flowstone.density import Density
from flowstone.errors import SettingError, UnknownNameError
from flowstone.recipes import MIXED_DEFAULT, all_recipes, build, shape_arguments
from flowstone.runs import Run
from flowstone.runs.checkpoint import describe, write_record
from flowstone.train import Settings
from flowstone.train.processes import Processes
from flowstone.validation import require_integer

__all__ = ["check_epochs", "started", "with_epochs"]


def started(out: Path | None, request: Mapping[str, Any], *, device: str, progress: bool) -> Job:
    """A new training: read the data, build the density, make the run folder. Errors come before the folder is made.

    Args:
        out: the run folder; None chooses a name that is free.
        request: what the user gave: source, flow, set, training, data.
        device: where recipes are tried, if one is to be chosen.
        progress: whether to show the progress of reading.
    """
    processes = Processes()
    if request["flow"] == AUTO and _is_standard_input(request["source"]):
        raise SettingError(f"standard input is read once, and --flow {AUTO} may read it twice: name a file")
    if processes.size > 1 and _is_standard_input(request["source"]):
        raise SettingError("standard input is read once, so several processes cannot train on it: name a file")
    dataset, density, settings, record = processes.together(
        lambda: _prepared(request, device=device, progress=progress)
    )
    numbered = Path("runs") / f"{_stem(request['source'])}-{record['recipe']}"

    run: Run | None = None

    def create() -> Path:
        nonlocal run
        run = Run.create(out) if out else Run.create_numbered(numbered)
        try:
            write_record(run.folder, record)
        except BaseException:
            run.lock.release()
            raise
        return run.folder

    folder = processes.from_first(create)
    return Job(run or Run(folder), dataset, density, settings, record, new=True)


def _prepared(
    request: Mapping[str, Any], *, device: str, progress: bool
) -> tuple[Dataset, Density, Settings, Mapping[str, Any]]:
    """What a training is made of: its data, the density, the settings, and the content of ``flow.json``."""
    recipe, settings = request["flow"], _settings(request["training"])
    if recipe not in (None, AUTO, *all_recipes()):
        raise UnknownNameError("recipe", recipe, (AUTO, *all_recipes()))
    data, choice = DataRequest.of(request["source"], request["data"]), []
    mixed = None if recipe in (None, AUTO) else recipe == MIXED_DEFAULT
    dataset = open_source(data, progress=progress, mixed=mixed)
    if recipe == AUTO:

        def settings_for(density: Density) -> Settings:
            return with_epochs(settings, request["training"].get("epochs"), dataset, density)

        recipe, choice = choose(dataset, request, settings_for, device=device, progress=progress)
        if recipe == MIXED_DEFAULT and not dataset.mixed:
            dataset = open_source(data, progress=progress, mixed=True)
    recipe = recipe or default_recipe(dataset)
    arguments = {**shape_arguments(recipe, dataset.event_shape), **request["set"]}
    if dataset.mixed and dataset.kinds is not None:
        arguments["columns"] = dataset.kinds.heads()
    if dataset.context_columns:
        arguments["context_features"] = len(dataset.context_columns)
    torch.manual_seed(settings.seed)
    density = build(recipe, arguments)
    settings = with_epochs(settings, request["training"].get("epochs"), dataset, density)
    extra = {
        "columns": list(dataset.columns),
        "context_columns": list(dataset.context_columns),
        "data": dict(dataset.description),
        "training": settings.as_record(),
        "request": dict(request),
        **({"choice": choice} if choice else {}),
    }
    return dataset, density, settings, describe(density, extra)


def _settings(given: Mapping[str, Any]) -> Settings:
    """The settings of the training; ``with_epochs`` sets the steps if epochs are given."""
    check_epochs(given)
    return Settings(**{name: value for name, value in given.items() if name != "epochs"})


def check_epochs(given: Mapping[str, Any]) -> None:
    if given.get("epochs") is not None:
        require_integer("epochs", given["epochs"])
        if "steps" in given:
            raise SettingError("--steps and --epochs say the same thing twice: give one of them")


def with_epochs(settings: Settings, epochs: int | None, dataset: Dataset, density: Density) -> Settings:
    if epochs is None:
        return settings
    if callable(dataset.train):
        raise SettingError(f"--epochs {epochs}: fresh points have no epochs; use --steps, or --points for a fixed set")
    rows = len(dataset.train)
    batch = settings.for_data(dataset.event_shape, rows, density.training_settings(rows)).batch_size
    return replace(settings, steps=epochs * max(1, rows // batch))


def _is_standard_input(source: str) -> bool:
    return source in ("-", "/dev/stdin")


def _stem(source: str) -> str:
    """What a run is called after its source."""
    if _is_standard_input(source):
        return "stdin"
    name = Path(source).resolve().name
    return re.sub(r"[^\w.-]+", "_", Path(name).stem if Path(name).suffix else name)
