"""A training by the command: from a request, or an unfinished run folder, to a finished run folder."""

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flowstone.cli.again import commands_again
from flowstone.cli.choice import AUTO, choose, comparable, said
from flowstone.cli.flags import flag_of
from flowstone.cli.values import print_metrics, say_noise
from flowstone.cli.watch import watching
from flowstone.data import DataRequest, Dataset, Rows, open_source
from flowstone.density import Density
from flowstone.errors import (
    CheckpointError,
    FlowstoneError,
    NonFiniteError,
    OutputError,
    SettingError,
    UnknownNameError,
)
from flowstone.evaluation.beside import beside_metrics
from flowstone.evaluation.metrics import evaluate
from flowstone.execution import thread_count
from flowstone.files import remove_unfinished, write_atomically
from flowstone.recipes import DEFAULT, IMAGE_DEFAULT, MIXED_DEFAULT, all_recipes, build, shape_arguments
from flowstone.runs import Run
from flowstone.runs.checkpoint import build_recorded, describe, read_record, save, write_record
from flowstone.runs.folder import METRICS
from flowstone.runs.frames import has_frames
from flowstone.runs.machine import machine
from flowstone.runs.model_card import CARD, model_card
from flowstone.train import Settings, fit
from flowstone.train.history import History
from flowstone.train.interrupt import EXIT_STATUS
from flowstone.train.processes import Processes
from flowstone.train.state import load_state
from flowstone.validation import require_integer

__all__ = ["Job", "Output", "continued", "started"]

Say = Callable[[str], None]
# The parts of flow.json besides the density.
EXTRA = ("columns", "context_columns", "data", "training", "request", "choice")
LIVE = "live.html"
# Options that a training may be given anew when it goes on: its limits, patience, and how often it writes a line.
LIMITS = {"steps", "epochs", "minutes"}
EXTENDING = LIMITS | {"patience", "log_every"}


class Output(NamedTuple):
    """What a training shows and writes beside its weights and figures: see the flags of ``flowstone train``."""

    quiet: bool
    plots: bool
    report: bool
    tensorboard: bool
    live: bool


