"""The opening of a report: the verdict in one sentence."""

from collections.abc import Mapping

from markupsafe import Markup

from flowstone.evaluation.trees import INSTALL
from flowstone.evaluation.verdict import best_baseline, lead_in_words
from flowstone.report.markup import join, number, paragraph
from flowstone.report.subject import Subject

__all__ = ["opening"]


def opening(subject: Subject) -> Markup:
    """The verdict, and what is left out and why."""
    parts = [_verdict(subject)]
    if subject.dataset is None:
        gone = "what needs data is left out: rows beside samples, latents, calibration, the check"
        parts.append(paragraph(f"The data cannot be read again ({subject.missing}); {gone}.", "note"))
    if "steps" not in subject.metrics:  # what a training counts at its end
        parts.append(paragraph("The training has not ended; these are the best weights so far.", "note"))
    return join(parts)


def _verdict(subject: Subject) -> Markup:
    found = subject.verdict
    if found is not None:
        reasons = found.sentence.removeprefix(f"{found.word}: ")
        return paragraph(Markup("<strong>{}</strong>: {}.").format(found.word, reasons), "verdict")
    metrics = subject.metrics
    if not metrics:
        return paragraph("No figures: the training has not ended.", "verdict")
    if metrics.get("n_not_finite"):
        lost = metrics["n_not_finite"]
        count = f"{lost} of {metrics['n_test']} test rows {'has' if lost == 1 else 'have'}"
        return paragraph(f"Not usable as it is: {count} a likelihood that is not finite.", "verdict")
    if subject.images:
        error = number(metrics.get("bits_per_dim_stderr", 0.0))
        bits = f"{number(metrics['bits_per_dim'])} ± {error} bits a dimension on {metrics['n_test']} test images"
        return paragraph(f"{bits}; the uniform model of the integers 0 … 255 has 8.", "verdict")
    said = paragraph(f"{_compared_with_baselines(metrics)}.", "verdict")
    return said if subject.has_judges else join((said, paragraph(f"For a verdict, {INSTALL}.", "note")))


def _compared_with_baselines(metrics: Mapping) -> str:
    nll = f"{number(metrics['nll_nats'])} ± {number(metrics['nll_stderr'])} nats a row on {metrics['n_test']} test rows"
    best = best_baseline(metrics.get("baselines_nll_nats") or {})
    if best is None:
        return nll
    name, value = best
    error = (metrics.get("baselines_lead_stderr") or {}).get(name)
    return f"{nll}, {lead_in_words(value - metrics['nll_nats'], error, name)}"
