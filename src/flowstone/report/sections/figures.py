"""Figures on the test rows with their errors, beside simple models."""

import math

from markupsafe import Markup

from flowstone.report.markup import join, number, paragraph, side_by_side, table
from flowstone.report.subject import Subject

__all__ = ["figures"]


def figures(subject: Subject) -> Markup | None:
    """The likelihood of test rows, that of simple models, and what the training took."""
    metrics = subject.metrics
    if not metrics:
        return None
    parts = [_likelihoods(subject)]
    tables = [_further(subject)] + ([_training(subject)] if "steps" in metrics else [])
    if metrics.get("n_also_in_training"):
        shared = metrics["n_also_in_training"]
        parts.append(
            paragraph(f"{shared:,} of the {metrics['n_test']:,} test rows also stand among the training rows.")
        )
    return join((*parts, side_by_side(tables)))


def _likelihoods(subject: Subject) -> Markup:
    metrics = subject.metrics
    own = metrics["nll_nats"]
    lines = [("this density", number(own), number(metrics["nll_stderr"]), "")]
    lead = metrics.get("baselines_lead_stderr", {})
    for name, value in (metrics.get("baselines_nll_nats") or {}).items():
        ahead = None if value is None or own is None else value - own
        error = f" ± {number(lead[name])}" if name in lead else ""
        lines.append((name, number(value), "", number(ahead, "+.4f") + error))
    if "entropy" in metrics:
        entropy = metrics["entropy"]
        lines.append(
            ("entropy of the data", number(entropy), "", number(None if own is None else entropy - own, "+.4f"))
        )
    if subject.images:
        uniform = 8 * math.log(2) * subject.density.event_shape.numel()
        lines.append(
            ("uniform over 0 … 255", number(uniform), "", number(None if own is None else uniform - own, "+.4f"))
        )
    head = ("model", f"NLL (nats {'an image' if subject.images else 'a row'})", "standard error", "minus this density")
    if len(lines) == 1:  # nothing to compare with
        head, lines = head[:-1], [lines[0][:-1]]
    said = (
        "NLL is the mean of −log p(x), in the units of the data: lower is better, and only differences between models "
        f"of the same {_rows(subject)} have a meaning."
    )
    return join(
        (
            table(f"Mean negative log-likelihood of {metrics['n_test']:,} test {_rows(subject)}", head, lines),
            paragraph(said),
        )
    )


def _further(subject: Subject) -> Markup:
    metrics = subject.metrics
    lines = [("median NLL", f"{number(metrics['nll_median'])} nats")] if "nll_median" in metrics else []
    bits = number(metrics["bits_per_dim"])
    if "bound_samples" in metrics:
        lines.append(("bits a dimension, a bound", f"{bits} ± {number(metrics['bits_per_dim_stderr'])}"))
        lines.append(("draws of the noise for each image", str(metrics["bound_samples"])))
    else:
        lines.append(("bits a dimension", bits))
    lines.append((f"{_rows(subject)} whose likelihood is not finite", str(metrics["n_not_finite"])))
    if "round_trip_max" in metrics:
        lines.append(("round trip, largest error", number(metrics["round_trip_max"], ".1e")))
    return table(f"Further figures of the test {_rows(subject)}", ("figure", "value"), lines)


def _training(subject: Subject) -> Markup:
    metrics = subject.metrics
    lines = [
        ("parameters", f"{metrics['parameters']:,}"),
        ("steps", f"{metrics['steps']:,} ({metrics['stopped']})"),
        ("seconds", f"{metrics['seconds']:.1f}"),
        ("best step, whose weights are kept", f"{metrics['best_step']:,}"),
        ("validation NLL at the best step", f"{number(metrics['best_val_nll'])} nats"),
        ("times that something was not finite", str(metrics["recoveries"])),
    ]
    return table("The training", ("figure", "value"), lines)


def _rows(subject: Subject) -> str:
    return "images" if subject.images else "rows"