@dataclass(frozen=True)
class Job:
    """A training that is ready to run.

    Attributes:
        record: what ``flow.json`` holds.
        new: whether the folder was made for this training, and not by one that is continued.
    """

    run: Run
    dataset: Dataset
    density: Density
    settings: Settings
    record: Mapping[str, Any]
    new: bool = False

    def work(self, device: str, output: Output) -> None:
        """Train, keep the weights, and write figures and pictures."""
        try:
            self._work(device, output)
        finally:
            self.run.lock.release()

    def _work(self, device: str, output: Output) -> None:
        dataset, density = self.dataset, self.density.to(device)
        say: Say = (lambda _: None) if output.quiet else (lambda words: print(words, file=sys.stderr))
        self._introduce(say, quiet=output.quiet)
        fixed = None if callable(dataset.train) else dataset.train
        recording = watching(
            self.run.folder,
            sheets=output.plots and dataset.images,
            frames=output.plots and has_frames(density),
            tensorboard=output.tensorboard,
            live=self._live(say) if output.live else None,
            context=None if dataset.validation.context is None else dataset.validation.context.to(device),
        )
        try:
            with recording as watch:
                history = fit(
                    density,
                    dataset.train if callable(dataset.train) else dataset.train.x,
                    context=None if fixed is None else fixed.context,
                    validation=dataset.validation.x,
                    validation_context=dataset.validation.context,
                    settings=self.settings,
                    resume=self.run.folder / "resume",
                    progress=not output.quiet,
                    watch=watch,
                )
        except NonFiniteError as error:
            self._keep(error.history)
            raise NonFiniteError(f"{error}, in {self.run.folder}") from error
        except FlowstoneError:  # options that contradict each other are found before the first step
            if self.new and not Processes().rank:
                self.run.discard()
            raise
        if Processes().rank:
            return  # process 0 writes what is left to write
        self._keep(history)
        if history.stopped in EXIT_STATUS:
            best = f"best weights so far (step {history.best.step})" if len(history) else "weights so far"
            said = f"{history.stopped}; the {best} are in {self.run.folder}; --resume continues"
            print(f"flowstone: {said}", file=sys.stderr)
            sys.exit(EXIT_STATUS[history.stopped])
        density.eval()
        self._finish(history, say, output)

    def _keep(self, history: History) -> None:
        if Processes().rank:
            return
        save(self.density, self.run.folder, extra={key: self.record[key] for key in EXTRA if key in self.record})
        history.save(self.run.folder / "history.csv")

    def _introduce(self, say: Say, *, quiet: bool) -> None:
        density, recipe, data = self.density, self.record["recipe"], self.record["data"]
        by_choice = self._why(recipe)
        say(f"{data['source']}: {_extent(self.dataset)} → {self.run.folder}")
        rows = math.inf if callable(self.dataset.train) else len(self.dataset.train)
        resolved = self.settings.for_data(self.dataset.event_shape, rows, density.training_settings(rows))
        batch = resolved.batch_size
        threads = thread_count(density, batch) if density.device.type == "cpu" else 0
        place = f", {batch} rows a step on {threads} thread{'s' * (threads > 1)}"
        say(f"flow: {recipe}{by_choice}, {_count(density)} parameters{place if threads else f' on {density.device}'}")
        if not quiet:
            say_noise(data.get("noise", {}), f"{flag_of('dequantize', False)} leaves them")
        for note in (data.get("read"), *(self.dataset.kinds.decisions if self.dataset.kinds else ())):
            if note:
                say(note)
        for name, value in data.get("atoms", {}).items():
            say(f"column {name!r} is continuous but for {value:g}, in over 1% of the rows: its density has a spike")

    def _why(self, recipe: str) -> str:
        """Why it is this recipe, in parentheses; nothing where the user named it."""
        if choice := self.record.get("choice"):
            return f" ({said(choice)})"
        if recipe != _default(self.dataset):
            return ""
        several = len(comparable(self.dataset)) > 1
        return f" (the default; --flow {AUTO} chooses by held-out likelihood)" if several else " (the default)"

    def _live(self, say: Say) -> Any:
        from flowstone.plot import Live

        dataset, page = self.dataset, self.run.folder / LIVE
        say(f"live page: {page}")
        shown = dataset.rows_to_show
        title = f"{Path(self.record['data']['source']).name}, {self.record['recipe']}"
        return Live(
            shown.x, context=shown.context, columns=dataset.columns, levels=dataset.levels,
            formats=dataset.formats, entropy=dataset.entropy, page=page, title=title,
        )  # fmt: skip

    def _finish(self, history: History, say: Say, output: Output) -> None:
        dataset, best = self.dataset, history.best
        metrics = evaluate(self.density, dataset.test.x, dataset.test.context) | {
            "seconds": history.records[-1].seconds,
            "steps": history.records[-1].step,
            "best_step": best.step,
            "best_val_nll": best.val_nll,
            "stopped": history.stopped,
            "recoveries": len(history.recoveries),
            "direct": history.direct,
            "parameters": _count(self.density),
        }
        if dataset.entropy is not None:
            metrics["entropy"] = dataset.entropy
        if isinstance(dataset.train, Rows):
            metrics |= beside_metrics(self.density, dataset.test.x, dataset.rows_to_show.x)
        metrics["machine"] = machine(self.density.device)
        drawn = self._draw(history) if output.plots else {}
        if output.report:
            self._report(history, metrics, drawn, quiet=output.quiet)
        write_atomically(self.run.folder / CARD, model_card(self.run.record, metrics).encode())
        self.run.write_json(METRICS, metrics)  # the last file: a run that has it has all
        print_metrics(metrics, say)
        if output.plots:
            say(f"pictures: {self.run.folder / 'plots'}")
        if output.report and (page := self.run.folder / "report.html").exists():
            say(f"report: {page}")

    def _draw(self, history: History) -> dict[str, bytes]:
        """The pictures in ``plots/``, by their names."""
        from flowstone.plot import arguments_of, save_plots

        about = arguments_of(self.dataset)
        paths = save_plots(self.density, history=history, folder=self.run.plots, **about)
        return {path.stem: path.read_bytes() for path in paths}

    def _report(self, history: History, metrics: Mapping[str, Any], drawn: Mapping[str, bytes], *, quiet: bool) -> None:
        """Write the report; where that fails, a line says so, and the training ends all the same."""
        from flowstone.report import Subject, write_report

        run = self.run
        try:
            subject = Subject(
                run, self.density, self.record, history, metrics, self.dataset,
                drawn=drawn, commands=commands_again(self.record, run.folder),
            )  # fmt: skip
            write_report(subject, progress=not quiet)
        except (Exception, KeyboardInterrupt) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"flowstone: {run.folder}: no report ({said}); to write it: flowstone report {run.folder}",
                file=sys.stderr,
            )


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
            return _with_epochs(settings, request["training"].get("epochs"), dataset, density)

        recipe, choice = choose(dataset, request, settings_for, device=device, progress=progress)
        if recipe == MIXED_DEFAULT and not dataset.mixed:
            dataset = open_source(data, progress=progress, mixed=True)
    recipe = recipe or _default(dataset)
    arguments = {**shape_arguments(recipe, dataset.event_shape), **request["set"]}
    if dataset.mixed and dataset.kinds is not None:
        arguments["columns"] = dataset.kinds.heads()
    if dataset.context_columns:
        arguments["context_features"] = len(dataset.context_columns)
    torch.manual_seed(settings.seed)
    density = build(recipe, arguments)
    settings = _with_epochs(settings, request["training"].get("epochs"), dataset, density)
    extra = {
        "columns": list(dataset.columns),
        "context_columns": list(dataset.context_columns),
        "data": dict(dataset.description),
        "training": settings.as_record(),
        "request": dict(request),
        **({"choice": choice} if choice else {}),
    }
    return dataset, density, settings, describe(density, extra)


