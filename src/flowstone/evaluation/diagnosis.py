"""What a check of a flow reports: figures for each layer and the whole, and a sentence on each thing found wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

__all__ = ["FAR", "Diagnosis", "FlowReport", "LayerReport", "findings"]

EPS = torch.finfo(torch.float64).eps
PLACES = ("data", "outside", "edge")
FAR = 3.0  # how many times as far from the middle "outside" and "edge" are

# Limits beyond which a figure is reported as wrong: of round trips, condition numbers, saturation, and float32.
WRONG, SINGULAR, SATURATED, COARSE = 1e-8, 1e6, 0.9, 1e-3


@dataclass(frozen=True)
class LayerReport:
    """One layer at one place.

    Attributes:
        layer: its number in the order in which a data point meets the layers, from 1.
        name: its class.
        place: on the ``data``, ``outside`` it, or at the latent's ``edge``.
        round_trip: largest error of there and back in float64, in parts of the largest number of the same feature.
        log_det: largest error of its log-det in nats, against its Jacobian (in many dimensions: against the way back).
        condition: largest ratio of the Jacobian's singular values, each feature in units of its own deviation before
            and after the layer; None in many dimensions.
        saturation: how near the layer is to its bound: for an affine transform the 95% quantile of its log-scales, for
            a mixture of logistics the largest one, as shares of the bound; for a spline the share of the values that
            lie beyond its bound; None where there is no bound.
        float32: largest difference between float32 and float64 on the same float32 numbers, in parts of the largest
            number of the same feature.
    """

    layer: int
    name: str
    place: str
    round_trip: float
    log_det: float
    condition: float | None
    saturation: float | None
    float32: float


@dataclass(frozen=True)
class FlowReport:
    """The whole flow at one place: round trips in both precisions, condition number, and the largest error of log_prob
    in nats: in float32 (None where a flow draws noise, which differs by precision), and with nets in bfloat16
    (``precision="bf16"``).
    """

    place: str
    round_trip: float
    round_trip_float32: float
    condition: float | None
    log_prob_float32: float | None
    log_prob_bf16: float


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The result of ``check``; ``print`` shows its sentences and a table.

    Attributes:
        layers: a report for each layer at each place.
        whole: a report on the whole flow at each place.
        findings: a sentence for each thing that is wrong.
    """

    layers: tuple[LayerReport, ...]
    whole: tuple[FlowReport, ...]
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, object]:
        """The figures as a dictionary for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __repr__(self) -> str:
        return f"Diagnosis(ok={self.ok}, findings={list(self.findings)})"

    def __str__(self) -> str:
        lines = list(self.findings) or ["nothing wrong: the flow inverts and its log-dets are those of its Jacobians"]
        for whole in self.whole:
            lines += ["", PLACE_NAMES[whole.place], _line("", *COLUMNS)]
            for report in self.layers:
                if report.place == whole.place:
                    numbers = (report.round_trip, report.log_det, report.condition, report.saturation, report.float32)
                    lines.append(_line(f"{report.layer:>3} {report.name}", *map(_number, numbers)))
            numbers = (whole.round_trip, None, whole.condition, None, whole.round_trip_float32)
            lines.append(_line("    the whole flow", *map(_number, numbers)))
            off = whole.log_prob_float32
            by_float32 = "" if off is None else f"by {off:.1e} nats in float32, "
            lines.append(f"    log_prob is off at most {by_float32}by {whole.log_prob_bf16:.1e} with nets in bfloat16")
        return "\n".join(lines)


PLACE_NAMES = {
    "data": "on the data",
    "outside": f"outside it ({FAR:g} times as far from its middle)",
    "edge": f"at the latent's edge ({FAR:g} times as far out as the prior's samples), from latent to data",
}
COLUMNS = ("round trip", "log-det", "condition", "saturation", "float32")


def findings(layers: Sequence[LayerReport], whole: Sequence[FlowReport]) -> Iterator[str]:
    """A sentence for each thing that is wrong; of layers that fail in the same way, the worst one."""
    for place in PLACES:
        here = [report for report in layers if report.place == place]
        yield from _layer_findings(here, place)
    for report in whole:
        yield from _findings_of_flow(report, len({layer.layer for layer in layers}))


def _layer_findings(here: Sequence[LayerReport], place: str) -> Iterator[str]:
    where = {"data": "on the data", "outside": "outside the data", "edge": "at the latent's edge"}[place]

    def worst(wrong: Sequence[LayerReport], key: str) -> tuple[LayerReport, str]:
        report = max(wrong, key=lambda one: getattr(one, key))
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return report, f"layer {report.layer}, {report.name},{others}"

    # Rounding in float64 is no fault of an ill-conditioned layer.
    if wrong := [r for r in here if not r.round_trip <= max(WRONG, 1e3 * EPS * (r.condition or 1))]:
        report, name = worst(wrong, "round_trip")
        yield f"{name} does not invert {where}: there and back is off by {report.round_trip:.1e}"
    if wrong := [r for r in here if not r.log_det <= max(1e2 * WRONG, 1e3 * EPS * (r.condition or 1))]:
        report, name = worst(wrong, "log_det")
        yield f"{name} claims a log-det that is not its Jacobian's {where}: off by {report.log_det:.1e} nats"
    if wrong := [r for r in here if r.condition is not None and not r.condition <= SINGULAR]:
        report, name = worst(wrong, "condition")
        yield f"{name} is nearly singular {where}: condition number {report.condition:.1e}"
    affine = [r for r in here if r.saturation is not None and "Affine" in r.name and r.saturation > SATURATED]
    if affine and place == "data":
        report, name = worst(affine, "saturation")
        yield f"{name} runs at the bound of its scale {where}: widen the bound, or add couplings"


def _findings_of_flow(report: FlowReport, depth: int) -> Iterator[str]:
    where = {"data": "on the data", "outside": "outside the data", "edge": "at the latent's edge"}[report.place]
    amplified = (
        f"its {depth} layers together have condition number {report.condition:.1e}"
        if report.condition
        else (f"rounding grows through its {depth} layers")
    )
    if not report.round_trip <= 100 * WRONG:
        yield f"the whole flow does not invert {where}, even in float64: off by {report.round_trip:.1e}; {amplified}"
    elif not report.round_trip_float32 <= COARSE:
        off = f"off by {report.round_trip_float32:.1e}"
        yield f"the whole flow does not invert in float32 {where}: {off}; {amplified}; use flow.double()"
    off = report.log_prob_float32
    if report.place == "data" and off is not None and not off <= 100 * COARSE:
        yield f"log_prob in float32 is off by up to {off:.2g} nats {where}; use flow.double()"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _line(name: str, *cells: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells)
