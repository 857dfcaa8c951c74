"""flowstone train."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flowstone.cli.values import Device, commas, device_of, print_metrics, say_noise, settings_of, training_of
from flowstone.errors import NonFiniteError, SettingError

__all__ = ["train"]

Switch = Parameter(negative=())


def train(
    source: str,
    *,
    flow: str | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative=())] = None,
    steps: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: Device = "auto",
    precision: str | None = None,
    memory: str | None = None,
    compile: Annotated[bool, Switch] = False,
    fit: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    flip: Annotated[bool, Switch] = False,
    context: str | None = None,
    columns: str | None = None,
    points: int | None = None,
    drop_missing: Annotated[bool, Switch] = False,
    dequantize: bool = True,
    size: str | None = None,
    gray: Annotated[bool, Switch] = False,
    skip_bad: Annotated[bool, Switch] = False,
    data_dir: Path | None = None,
    download: Annotated[bool, Switch] = False,
    out: Path | None = None,
    resume: Annotated[bool, Switch] = False,
    plots: bool = True,
    tensorboard: Annotated[bool, Switch] = False,
    quiet: Annotated[bool, Switch] = False,
) -> None:
    """Learn the distribution of SOURCE and write a run folder.

    Parameters
    ----------
    source
        A toy's name (moons, circles, ...; see `flowstone list`), a table (.csv, .parquet, .npy), an image set by name
        (mnist, fashion-mnist, cifar10, celeba, faces32), a folder of images, or an array of them (.npy, .npz).
    flow
        The recipe; without it, the one that measures best.
    settings
        Arguments of the recipe, as key=value: --set couplings=8 hidden=256,256
    steps
        Training steps at most.
    epochs
        The same as a number of passes over the training rows.
    minutes
        Training time at most; the learning-rate schedule then follows the clock.
    batch_size
        Rows a step.
    lr
        The highest learning rate.
    patience
        Validations without improvement after which training stops.
    seed
        Of the split, the initial weights and the batches.
    device
        cpu, cuda, cuda:1; auto takes a GPU where there is one.
    precision
        fp32, or bf16 for the conditioner nets.
    memory
        keep, or recompute: deep flows then train in far less memory, and longer.
    compile
        Run the training through torch.compile: up to a minute before the first step, quicker ones then.
    fit
        More arguments of `flowstone.fit`, as key=value: warmup clip ema dropout validate_every schedule optimizer
        weight_decay scale_penalty: --fit optimizer=adamax ema=0.9999
    flip
        Images: turn half of those of each batch left to right.
    context
        Columns, joined by commas, that the density of the others is conditioned on; of images: label.
    columns
        The columns to use, joined by commas; all of them without it.
    points
        Toys: a fixed training set of so many points instead of fresh ones for each step.
    drop_missing
        Leave out rows with a missing, NaN or infinite value.
    dequantize
        Add small uniform noise to columns with repeated values, which have no density otherwise.
    size
        Images: resize the shorter side and crop the longer one to so many pixels: 32, or height x width as 48x64.
    gray
        Images: one channel.
    skip_bad
        Images: leave out those that cannot be read.
    data_dir
        The folder that holds the image sets that have a name; without it FLOWSTONE_DATA says.
    download
        Fetch the image set into there if it is missing.
    out
        The run folder; runs/<source>-<flow> without it. An existing one is never written over.
    resume
        Go on with the training in --out where it was broken off.
    plots
        Draw the pictures at the end; of images, some samples at each validation, too.
    tensorboard
        Write event files for TensorBoard into RUN/tensorboard.
    quiet
        No progress bar and no figures.
    """
    given = {
        "steps": steps,
        "epochs": epochs,
        "minutes": minutes,
        "batch_size": batch_size,
        "lr": lr,
        "patience": patience,
        "seed": seed,
        "precision": precision,
        "memory": memory,
        "flip": flip or None,
        "compile": compile or None,
        **training_of(fit or []),
    }
    given = {name: value for name, value in given.items() if value is not None}
    request: dict[str, Any] = {"source": source, "flow": flow, "set": settings_of(settings or []), "training": given}
    request["data"] = {
        "context": commas(context),
        "columns": commas(columns),
        "points": points,
        "drop_missing": drop_missing,
        "dequantize": dequantize,
        "size": size,
        "gray": gray,
        "skip_bad": skip_bad,
        "data_dir": None if data_dir is None else str(data_dir),
    }
    place = device_of(device)  # before anything is written
    if tensorboard:
        from flowstone.cli.watch import summary_writer

        summary_writer()
    job = _continued(out, request) if resume else _started(out, request, download=download, progress=not quiet)
    job.work(place, quiet=quiet, plots=plots, tensorboard=tensorboard)


class _Job:
    """A training from its record (what flow.json says) to its finished run folder."""

    def __init__(self, run, dataset, record: dict[str, Any]) -> None:
        self.run, self.dataset, self.record = run, dataset, record

    def work(self, device: str, *, quiet: bool, plots: bool, tensorboard: bool) -> None:
        import torch

        from flowstone.cli.watch import watching
        from flowstone.recipes import build
        from flowstone.train import fit

        record, dataset = self.record, self.dataset
        training = dict(record["training"])
        torch.manual_seed(training["seed"])
        flow = build(record["recipe"], record["arguments"]).to(device)
        say = (lambda *_: None) if quiet else (lambda *words: print(*words, file=sys.stderr))
        self._introduce(flow, say, quiet=quiet)
        fixed = not callable(dataset.train)
        beside = watching(
            self.run.folder,
            sheets=plots and dataset.images,
            tensorboard=tensorboard,
            context=None if dataset.validation.context is None else dataset.validation.context.to(device),
        )
        try:
            with beside as watch:
                history = fit(
                    flow,
                    dataset.train.x if fixed else dataset.train,
                    context=dataset.train.context if fixed else None,
                    validation=dataset.validation.x,
                    validation_context=dataset.validation.context,
                    **training,
                    resume=self.run.folder / "resume",
                    progress=not quiet,
                    watch=watch,
                )
        except NonFiniteError as error:
            self._keep(flow, error.history)
            raise NonFiniteError(f"{error}, in {self.run.folder}") from error
        self._keep(flow, history)
        if history.stopped == "interrupted":
            best = f"best weights so far (step {history.best.step})" if len(history) else "weights so far"
            print(f"flowstone: interrupted; the {best} are in {self.run.folder}; --resume goes on", file=sys.stderr)
            sys.exit(130)
        self._finish(flow.eval(), history, say, plots=plots)

    def _keep(self, flow, history) -> None:
        from flowstone.runs.checkpoint import save

        save(flow, self.run.folder, extra={key: self.record[key] for key in _EXTRA})
        history.save(self.run.folder / "history.csv")

    def _introduce(self, flow, say, *, quiet: bool) -> None:
        from flowstone.execution import thread_count
        from flowstone.recipes import DEFAULT, IMAGE_DEFAULT
        from flowstone.train.settings import Settings

        recipe, count = self.record["recipe"], sum(p.numel() for p in flow.parameters())
        by_choice = " (the default)" if recipe == (IMAGE_DEFAULT if self.dataset.images else DEFAULT) else ""
        say(f"{self.record['data']['source']}: {_extent(self.dataset)} → {self.run.folder}")
        rows = math.inf if callable(self.dataset.train) else len(self.dataset.train)
        batch = Settings(**self.record["training"]).for_data(self.dataset.event_shape, rows).batch_size
        threads = thread_count(flow, batch) if flow.device.type == "cpu" else 0
        place = f", {batch} rows a step on {threads} thread{'s' * (threads > 1)}" if threads else f" on {flow.device}"
        say(f"flow: {recipe}{by_choice}, {count} parameters{place}")
        if not quiet:
            say_noise(self.record["data"].get("noise", {}), "--no-dequantize leaves them")
        for name, value in self.record["data"].get("atoms", {}).items():
            say(f"column {name!r} is continuous but for {value:g}, in over 1% of the rows: its density has a spike")

    def _finish(self, flow, history, say, *, plots: bool) -> None:
        from flowstone.evaluation.metrics import evaluate

        dataset, best = self.dataset, history.best
        metrics = evaluate(flow, dataset.test.x, dataset.test.context) | {
            "seconds": history.records[-1].seconds,
            "steps": history.records[-1].step,
            "best_step": best.step,
            "best_val_nll": best.val_nll,
            "stopped": history.stopped,
            "parameters": sum(p.numel() for p in flow.parameters()),
        }
        if dataset.entropy is not None:
            metrics["entropy"] = dataset.entropy
        self.run.write_json("metrics.json", metrics)
        if plots:
            from flowstone.plot import save_plots

            shown = dataset.rows_to_show
            save_plots(
                flow, shown.x, dataset.columns, history, self.run.plots, context=shown.context,
                test=dataset.test.x, test_context=dataset.test.context, entropy=dataset.entropy,
            )  # fmt: skip
        print_metrics(metrics, say)
        if plots:
            say(f"pictures: {self.run.folder / 'plots'}")


def _extent(dataset) -> str:
    if callable(dataset.train):
        return f"fresh points every step, {len(dataset.columns)} columns"
    if not dataset.images:
        return f"{len(dataset.train)} rows, {len(dataset.columns)} columns"
    left_out = dataset.description["left_out"]
    bad = f", {left_out} that cannot be read left out" if left_out else ""
    return f"{len(dataset.train)} images of {'x'.join(map(str, dataset.event_shape))}{bad}"


_EXTRA = ("columns", "context_columns", "data", "training", "request")


def _started(out: Path | None, request: dict[str, Any], *, download: bool, progress: bool) -> _Job:
    from flowstone.data import open_source
    from flowstone.errors import UnknownNameError
    from flowstone.recipes import DEFAULT, IMAGE_DEFAULT, all_recipes, build, shape_arguments
    from flowstone.runs import Run
    from flowstone.runs.checkpoint import describe

    recipe, training = request["flow"], dict(request["training"])
    if recipe is not None and recipe not in all_recipes():
        raise UnknownNameError("recipe", recipe, all_recipes())
    training.setdefault("seed", 0)
    seed = training["seed"]
    dataset = open_source(request["source"], seed=seed, **request["data"], download=download, progress=progress)
    recipe = recipe or (IMAGE_DEFAULT if dataset.images else DEFAULT)
    arguments = {**shape_arguments(recipe, dataset.event_shape), **request["set"]}
    if dataset.context_columns:
        arguments["context_features"] = len(dataset.context_columns)
    flow = build(recipe, arguments)  # a wrong argument is found before anything is written
    training = _counted(training, dataset)
    where = Path("runs") / f"{Path(request['source']).resolve().stem}-{recipe}"
    run = Run.create(out) if out else Run.create_numbered(where)
    extra = {
        "columns": list(dataset.columns),
        "context_columns": list(dataset.context_columns),
        "data": dict(dataset.description),
        "training": training,
        "request": request,
    }
    record = describe(flow, extra)
    run.write_json("flow.json", record)
    return _Job(run, dataset, record)


def _continued(out: Path | None, request: dict[str, Any]) -> _Job:
    from flowstone.errors import OutputError
    from flowstone.runs import Run

    if out is None:
        raise SettingError("--resume needs --out RUN: the folder of the training to go on with")
    run = Run(out)
    record = run.record
    if run.finished:
        raise OutputError(f"{out}: this training has ended (metrics.json is there); choose another --out to train anew")
    before = json.loads(json.dumps(record.get("request", {}))) | {"flow": record["recipe"]}
    for name, now in json.loads(json.dumps(request)).items():
        then = before.get(name)
        if now not in (then, None, {}) and not (name == "data" and now == _PLAIN_DATA):
            raise SettingError(f"--resume goes on with the settings of {out}: {name} was {then!r}, not {now!r}")
    return _Job(run, run.dataset(), record)


_PLAIN_DATA = {
    "context": [], "columns": [], "points": None, "drop_missing": False, "dequantize": True,
    "size": None, "gray": False, "skip_bad": False, "data_dir": None,
}  # fmt: skip


def _counted(training: dict[str, Any], dataset) -> dict[str, Any]:
    """Turn epochs into steps; check the settings before anything is written."""
    from flowstone.train.settings import Settings

    epochs = training.pop("epochs", None)
    if epochs is not None:
        if "steps" in training:
            raise SettingError("--steps and --epochs say the same thing twice: give one of them")
        if callable(dataset.train):
            raise SettingError(
                f"--epochs {epochs}: fresh points have no epochs; use --steps, or --points for a fixed set"
            )
        size = Settings(**training).for_data(dataset.event_shape, len(dataset.train)).batch_size
        training["steps"] = epochs * max(1, len(dataset.train) // size)
    elif "minutes" in training and "steps" not in training:
        training["steps"] = None  # the clock alone decides
    Settings(**training)
    return training