def continued(out: Path | None, request: Mapping[str, Any]) -> Job:
    """The training in ``out``, to be continued: an unfinished one, or a finished one that is given more steps or time.

    Other options that are given must be those it began with.
    """
    if out is None:
        raise SettingError("--resume needs --out RUN: the folder of the training to continue")
    processes, run = Processes(), Run(out)
    try:
        processes.from_first(lambda: _locked(run))
        job = processes.together(lambda: _read_again(run, request))
        processes.from_first(lambda: _keep_settings(job))
    except BaseException:
        run.lock.release()
        raise
    return job


def _locked(run: Run) -> None:
    read_record(run.folder)  # first, for its error where this is no run folder
    run.lock.acquire()
    remove_unfinished(run.folder)


def _read_again(run: Run, request: Mapping[str, Any]) -> Job:
    record, settings = run.record, run.settings()
    for name, before, now in _compared(record, settings, request):
        if now != before:
            raise SettingError(
                f"--resume continues with the settings of {run.folder}: {name} was {before!r}, not {now!r}"
            )
    dataset = run.dataset(data_dir=request["data"].get("data_dir"))
    torch.manual_seed(settings.seed)
    density = build_recorded(record)
    given = {name: value for name, value in request["training"].items() if name in EXTENDING}
    extended = _extended(settings, given, dataset, density)
    if run.finished:
        _require_more(run, extended, dataset, density)
    if extended != settings:
        before = record.get("request", {})
        request = {**before, "training": {**before.get("training", {}), **given}}
        record = {**record, "training": extended.as_record(), "request": request}
    return Job(run, dataset, density, extended, record)


def _keep_settings(job: Job) -> None:
    """Write the record of a training that goes on, if its settings have changed."""
    if job.record != job.run.record:
        (job.run.folder / METRICS).unlink(missing_ok=True)  # first: from here on the training has not ended
        write_record(job.run.folder, job.record)


def _extended(settings: Settings, given: Mapping[str, Any], dataset: Dataset, density: Density) -> Settings:
    """The settings of a training that goes on, with what is given anew; a new limit replaces both earlier limits."""
    _check_epochs(given)
    limits = {name: given.get(name) for name in ("steps", "minutes")} if given.keys() & LIMITS else {}
    others = {name: given[name] for name in given.keys() - LIMITS}
    return _with_epochs(settings.override(limits | others), given.get("epochs"), dataset, density)


