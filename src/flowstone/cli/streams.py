"""Standard output and error where they are closed or full, or where their encoding lacks characters."""

import os
import sys
from contextlib import suppress

from flowstone.errors import OutputError

__all__ = ["drop_output", "flush_output", "prepare_streams"]


def prepare_streams() -> None:
    """Let characters that the output's encoding lacks be written as escapes, and writing to closed output fail.

    Where file descriptor 1 is closed, the next file that is opened would become the standard output, and what is
    printed would be written into it.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def flush_output() -> None:
    """Write what is held back.

    Raises:
        OutputError: the output is closed or full; BrokenPipeError where its reader has ended.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def drop_output() -> None:
    """Forget what could not be written to standard output, which Python would try again when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
