"""How to do it again: the commands, and the same from Python."""

from markupsafe import Markup

from flowstone.report.markup import code, join, paragraph
from flowstone.report.subject import Subject

__all__ = ["again"]


def again(subject: Subject) -> Markup:
    """Lines for a shell that train again and use the run, and lines of Python that load it."""
    parts = []
    if subject.commands:
        parts += [
            paragraph("In a shell, from the folder where the training was started:"),
            code(subject.commands, "commands"),
        ]
    folder = str(subject.run.folder)
    lines = ["import flowstone", "", f"density = flowstone.load({folder!r})"]
    if not subject.density.context_features:
        lines.append("density.log_prob(density.sample(10))")
    parts += [paragraph("In Python:"), code(lines, "lines of Python")]
    return join(parts)
