"""Writing the report of a run."""

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from flowstone.bars import counting_bar
from flowstone.errors import FlowstoneError
from flowstone.files import write_atomically
from flowstone.report.markup import paragraph
from flowstone.report.page import page
from flowstone.report.section import Section
from flowstone.report.sections import SECTIONS
from flowstone.report.subject import Subject

__all__ = ["REPORT", "report_page", "write_report"]

REPORT = "report.html"


def write_report(subject: Subject, *, progress: bool = False) -> Path:
    """Write ``report.html`` into the run folder: all of it or nothing.

    Args:
        progress: whether to show a bar, if stderr is a terminal.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = subject.run.folder / REPORT
    write_atomically(path, report_page(subject, progress=progress).encode())
    return path


def report_page(subject: Subject, *, progress: bool = False) -> str:
    """The page as text."""
    made = []
    with counting_bar("report", len(SECTIONS), enabled=progress) as advance:
        for title, section in SECTIONS.items():
            body = _body(section, subject)
            if body is not None:
                made.append(Section(title.lower().replace(" ", "-"), title, body))
            advance(1)
    return page(subject, made)


def _body(section: Callable[[Subject], Markup | None], subject: Subject) -> Markup | None:
    """The section; where its figures cannot be computed, the reason in its place."""
    try:
        return section(subject)
    except FlowstoneError as error:
        return paragraph(f"Left out: {error.problem}.", "note")
