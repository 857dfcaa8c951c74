"""The check of the flow: whether it inverts, and its log-dets are correct."""

from collections.abc import Sequence

from markupsafe import Markup

from flowstone.evaluation.check import check as examine
from flowstone.evaluation.diagnosis import COLUMNS, PLACE_NAMES, FlowReport, LayerReport
from flowstone.flow import Flow
from flowstone.report.markup import join, number, paragraph, table, unfold
from flowstone.report.subject import Subject

__all__ = ["check"]


def check(subject: Subject) -> Markup | None:
    """What ``flowstone check`` says. None of a density that is no flow, and without data."""
    if not isinstance(subject.density, Flow) or subject.dataset is None:
        return None
    rows = subject.dataset.validation
    found = examine(subject.density, rows.x, rows.context)
    said = [paragraph(f"{finding}.", "note") for finding in found.findings]
    parts = said or [paragraph("Nothing wrong: the flow inverts, and its log-dets are those of its Jacobians.")]
    for whole in found.whole:
        layers = [report for report in found.layers if report.place == whole.place]
        place = PLACE_NAMES[whole.place]
        made = _table(f"Errors {place}", layers, whole)
        parts.append(made if whole.place == "data" else unfold(f"Errors {place}", made))
    return join(parts)


def _table(caption: str, layers: Sequence[LayerReport], whole: FlowReport) -> Markup:
    lines = [
        (
            f"{one.layer} {one.name}",
            *map(_cell, (one.round_trip, one.log_det, one.condition, one.saturation, one.float32)),
        )
        for one in layers
    ]
    total = (whole.round_trip, None, whole.condition, None, whole.round_trip_float32)
    lines.append(("the whole flow", *map(_cell, total)))
    return table(caption, ("layer", *COLUMNS), lines)


def _cell(value: float | None) -> str:
    return "" if value is None else number(value, ".1e")
