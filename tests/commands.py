"""The command line, run in the process of the tests."""

import sys

import pytest

from flowstone.cli import app, main

__all__ = ["flowstone", "refused"]


def flowstone(*words: object) -> None:
    """Run a command in this process; a FlowstoneError or SystemExit comes through."""
    app([str(word) for word in words], result_action="return_value")


def refused(capsys, monkeypatch, *words: object) -> str:
    """Run ``main``, expect exit status 1 and one line on stderr, and return that line."""
    monkeypatch.setattr(sys, "argv", ["flowstone", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("flowstone: ")
    return lines[0]
