"""Shared by several commands: reading values from words, checking what is written, and showing figures."""

import ast
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.data.tables.reading import READING
from flowstone.errors import NonFiniteError, OutputError, SettingError
from flowstone.validation import require_choice

if TYPE_CHECKING:
    from torch import Tensor

    from flowstone.data import Rows
    from flowstone.data.tables import Columns, Table
    from flowstone.density import Density
    from flowstone.runs import Run
    from flowstone.table_model import TableModel

__all__ = [
    "Device",
    "FiniteCheck",
    "Out",
    "device_of",
    "given_label",
    "given_of",
    "given_values",
    "images_options",
    "judged",
    "model_of",
    "precision_of",
    "print_metrics",
    "reading_options",
    "require_apart",
    "say_left_out",
    "say_noise",
    "settings_of",
]

Device = str
Out = Annotated[Path, Parameter(allow_leading_hyphen=True)]  # a file; - is standard output


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """``["couplings=8", "hidden=64,64", "prior=logistic"]`` → a dictionary of plain values."""
    settings = {key.replace("-", "_"): _value(text) for key, text in _pairs("--set", words).items()}
    for key in ("features", "event_shape", "context_features"):
        if key in settings:
            choice = "--columns, --exclude and --context choose the columns, --size and --gray the shape of images"
            raise SettingError(f"--set {key}: the data determine it ({choice})")
    return settings


def given_of(words: Sequence[str], known: Sequence[str] = ()) -> dict[str, float]:
    """``["a=1.5", "b=2"]`` → numbers by name."""
    values = {}
    for name, text in _pairs("--given", words, known).items():
        try:
            values[name] = float(text)
        except ValueError as error:
            raise SettingError(f"--given {name}={text}: expected a number") from error
    return values


def given_values(words: Sequence[str], columns: "Columns") -> dict[str, Any]:
    """``["sex=F,M", "age=40"]`` → values by column; a comma parts several, unless the whole text is a level."""
    values: dict[str, Any] = {}
    for name, text in _pairs("--given", words, columns.names).items():
        known = columns.kind(name) if name in columns.names else None
        is_level = text in map(str, getattr(known, "levels", ()))
        values[name] = text if is_level or "," not in text else [part.strip() for part in text.split(",")]
    return values


def model_of(run: "Run", device: Device) -> "TableModel":
    """The density of mixed columns in a run folder, with the kinds of its columns."""
    from flowstone.table_model import TableModel

    run.require_weights()
    return TableModel.load(run.folder, device=device_of(device))


def given_label(words: Sequence[str]) -> dict[str, str]:
    """``["label=cat"]`` → the class of the images to be drawn."""
    pairs = _pairs("--given", words)
    for name in pairs:
        if name != "label":
            raise SettingError(f"--given {name}: images are given a label")
    return pairs


def device_of(name: Device) -> str:
    """The device to use; ``auto`` is a GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        return str(device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error


def require_apart(out: Path, data: str) -> None:
    """Refuse to write in place of a table that is read, or into its folder, where the file would be a part of it."""
    from flowstone.data.tables import STDOUT, files_of

    if out == STDOUT:
        return
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise OutputError(f"cannot write {out}: it would be a part of the table {data}; choose another folder")
    if out.exists() and any(path.exists() and out.samefile(path) for path in files_of(data)):
        raise OutputError(f"cannot write {out}: the table is read from it")


def reading_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the data options that say how a file of a table is read."""
    return {name: chosen[name] for name in READING if name in chosen}


