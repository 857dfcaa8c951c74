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
    "columns": "Show what the columns of a table are taken for, and what will be done with them.",
    "evaluate": "Compute the likelihood of the run's own test split, or of other data.",
    "sample": "Draw new rows or images from a trained flow.",
    "impute": "Fill the gaps of a table, given what each row holds.",
    "score": "Write the log-likelihood of each row of a table, or of each image.",
    "check": "Check whether the flow inverts and its log-dets are correct, layer by layer.",
    "plot": "Draw the pictures of a run again.",
    "list": "List the recipes with their arguments, the toys and the image sets.",
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
        except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            print("flowstone: interrupted", file=sys.stderr)
            sys.exit(130)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line without the place in the source that Python adds."""
    said = message_of(message) if isinstance(message, DataWarning) else " ".join(str(message).split())
    print(f"flowstone: warning: {said}", file=sys.stderr)
