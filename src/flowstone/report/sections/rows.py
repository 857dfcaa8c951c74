"""Rows of columns: data beside samples."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from flowstone.evaluation.calibration import distance_between
from flowstone.plot import compare_column, most_dependent, new_figure, png_of, sample_figure
from flowstone.plot.texts import number_text, shortened_all
from flowstone.report.markup import join, paragraph, picture
from flowstone.report.subject import Subject

__all__ = ["rows"]

CARDS, MANY = 40, 12  # most columns that have a picture each; more columns than this many can be searched
TITLE = 26  # characters of a name above a picture
MARK = 10  # characters of a level beside an axis
CHOSEN = 60  # columns to choose from
HELD = 400  # rows that the page holds for the choice of columns


def rows(subject: Subject) -> Markup | None:
    """Pictures of densities in one and two dimensions, of each column, and of pairs. None of images."""
    if subject.images or not subject.can_sample:
        return None
    if subject.dataset is None:
        image = png_of(sample_figure(subject.samples, subject.columns))
        return picture(image, f"Samples alone: {len(subject.samples)} rows of {', '.join(subject.columns[:6])}.")
    data, drawn = subject.compared
    names = subject.compared_columns
    off = [distance_between(data[:, index], drawn[:, index]) for index in range(data.shape[1])]
    parts = [_of_few_columns(subject)]
    if len(subject.columns) > 1 or subject.context_columns:
        parts += [Markup("<h3>Columns</h3>"), _cards(subject, data, drawn, off)]
    if len(names) > 2:
        parts += [Markup("<h3>Pairs of columns</h3>"), _pairs(subject), _explorer(subject, data, drawn)]
    return join(parts)


def _of_few_columns(subject: Subject) -> Markup:
    captions = {
        "density": (
            "The learned density, and samples of it: ",
            "Brighter is denser. Points are samples."
            if len(subject.columns) == 2
            else "The curve is the learned density, the bars are data.",
        ),
        "data-latent-samples": (
            "Data, latent and samples: three scatters of the plane; ",
            "The colour is the direction in which the latent of a point lies, so it links a point to its latent.",
        ),
        "conditional": (
            "The density given the context: ",
            "The density as the context changes; points are rows of the data.",
        ),
    }
    about = f"{' and '.join(subject.columns[:2])}."
    return join(
        picture(image, alt + about, caption)
        for name, (alt, caption) in captions.items()
        if (image := subject.picture(name)) is not None
    )


def _cards(subject: Subject, data: Tensor, drawn: Tensor, off: Sequence[float]) -> Markup:
    names = subject.columns
    titles = shortened_all(names, TITLE)
    order = sorted(range(len(names)), key=lambda index: -off[index])[:CARDS]
    made = []
    for index in sorted(order):
        name = names[index]
        scale = subject.scale(index)
        figure, ((ax,),) = new_figure(1, 1, (2.5, 1.9))
        compare_column(ax, data[:, index], drawn[:, index], titles[index], scale)
        alt = f"{name}, data and samples: largest distance of the two distribution functions {off[index]:.3f}."
        card = picture(png_of(figure), alt, kind="card")
        made.append(Markup('<div data-column="{}">{}</div>').format(name, card))
    said = "Data in blue, samples in orange. Few different values are bars; of others the middle 99% are shown."
    if len(names) > CARDS:
        said += f" Of {len(names)} columns these {CARDS} differ most."
    search = Markup("")
    if len(made) > MANY:
        search = Markup(
            '<form hidden role="search"><label>Find a column <input id="find-column" type="search"></label>'
            '<span id="columns-found" role="status"></span></form>'
        )
    return join((paragraph(said), search, Markup('<div class="cards">{}</div>').format(join(made))))


def _pairs(subject: Subject) -> Markup:
    image = subject.picture("pairs")
    if image is None:
        return Markup("")
    names = subject.compared_columns
    shown = [names[index] for index in most_dependent(subject.compared[0])]
    alt = f"Pairs of the columns {', '.join(shown)}: data above the diagonal, samples below it, marginals on it."
    more = f" Of {len(names)} columns those that depend most on each other." if len(names) > len(shown) else ""
    return picture(image, alt, f"Data in blue above the diagonal, samples in orange below it.{more}")


def _explorer(subject: Subject, data: Tensor, drawn: Tensor) -> Markup:
    """Any two columns, chosen by the reader; the rows are in the page as JSON."""
    names = subject.compared_columns[:CHOSEN]
    columns = []
    for index, name in enumerate(names):
        levels = subject.levels.get(name)
        parts = {"data": data[:HELD, index], "samples": drawn[:HELD, index]}
        column: dict[str, Any] = {"name": name, "levels": None}
        column |= {part: _plain(values, levels, subject.spreads[name]) for part, values in parts.items()}
        if levels is not None:
            column["levels"] = _with_others(levels, parts.values())
            column["marks"] = shortened_all(column["levels"], MARK)
        if name in subject.formats:
            column["texts"] = {part: _texts(values, subject.formats[name]) for part, values in parts.items()}
        columns.append(column)
    first = most_dependent(data[:, : len(names)], 2)
    record = {"columns": columns, "first": first}
    held = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(
        '<form id="pair-form" hidden><label>To the right <select id="pair-x"></select></label>'
        '<label>Upwards <select id="pair-y"></select></label></form>'
        '<div id="pair" hidden><p id="pair-said" role="status"></p><div class="pair">'
        '<figure><div id="pair-data"></div><figcaption>data</figcaption></figure>'
        '<figure><div id="pair-samples"></div><figcaption>samples</figcaption></figure></div></div>'
        '<script type="application/json" id="rows-held">{}</script>'
    ).format(Markup(held))


def _texts(values: Tensor, write: Callable[[float], str]) -> list[str | None]:
    return [write(value) if math.isfinite(value) else None for value in values.double().tolist()]


def _plain(values: Tensor, levels: Sequence[str] | None, spread: float) -> list[float | int | None]:
    numbers = values.double().tolist()
    if levels is not None:
        return [None if math.isnan(value) else min(int(value), len(levels)) for value in numbers]
    return [float(number_text(value, spread, digits=6)) if math.isfinite(value) else None for value in numbers]


def _with_others(levels: Sequence[str], parts: Iterable[Tensor]) -> list[str]:
    """The levels, and one for values that have none where there are such."""
    return [*levels, "(others)"] if any((part >= len(levels)).any() for part in parts) else list(levels)
