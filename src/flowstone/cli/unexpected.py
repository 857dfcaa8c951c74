"""What the command says of errors that it did not expect: one line, and a file with the traceback to report."""

import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import traceback

__all__ = ["TRACEBACK", "line_and_status"]

TRACEBACK = "FLOWSTONE_TRACEBACK"  # the environment variable that shows tracebacks
UNEXPECTED = 70  # EX_SOFTWARE
LONGEST = 300  # characters of the error's own message


def line_and_status(error: BaseException) -> tuple[str, int]:
    """The line for standard error, and the exit status: 1 for what the system refused, such as a full disk or too
    little memory, else 70.
    """
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{_short(error.filename)}: "
        return f"{where}{error.strerror}", 1
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return f"out of memory ({_named(error)})", 1
    written = _write(error)
    where = f"the traceback is in {written}" if written else f"to see the traceback, set {TRACEBACK}=1"
    address = _issues()
    report = f"; please report it with this file: {address}" if address and written else ""
    return f"unexpected error: {_named(error)}; {where}{report}", UNEXPECTED


def _named(error: BaseException) -> str:
    said = _short(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _write(error: BaseException) -> str | None:
    """The traceback in a new file that only the user can read; None where none can be written."""
    try:
        handle, name = tempfile.mkstemp(prefix="flowstone-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"flowstone {_version()}, Python {platform.python_version()}, {platform.platform()}\n")
            file.write(f"{shlex.join(['flowstone', *sys.argv[1:]])}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return name


def _issues() -> str | None:
    """The address for reports of errors, as the package's metadata give it."""
    try:
        addresses = importlib.metadata.metadata("flowstone").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((each.partition(", ")[2] for each in addresses if each.startswith("Issues, ")), None)


def _version() -> str:
    try:
        return importlib.metadata.version("flowstone")
    except importlib.metadata.PackageNotFoundError:
        return "that is not installed"