def images_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the data options that say how images are read."""
    return {name: chosen[name] for name in ("skip_bad", "data_dir") if name in chosen}


def precision_of(name: str, density: "Density") -> AbstractContextManager:
    """A context in which the density runs as it is (``fp32``) or with its nets in bfloat16 (``bf16``)."""
    import torch

    from flowstone.execution.precision import bf16_conditioners, has_conditioners
    from flowstone.train.settings import PRECISIONS

    require_choice("precision", name, PRECISIONS)
    if name == "bf16" and not has_conditioners(density, torch.float32):
        nets = "the nets in float32 of couplings and of autoregressive layers"
        print(f"--precision bf16 changes nothing: it is for {nets}, of which this density has none", file=sys.stderr)
    return bf16_conditioners(density) if name == "bf16" else nullcontext()


class FiniteCheck:
    """Counts the rows that hold a NaN or an infinity among those that are about to be written."""

    def __init__(self) -> None:
        self.rows, self.bad, self.first = 0, 0, 0

    def __call__(self, rows: "Tensor") -> "Tensor":
        """The same rows, counted."""
        bad = ~rows.flatten(1).isfinite().all(1) if rows.ndim > 1 else ~rows.isfinite()
        if bad.any() and not self.bad:
            self.first = self.rows + int(bad.int().argmax()) + 1
        self.rows, self.bad = self.rows + len(rows), self.bad + int(bad.sum())
        return rows

    def require(self, out: Path, what: str) -> None:
        """Raise NonFiniteError if a row was not finite. The file is complete; the exit status tells of such rows.

        Args:
            out: the file that was written.
            what: what is not finite, such as "log_prob".
        """
        if self.bad:
            rows = "row" if self.bad == 1 else "rows"
            written = "standard output" if str(out) == "-" else out
            raise NonFiniteError(
                f"{written} is written, but {what} is NaN or infinite in {self.bad} {rows} of {self.rows}, first in "
                f"row {self.first}"
            )


def say_left_out(table: "Table") -> None:
    """Print on stderr which rows of a table were not read."""
    for note in table.notes:
        if note.startswith("rows ") and "left out: " in note:
            print(f"{table.path}: {note}", file=sys.stderr)


def say_noise(noise: Mapping[str, float], why: str) -> None:
    """Print on stderr which columns have noise added to them."""
    if noise:
        widths = ", ".join(f"{name} {width:.3g}" for name, width in noise.items())
        print(f"repeated values, so uniform noise is added ({why}), of width: {widths}", file=sys.stderr)


def judged(density: "Density", rows: "Rows", metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Whether a density of rows of columns is good enough; nothing where a row has no likelihood, or where scikit-learn
    is not installed, which is said.
    """
    from flowstone.evaluation.trees import INSTALL
    from flowstone.evaluation.verdict import verdict

    if len(density.event_shape) != 1 or metrics["n_not_finite"]:
        return {}
    if find_spec("sklearn") is None:
        print(f"for a verdict on the density, {INSTALL}", file=sys.stderr)
        return {}
    found = verdict(
        density, rows.x, rows.context, nll=metrics["nll_nats"], baselines=metrics.get("baselines_nll_nats"),
        lead_errors=metrics.get("baselines_lead_stderr"), names=names,
    )  # fmt: skip
    return {"verdict": asdict(found)}


def print_metrics(metrics: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Print the figures in lines of text."""

    def figure(name: str) -> str:
        return _figure(metrics[name])

    say(f"test NLL {figure('nll_nats')} ± {figure('nll_stderr')} nats on {metrics['n_test']} rows")
    if "log_det" in metrics:
        say(f"the two terms of log p(x): log p(z) {figure('log_prior')} and log-det {figure('log_det')} nats")
    for name, nll in metrics.get("baselines_nll_nats", {}).items():
        say(f"{_figure(nll):>13} nats: {name}")
    if "entropy" in metrics:
        say(f"entropy  {metrics['entropy']:.4f} nats, below which no model gets")
    _print_counts(metrics, say)
    if "verdict" in metrics:
        say(f"verdict: {metrics['verdict']['sentence']}")
    if "bits_per_column" in metrics:
        _print_columns(metrics, say)
        _print_training(metrics, say)
        return
    bits = f"bits/dim {figure('bits_per_dim')}"
    if "bound_samples" in metrics:
        draws = metrics["bound_samples"]
        bits += f" ± {figure('bits_per_dim_stderr')}, of integers 0 … 255: a bound by {draws} "
        bits += "draw of the noise" if draws == 1 else "draws of the noise"
    say(bits)
    if "round_trip_max" in metrics:
        say(f"round trip at most {_figure(metrics['round_trip_max'], '.1e')}")
    _print_training(metrics, say)


def _figure(value: float | None, spec: str = ".4f") -> str:
    """A figure as text; JSON keeps what is not finite as None."""
    return "not finite" if value is None or not math.isfinite(value) else format(value, spec)


def _print_counts(metrics: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if count := metrics.get("n_also_in_training"):
        say(f"of these, {count} {'row is' if count == 1 else 'rows are'} also in the table that was learned from")
    if count := metrics["n_not_finite"]:
        say(f"of these, {count} {'row has' if count == 1 else 'rows have'} a likelihood that is not finite")


def _print_columns(metrics: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Bits of each column given those before it, beside its bits alone where they are known."""
    bits, alone = metrics["bits_per_column"], metrics.get("independent_bits_per_column")
    width = max(map(len, ("bits of", *bits)))
    say(f"{'bits of':{width}}  given those before it" + ("   alone" if alone else ""))
    for name, value in bits.items():
        say(f"{name:{width}}  {_figure(value, '.3f'):>21}" + (f"  {_figure(alone[name], '.3f'):>6}" if alone else ""))


def _print_training(metrics: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if "seconds" in metrics:
        way = ", gradients computed directly" if metrics.get("direct") else ""
        say(
            f"{metrics['steps']} steps in {metrics['seconds']:.1f} s ({metrics['stopped']}), "
            f"best at step {metrics['best_step']}{way}"
        )


def _pairs(flag: str, words: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """``key=value`` words by their keys, each of which may be given once; a key that is known may hold ``=`` itself."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        whole = max((name for name in known if word.startswith(f"{name}=")), key=len, default=key)
        key, text = (whole, word[len(whole) + 1 :]) if equals else (key, text)
        if not equals or not key:
            raise SettingError(f"{flag} {word!r}: expected key=value")
        if key in pairs:
            raise SettingError(f"{flag} {key}: given twice, as {pairs[key]} and as {text}")
        pairs[key] = text
    return pairs


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value
