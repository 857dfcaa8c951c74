"""The model card of a run: what it is, how good it is, and how to use it, in the format of the Hugging Face hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowstone.files import to_json
from flowstone.runs.machine import machine

__all__ = ["CARD", "model_card"]

CARD = "README.md"
NAME = "NAMESPACE/NAME"  # stands for the name on the hub, where it has none yet
MOST_COLUMNS = 40  # that are listed
# Figures of a card: their names in metrics.json, what they are, and how they are written.
FIGURES = (
    ("nll_median", "median of the negative log-likelihood, in nats", "{:.4f}"),
    ("entropy", "entropy of the data, below which no model gets, in nats", "{:.4f}"),
    ("round_trip_max", "largest error of a round trip, in the units of the data", "{:.1e}"),
    ("parameters", "parameters", "{:,}"),
    ("steps", "training steps", "{:,}"),
    ("best_step", "step of the weights that were kept", "{:,}"),
    ("seconds", "seconds of training", "{:.1f}"),
)


def model_card(record: Mapping[str, Any], metrics: Mapping[str, Any] | None = None, *, name: str = NAME) -> str:
    """A model card in Markdown, with the header in YAML that the hub reads.

    It holds names and kinds of columns and numbers of rows, and no value of the data.

    Args:
        record: the content of ``flow.json``.
        metrics: the content of ``metrics.json``, where the run was evaluated.
        name: on the hub.

    >>> card = model_card({"recipe": "nice", "arguments": {"features": 2}, "event_shape": [2], "dtype": "float32"})
    >>> card.splitlines()[:3]
    ['---', 'library_name: "flowstone"', 'tags: ["density-estimation", "normalizing-flow", "nice"]']
    """
    figures = json.loads(to_json(metrics or {}))  # one that is not finite is None
    parts = [_header(record, figures), f"# {_title(record)}", _what(record)]
    parts += ["## Data", *_data(record), "## Figures", *_figures(figures), "## Use", _use(record, name)]
    parts += ["## Limits", *_limits(record), "## Made with", _made(record)]
    return "\n\n".join(parts) + "\n"


def _header(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The header; JSON in a line is YAML, too."""
    data = record.get("data", {})
    tags = ["density-estimation", "normalizing-flow", record["recipe"], *([data["kind"]] if data else [])]
    fields: dict[str, Any] = {"library_name": "flowstone", "tags": tags}
    if metrics.get("nll_nats") is not None:
        results = [
            {"type": kind, "name": words, "value": metrics[kind]}
            for kind, words in (("nll_nats", "test NLL (nats)"), ("bits_per_dim", "bits per dimension"))
            if metrics.get(kind) is not None
        ]
        source = _source(record)
        result = {
            "task": {"type": "density-estimation", "name": "density estimation"},
            "dataset": {"name": source, "type": data.get("kind", "table"), "split": "test"},
            "metrics": results,
        }
        fields["model-index"] = [{"name": f"{record['recipe']} of {source}", "results": [result]}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _source(record: Mapping[str, Any]) -> str:
    """The name of the data, without the folder they were in."""
    return Path(record.get("data", {}).get("source") or "unknown").name


def _title(record: Mapping[str, Any]) -> str:
    of = f"{_plain(_source(record))}: " if record.get("data", {}).get("source") else ""
    return f"{of}a density by the recipe {record['recipe']}"


def _what(record: Mapping[str, Any]) -> str:
    conditional = ", given the columns of a context" if record.get("context_columns") else ""
    trained = "" if record.get("trained", True) else " **It was not trained.**"
    return (
        f"A probability distribution{conditional}, with an exact likelihood and samples, learned from data with "
        f"[Flowstone](https://github.com/flowstone-flows/flowstone).{trained}"
    )


def _data(record: Mapping[str, Any]) -> Iterator[str]:
    data = record.get("data")
    if not data:
        shape = " x ".join(map(str, record["event_shape"]))
        yield f"Where its data came from is not recorded. One row has shape {shape}."
        return
    rows, source = data.get("rows", 0), _plain(_source(record))
    parts = rows if isinstance(rows, Mapping) else {"in all": rows}
    count = ", ".join(f"{number:,} {part}" for part, number in parts.items())
    if data["kind"] == "toy":
        yield f"The made-up distribution {source}, which Flowstone draws points of."
    elif not data.get("source"):
        yield "A table; its name and the number of its rows are not recorded."
    elif data["kind"] == "images":
        yield f"Images of {' x '.join(map(str, record['event_shape']))} from {source}: {count}."
    else:
        yield f"The table {source}, {rows:,} rows, of which a tenth is for validation and a tenth for the test."
    columns = _columns(record)
    if columns:
        yield "\n".join(["| column | kind | |", "|---|---|---|", *columns[:MOST_COLUMNS]])
    if len(columns) > MOST_COLUMNS:
        yield f"And {len(columns) - MOST_COLUMNS} more columns."
    yield (
        "No row of the data is in this card or in `flow.json`, which holds the names of columns and levels, the range "
        "of each column, and values with mass. Pictures show rows."
    )


def _columns(record: Mapping[str, Any]) -> list[str]:
    kinds = {each.get("column"): each for each in record["data"].get("schema") or []}
    lines = []
    for role, names in (("", record.get("columns") or []), ("context", record.get("context_columns", []))):
        for name in names:
            kind = kinds.get(name, {})
            notes = [role] if role else []
            if "levels" in kind:
                notes.append(f"{len(kind['levels'])} levels")
            if kind.get("missing"):
                notes.append(f"{kind['missing'] / kind['rows']:.0%} gaps")
            lines.append(f"| {_plain(name)} | {kind.get('kind', 'number')} | {', '.join(notes)} |")
    return lines


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    if metrics.get("nll_nats") is None:
        yield "It was not evaluated on held-out rows."
        return
    error = f" ± {metrics['nll_stderr']:.4f}" if metrics.get("nll_stderr") is not None else ""
    mean = "negative log-likelihood of a held-out row, in nats (mean and its standard error)"
    rows = [(mean, f"{metrics['nll_nats']:.4f}{error}"), ("held-out rows", f"{metrics['n_test']:,}")]
    if metrics.get("bits_per_dim") is not None:
        spread = f" ± {metrics['bits_per_dim_stderr']:.4f}" if metrics.get("bits_per_dim_stderr") is not None else ""
        rows.append(("bits per dimension", f"{metrics['bits_per_dim']:.4f}{spread}"))
    rows += [(words, form.format(metrics[key])) for key, words, form in FIGURES if metrics.get(key) is not None]
    yield _table(("figure", "value"), rows)
    if (simple := metrics.get("baselines_nll_nats")) and None not in simple.values():
        yield "Simple models that learned from the same rows, on the same held-out ones:"
        yield _table(
            ("model", "negative log-likelihood, in nats"), [(name, f"{nll:.4f}") for name, nll in simple.items()]
        )
    if sentence := (metrics.get("verdict") or {}).get("sentence"):
        yield f"Verdict: {sentence}."
    if metrics.get("n_not_finite"):
        yield f"**{metrics['n_not_finite']} held-out rows have a likelihood that is not finite.**"


def _use(record: Mapping[str, Any], name: str) -> str:
    context = record.get("context_columns") or []
    lines = ["import flowstone", *(["import torch"] if context else []), "", f'flowstone.pull("{name}", "RUN")']
    if (estimator := record.get("estimator")) is not None:
        lines.append('density = flowstone.FlowDensity.load("RUN")')
        if estimator.get("context"):
            lines.append("rows = density.sample(1, context=context)  # whose columns are those of fit")
        else:
            lines += ["rows = density.sample(64)", "density.score_samples(rows)"]
    elif record.get("data", {}).get("mixed") and not context:
        lines += ['model = flowstone.TableModel.load("RUN")', "rows = model.sample(64)", "model.log_prob(rows)"]
    elif context:
        lines += [
            'density = flowstone.load("RUN")',
            f"context = torch.zeros(64, {len(context)})  # a row of values for each sample",
            "x = density.sample(1, context)[0]",
            "density.log_prob(x, context)",
        ]
    else:
        lines += ['density = flowstone.load("RUN")', "x = density.sample(64)", "density.log_prob(x)"]
    how = "`pip install 'flowstone[hub]'`, then in Python, or by the commands `flowstone pull`, `sample` and `score`:"
    return "\n".join([how, "", "```python", *lines, "```"])


def _limits(record: Mapping[str, Any]) -> Iterator[str]:
    limits = [
        "It describes data like those it learned from. What was rare or wrong there is rare or wrong here.",
        "A high likelihood does not make a row typical, nor a low one an anomaly: in many columns typical rows are not "
        "the most likely ones.",
        "Samples may repeat rare rows of the data nearly. Before a density of personal data is shared, look at the "
        "distances from samples to rows (`flowstone.evaluation.nearest_rows`).",
    ]
    if len(record["event_shape"]) == 3:
        limits.append(
            "Likelihoods of images are bounds, of the integers 0 … 255, and differ a little by draw of the noise."
        )
    else:
        limits.append("Likelihoods are densities in the units of the data: they change with the units.")
    if record.get("data", {}).get("mixed"):
        limits.append("Conditionals agree with each other only as far as the net has learned that they do.")
    yield "\n".join(f"- {limit}" for limit in limits)
    yield "No licence is stated here; whoever publishes it adds one to the header of this card."


def _made(record: Mapping[str, Any]) -> str:
    about = machine()
    versions = f"Flowstone {about['flowstone']}, torch {about['torch']}, Python {about['python']}"
    arguments = {key: value for key, value in record["arguments"].items() if key != "columns"}
    rows = [
        ("recipe", _plain(record["recipe"])),
        *((name, _plain(json.dumps(value))) for name, value in arguments.items()),
        ("precision", record["dtype"]),
        ("seed", str(record.get("training", {}).get("seed", "not recorded"))),
        ("versions, as this card was written", versions),
        ("machine", f"{about['processor']}, {about['system']}"),
    ]
    return _table(("", ""), rows)


def _table(header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~!" else letter for letter in str(text))
    return " ".join(escaped.split())
