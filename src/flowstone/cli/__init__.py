"""The command line. Each command is a file of its own, imported only when it is run."""

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, get_args

from cyclopts import App, CycloptsError, CycloptsPanel, Parameter, Token, UnusedCliTokensError, convert

from flowstone import __version__
from flowstone.cli.flags import message_of
from flowstone.cli.streams import drop_output, flush_output, prepare_streams
from flowstone.cli.unexpected import TRACEBACK, line_and_status
from flowstone.errors import DataWarning, FlowstoneError

__all__ = ["app", "main"]

INTEGER = re.compile(r"[+-]?\d+")
STDIN = "/dev/stdin"  # what - means where a table is named: the parser takes a lone - for a flag


class _App(App):
    def __call__(self, tokens: Any = None, *others: Any, **options: Any) -> Any:
        words = sys.argv[1:] if tokens is None else [*tokens]  # not list(tokens): ``list`` is a module of this package
        before = ["", *words]
        tables = [STDIN if word == "-" and before[i] != "--out" else word for i, word in enumerate(words)]
        with self._complete_help(words[0] if words else ""):
            return super().__call__(tables, *others, **options)

    @contextmanager
    def _complete_help(self, name: str) -> Iterator[None]:
        """A context in which the help of a command is its docstring, and not its line in the list of all commands."""
        if name not in COMMANDS:
            yield
            return
        self[name].help = None
        try:
            yield
        finally:
            self[name].help = COMMANDS[name]


def _exactly(kind: Any, tokens: Sequence[Token]) -> Any:
    """A value from words; whole numbers as they are, where the parser would round 1.5 to 2."""
    if (get_args(kind) or (kind,))[0] is int and not all(INTEGER.fullmatch(token.value) for token in tokens):
        raise ValueError(f"{' '.join(token.value for token in tokens)} is not a whole number")
    return convert(kind, tokens)


app = _App(
    default_parameter=Parameter(converter=_exactly),
    name="flowstone",
    help="Learn a probability distribution from data, with an exact likelihood, and sample from it.",
    version=__version__,
    help_format="markdown",
)

COMMANDS = {
    "train": "Learn the distribution of a toy, a table or images, and write a run folder.",
    "columns": "Show what the columns of a table are taken for, and what will be done with them.",
    "evaluate": "Compute the likelihood of the run's own test split, or of other data.",
    "sample": "Draw new rows or images from a trained flow.",
    "impute": "Fill the gaps of a table, given what each row holds.",
    "score": "Write the log-likelihood of each row of a table, or of each image.",
    "check": "Check whether the flow inverts and its log-dets are correct, layer by layer.",
    "plot": "Draw the pictures of a run again.",
    "report": "Write the report of a run: one HTML page that opens from disk.",
    "export": "Write the density of a run as an ONNX file.",
    "push": "Send a run to the Hugging Face hub, without its data.",
    "pull": "Fetch a run from the Hugging Face hub.",
    "playground": "Write a folder in which a trained flow runs in the browser.",
    "list": "List the recipes with their arguments, the toys and the image sets.",
}
for _name, _help in COMMANDS.items():
    app.command(f"flowstone.cli.{_name}:{'list_' if _name == 'list' else _name}", name=_name, help=_help)


def main() -> None:
    """Entry point: an expected error is one line on stderr and exit status 1; a wrong flag exits with 2.

    An unexpected error is one line, too, and exits with 70 (EX_SOFTWARE of sysexits.h), so that scripts can tell it
    from a user's mistake. It is raised instead where the environment variable FLOWSTONE_TRACEBACK is set.
    """
    prepare_streams()
    with warnings.catch_warnings(), _sigterm_as_error():
        warnings.showwarning = _show_warning
        try:
            _run()
        except FlowstoneError as error:
            drop_output()
            _fail(message_of(error))
        except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
            drop_output()
            sys.exit(1)
        except KeyboardInterrupt:
            _fail("interrupted", status=130)
        except _Terminated:
            drop_output()
            _fail("terminated", status=143)
        except SystemExit:
            raise
        except BaseException as error:  # libraries in Rust raise errors that are no Exception
            if os.environ.get(TRACEBACK):
                raise
            drop_output()
            _fail(*line_and_status(error))


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _sigterm_as_error() -> Iterator[None]:
    """A context in which SIGTERM is an error, so that temporary files are removed; Python itself would end at once.

    One of several processes ends at once and silently: its launcher says why.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run() -> None:
    try:
        app(sys.argv[1:], print_error=False, exit_on_error=False)
    except SystemExit:  # a command that ends well exits, too
        flush_output()
        raise
    except CycloptsError as error:
        _refuse_words(error)
    flush_output()


def _refuse_words(error: CycloptsError) -> NoReturn:
    """Say what is wrong with the words of the command line, and exit with 2."""
    spare = error.unused_tokens or [] if isinstance(error, UnusedCliTokensError) else []
    if spare and all(os.path.exists(word) for word in spare):
        named = ", ".join(spare[:3]) + (", …" if len(spare) > 3 else "")
        _fail(
            f"one word names the data, and {named} would be further ones: several files are one table as a folder, or "
            "as a pattern in quotes, such as 'data/*.csv'",
            status=2,
        )
    if error.console is not None:
        error.console.print(CycloptsPanel(error))
    sys.exit(2)


def _fail(line: str, status: int = 1) -> NoReturn:
    with suppress(OSError):  # stderr may be closed or full
        print(f"flowstone: {line}", file=sys.stderr)
    sys.exit(status)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line without the place in the source that Python adds."""
    said = message_of(message) if isinstance(message, DataWarning) else " ".join(str(message).split())
    print(f"flowstone: warning: {said}", file=sys.stderr)