def _require_more(run: Run, settings: Settings, dataset: Dataset, density: Density) -> None:
    """Refuse to continue a training that has ended and, with these settings, would end at once."""
    last, rows = run.history.records[-1], math.inf if callable(dataset.train) else len(dataset.train)
    resolved = settings.for_data(dataset.event_shape, rows, density.training_settings(rows))
    ended = f"{run.folder}: this training has ended, after {last.step} steps and {last.seconds:.0f} seconds"
    if resolved.progress(last.step, last.seconds) >= 1:
        raise OutputError(f"{ended}; to go on", remedy={"steps": 2 * last.step})
    if (
        resolved.patience is not None
        and last.step - run.history.best.step >= resolved.patience * resolved.validate_every
    ):
        more = 2 * resolved.patience
        raise OutputError(f"{ended}, as validation no longer improved; to go on", remedy={"patience": more})
    if load_state(run.folder / "resume") is None:
        raise CheckpointError(f"{ended}, and its state is gone (resume/): it cannot go on")


def _compared(record: Mapping[str, Any], settings: Settings, request: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The name of each option that was given, its value in the record, its value now."""
    before = {"source": None, "set": {}, "training": {}, "data": {}} | record.get("request", {})
    sources = (before["source"], record["data"]["source"])
    compared: list[tuple[str, Any, Any]] = []
    if (source := request["source"]) is not None and not {source, str(Path(source).resolve())} & {*sources}:
        compared.append(("source", sources[0] or sources[1], source))
    if request["flow"] is not None:
        # A recipe is compared with the one that was trained, auto with what was asked for.
        flow_before = before.get("flow") if request["flow"] == AUTO else record["recipe"]
        compared.append(("flow", flow_before, request["flow"]))
    arguments = record["arguments"] | before["set"]
    compared += [(name, arguments.get(name), value) for name, value in request["set"].items()]
    then, now = (DataRequest.of("any", part) for part in (before["data"], request["data"]))
    elsewhere = ("seed", "data_dir")  # the seed is one of the settings, too; image sets may have moved
    compared += [(name, getattr(then, name), getattr(now, name)) for name in request["data"] if name not in elsewhere]
    training = request["training"].items()
    return compared + [(name, getattr(settings, name), value) for name, value in training if name not in EXTENDING]


def _settings(given: Mapping[str, Any]) -> Settings:
    """The settings of the training; ``_with_epochs`` sets the steps if epochs are given."""
    _check_epochs(given)
    return Settings(**{name: value for name, value in given.items() if name != "epochs"})


def _check_epochs(given: Mapping[str, Any]) -> None:
    if given.get("epochs") is not None:
        require_integer("epochs", given["epochs"])
        if "steps" in given:
            raise SettingError("--steps and --epochs say the same thing twice: give one of them")


def _default(dataset: Dataset) -> str:
    """The recipe that measures best on data of this kind."""
    return IMAGE_DEFAULT if dataset.images else MIXED_DEFAULT if dataset.mixed else DEFAULT


def _with_epochs(settings: Settings, epochs: int | None, dataset: Dataset, density: Density) -> Settings:
    if epochs is None:
        return settings
    if callable(dataset.train):
        raise SettingError(f"--epochs {epochs}: fresh points have no epochs; use --steps, or --points for a fixed set")
    rows = len(dataset.train)
    batch = settings.for_data(dataset.event_shape, rows, density.training_settings(rows)).batch_size
    return replace(settings, steps=epochs * max(1, rows // batch))


def _extent(dataset: Dataset) -> str:
    if callable(dataset.train):
        return f"fresh points every step, {len(dataset.columns)} columns"
    if not dataset.images:
        return f"{len(dataset.train)} rows, {len(dataset.columns)} columns"
    left_out = dataset.description["left_out"]
    bad = f", {left_out} that cannot be read left out" if left_out else ""
    return f"{len(dataset.train)} images of {'x'.join(map(str, dataset.event_shape))}{bad}"


def _is_standard_input(source: str) -> bool:
    return source in ("-", "/dev/stdin")


def _stem(source: str) -> str:
    """What a run is called after its source."""
    if _is_standard_input(source):
        return "stdin"
    name = Path(source).resolve().name
    return re.sub(r"[^\w.-]+", "_", Path(name).stem if Path(name).suffix else name)


def _count(density: Density) -> int:
    return sum(parameter.numel() for parameter in density.parameters())
