"""Calibration: whether held-out values lie where the density says."""

import math

from markupsafe import Markup

from flowstone.plot import calibration_figure, png_of
from flowstone.report.markup import join, number, paragraph, picture, table
from flowstone.report.subject import Subject

__all__ = ["calibration"]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


def calibration(subject: Subject) -> Markup | None:
    """Coverage of regions of highest density, and ranks of values among samples."""
    found = subject.calibration
    if found is None:
        return None
    shares = {level: found.coverage(level) for level in LEVELS}
    lines = [
        (f"{level:.0%}", number(100 * share, ".1f") + "%", number(100 * error, ".1f"))
        for level, (share, error) in shares.items()
        if not math.isnan(share)
    ]
    image = png_of(calibration_figure(found, subject.columns))
    said = ", ".join(f"{line[0]} regions hold {line[1]}" for line in lines)
    alt = f"Calibration of {len(found.ranks)} test rows: {said or 'all rows have gaps'}; histograms of ranks by column."
    parts = [
        picture(
            image,
            alt,
            "Grey is where 99% of a right density lies by chance. Ranks that pile up at the ends mean samples too "
            "narrow, in the middle too wide, on one side samples that are shifted.",
        )
    ]
    if lines:
        head = ("region of highest density", "test rows inside", "standard error (percentage points)")
        parts.append(table("Coverage of test rows", head, lines))
    if subject.verdict is not None:
        wrong = subject.verdict.miscalibrated
        worst = f"Values of {', '.join(wrong)} lie elsewhere than their samples" if wrong else "No column stands out"
        parts.append(paragraph(f"{worst} (p < 0.01 over all columns, test of Kolmogorov and Smirnov)."))
    return join(parts)
