"""The reference of the command: what ``--help`` says, as a page."""

import re
from typing import TYPE_CHECKING

from repository import DOCS, write_if_changed

if TYPE_CHECKING:
    from sphinx.application import Sphinx

INTRODUCTION = """# Commands

Every command with all of its flags, as `flowstone COMMAND --help` prints them. An expected error is one line on
standard error and exit status 1, a wrong flag exits with 2, and anything unexpected with 70.

"""


def commands_page() -> str:
    """Markdown, made of the help of the command itself."""
    from flowstone.cli import COMMANDS, app

    sections = []
    for name in sorted(COMMANDS):
        app[name].help = None  # the whole docstring of the command, and not its line in the list of all
        sections.append(_section(name, app[name].generate_docs(output_format="markdown")))
    return INTRODUCTION + "\n\n".join(sections)


def _section(name: str, text: str) -> str:
    usage, _, rest = text.partition("```console\n")[2].partition("\n```")
    rest = rest.replace(" *[default: False]*", "").replace("<", r"\<").replace(">", r"\>")
    rest = re.sub(r"( Default: ([\w.-]+)\.) \*\[default: \2\]\*", r"\1", rest)
    rest = re.sub(r"(?<![`\w-])(?<!, )(--[a-z][a-z-]*)(?![`\w-])", r"`\1`", rest)
    return f"## flowstone {name}\n\n```text\nflowstone {usage}\n```{rest}"


def _write_page(_app: "Sphinx") -> None:
    write_if_changed(DOCS / "generated" / "commands.md", commands_page())


def setup(app: "Sphinx") -> dict[str, bool]:
    """Write the page before the sources are found."""
    app.connect("builder-inited", _write_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
