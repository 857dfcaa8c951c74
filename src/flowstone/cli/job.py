"""A training by the command: from its parts (``start``, ``resume``) to a finished run folder."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flowstone.cli.again import commands_again
from flowstone.cli.choice import AUTO, comparable, default_recipe, said
from flowstone.cli.flags import flag_of
from flowstone.cli.values import print_metrics, say_noise
from flowstone.cli.watch import SHEET, watching
from flowstone.data import Dataset, Rows
from flowstone.density import Density
from flowstone.errors import (
    FlowstoneError,
    NonFiniteError,
)
from flowstone.evaluation.metrics import evaluate
from flowstone.evaluation.overlap import seen_rows
from flowstone.evaluation.reference import reference_metrics
from flowstone.execution import thread_count
from flowstone.files import write_atomically
from flowstone.runs import Run
from flowstone.runs.checkpoint import save
from flowstone.runs.folder import METRICS
from flowstone.runs.frames import has_frames
from flowstone.runs.machine import machine
from flowstone.runs.model_card import CARD, model_card
from flowstone.train import Settings, fit
from flowstone.train.history import History
from flowstone.train.interrupt import EXIT_STATUS
from flowstone.train.processes import Processes

__all__ = ["Job", "Output"]

Say = Callable[[str], None]
# The parts of flow.json besides the density.
EXTRA = ("columns", "context_columns", "data", "training", "request", "choice")
LIVE = "live.html"


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
        fixed, shown = None if callable(dataset.train) else dataset.train, dataset.rows_to_show
        recording = watching(
            self.run.folder,
            sheets=output.plots and dataset.images,
            frames=output.plots and has_frames(density),
            tensorboard=output.tensorboard,
            live=self._live(say) if output.live else None,
            context=None if shown.context is None else shown.context[:SHEET].to(device),
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
        except FlowstoneError as error:
            if isinstance(error, NonFiniteError) and error.history is not None:
                self._keep(error.history)
                raise NonFiniteError(f"{error}, in {self.run.folder}") from error
            # Options that contradict each other, and data that a layer cannot begin with, show before the first step.
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
        if recipe != default_recipe(self.dataset):
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
            metrics |= reference_metrics(self.density, dataset.test.x, dataset.rows_to_show.x)
            metrics |= {} if dataset.images else {"n_also_in_training": seen_rows(dataset)}
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


def _extent(dataset: Dataset) -> str:
    if callable(dataset.train):
        return f"fresh points every step, {len(dataset.columns)} columns"
    if not dataset.images:
        return f"{len(dataset.train)} rows, {len(dataset.columns)} columns"
    left_out = dataset.description["left_out"]
    bad = f", {left_out} that cannot be read left out" if left_out else ""
    least, most = (value.item() for value in dataset.train.x.aminmax())
    shape = "x".join(map(str, dataset.event_shape))
    return f"{len(dataset.train)} images of {shape} with values {least} … {most}{bad}"


def _count(density: Density) -> int:
    return sum(parameter.numel() for parameter in density.parameters())
