"""The command line. Each command is a file of its own, imported only when it is run."""

import os
import sys
import warnings
from typing import Any

from cyclopts import App

from flowstone import __version__
from flowstone.cli.flags import message_of
from flowstone.errors import DataWarning, FlowstoneError

__all__ = ["app", "main"]

STDIN = "/dev/stdin"  # what - means where a table is named: the parser takes a lone - for a flag


class _App(App):
    def __call__(self, tokens: Any = None, *others: Any, **options: Any) -> Any:
        words = sys.argv[1:] if tokens is None else [*tokens]  # list is a command here
        before = ["", *words]
        tables = [STDIN if word == "-" and before[i] != "--out" else word for i, word in enumerate(words)]
        return super().__call__(tables, *others, **options)


app = _App(
    name="flowstone",
    help="Learn a probability distribution from data, with an exact likelihood, and sample from it.",
    version=__version__,
    help_format="plaintext",
)

COMMANDS = {
    "train": "Learn the distribution of a toy, a table or images; writes a run folder.",
    "columns": "What the columns of a table are taken for, and what will be done with them.",
    "evaluate": "Likelihood on the run's own test split, or on other data.",
    "sample": "Draw new rows or images from a trained flow.",
    "score": "Each row's log-likelihood, added to a table; or each image's.",
    "check": "Whether the flow inverts and its log-dets are true, layer by layer.",
    "plot": "Draw the pictures of a run again.",
    "list": "The recipes with their arguments, toys and image sets.",
}
for _name, _help in COMMANDS.items():
    app.command(f"flowstone.cli.{_name}:{'list_' if _name == 'list' else _name}", name=_name, help=_help)


def main() -> None:
    """Entry point: an expected error is one line on stderr and exit status 1; a wrong flag exits with 2."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app(sys.argv[1:])
            sys.stdout.flush()
        except FlowstoneError as error:
            print(f"flowstone: {message_of(error)}", file=sys.stderr)
            sys.exit(1)
        except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            print("flowstone: interrupted", file=sys.stderr)
            sys.exit(130)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line without the place in the source that Python adds."""
    said = message_of(message) if isinstance(message, DataWarning) else " ".join(str(message).split())
    print(f"flowstone: warning: {said}", file=sys.stderr)
