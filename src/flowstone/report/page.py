"""The page around the sections: head, navigation, style and script, all in one text."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from markupsafe import Markup, escape

from flowstone.report.markup import join
from flowstone.report.section import Section
from flowstone.report.sections.opening import opening
from flowstone.report.subject import Subject

__all__ = ["page"]

PARTS = Path(__file__).parent  # page.html, page.css, page.js


def page(subject: Subject, sections: Sequence[Section]) -> str:
    """The whole page as text; it loads nothing from elsewhere."""
    source = str(subject.record.get("data", {}).get("source", subject.run.folder.name))
    name = Path(source).name or source
    recipe = subject.record.get("recipe", "density")
    links = join(Markup('<li><a href="#{}">{}</a></li>').format(each.name, each.title) for each in sections)
    bodies = join(
        Markup('<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>{2}</section>').format(
            each.name, each.title, each.body
        )
        for each in sections
    )
    return Template(_read("page.html")).substitute(
        title=escape(f"{name}: {recipe}"),
        style=_read("page.css"),
        script=_read("page.js"),
        about=escape(_about(subject, recipe)),
        opening=opening(subject),
        links=links,
        sections=bodies,
    )


def _about(subject: Subject, recipe: str) -> str:
    shape = "x".join(map(str, subject.density.event_shape))
    what = f"images of {shape}" if subject.images else f"{len(subject.columns)} columns"
    given = subject.context_columns
    context = f", given {', '.join(given[:5])}{', …' if len(given) > 5 else ''}" if given else ""
    return f"A density of {what}{context}, by the recipe {recipe}; run folder {subject.run.folder}"


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
