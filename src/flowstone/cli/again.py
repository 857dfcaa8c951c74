"""The commands that repeat a training, from what its run folder records."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowstone.cli.flags import flag_of
from flowstone.train.settings import Settings

__all__ = ["commands_again"]


def commands_again(record: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Lines for a shell: the training into a new folder, and what is done with the run.

    Args:
        record: what ``flow.json`` holds.
        folder: the run folder.
    """
    run = shlex.quote(str(folder))
    again = shlex.quote(f"{folder}-again")
    lines = [
        f"flowstone evaluate {run}",
        f"flowstone sample {run} -n 1000 --out samples.{'png' if _of_images(record) else 'csv'}",
        f"flowstone report {run}",
    ]
    if record.get("context_columns"):
        del lines[1]
    known = record.get("data", {}).get("source") is not None
    return (f"flowstone train {_training(record)} --out {again}", *lines) if known else tuple(lines)


def _training(record: Mapping[str, Any]) -> str:
    """Source and flags of the training: as they were given, or of a folder that records no request its settings."""
    request = record.get("request")
    if request is None:
        defaults = Settings()
        training = {
            each.name: record["training"][each.name]
            for each in fields(Settings)
            if each.name in record.get("training", {}) and record["training"][each.name] != getattr(defaults, each.name)
        }
        request = {
            "source": record["data"]["source"],
            "flow": record["recipe"],
            "set": {},
            "training": training,
            "data": {},
        }
    source = request.get("source") or record["data"]["source"]
    words = [shlex.quote(str(source))]
    if request.get("flow"):
        words.append(f"--flow {shlex.quote(request['flow'])}")
    if request.get("set"):
        words.append(shlex.join(["--set", *(f"{name}={_written(value)}" for name, value in request["set"].items())]))
    options = {**request.get("data", {}), **request.get("training", {})}
    words += [flag_of(name, value) for name, value in options.items() if value is not None]
    return " ".join(words)


def _written(value: Any) -> str:
    """A value as the flag ``--set`` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _of_images(record: Mapping[str, Any]) -> bool:
    return record.get("data", {}).get("kind") == "images"
