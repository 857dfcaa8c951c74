"""The schema of ``flow.json``: the types of its parts, checked before any of them is used."""

from typing import Annotated, Any, Literal

import msgspec

from flowstone.errors import CheckpointError

__all__ = ["require_schema"]

Name = str
Size = Annotated[int, msgspec.Meta(ge=1)]
Names = list[Name]


class _Data(msgspec.Struct):
    """Where the data came from, and what was done with them; the options among them are checked by ``DataRequest``."""

    kind: Literal["toy", "table", "images"]
    source: str | None = None
    seed: int = 0
    columns: Names = []
    context: Names = []
    noise: dict[Name, float] = {}
    atoms: dict[Name, float] = {}
    rows: int | dict[Name, int] = 0  # of images, in each part
    sha256: str | None = None
    read: str | None = None
    na: Names = []
    mixed: bool = False
    left_out: int = 0
    schema: list[dict[str, Any]] | None = None


class _Request(msgspec.Struct):
    """What the user asked for."""

    source: str
    flow: str | None
    set: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]


class _Tried(msgspec.Struct):
    """What a recipe was worth on held-out rows before one of them was chosen."""

    recipe: str
    nats: float | None  # none where the training of this recipe diverged
    stderr: float | None


class _Record(msgspec.Struct):
    """``flow.json``; what other programs add to it is not looked at."""

    format_version: Annotated[int, msgspec.Meta(ge=1)]
    recipe: str
    arguments: dict[str, Any]
    event_shape: Annotated[list[Size], msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "float64"]
    digest: str | None = None
    trained: bool | None = None
    columns: Names | None = None
    context_columns: Names = []
    data: _Data | None = None
    training: dict[str, Any] = {}
    request: _Request | None = None
    estimator: dict[str, Any] | None = None
    choice: list[_Tried] = []


def require_schema(record: Any, where: object) -> None:
    """Raise CheckpointError, which says which part of the record at ``where`` is not what Flowstone writes."""
    try:
        msgspec.convert(record, _Record, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise CheckpointError(f"{where}: not a record that Flowstone wrote ({_plain(str(error))})") from error


def _plain(message: str) -> str:
    """The validator's message with its place in the words of the file."""
    what, _, place = message.partition(" - at `$.")
    return f"{place.rstrip('`')}: {what[0].lower()}{what[1:]}" if place else what
