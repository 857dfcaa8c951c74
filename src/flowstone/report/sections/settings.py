"""Settings, machine and versions."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from flowstone.files import to_json
from flowstone.report.markup import join, paragraph, side_by_side, table
from flowstone.report.subject import Subject

__all__ = ["settings"]

LONGEST = 200  # characters of a value


def settings(subject: Subject) -> Markup:
    """The recipe with its arguments, the options of the training and of the data, the machine and versions."""
    record = subject.record
    parts = [_table("The density", {"recipe": record.get("recipe"), **record.get("arguments", {})})]
    if (training := _training(subject)) is not None:
        parts.append(_table("The training", training))
    data = {name: value for name, value in record.get("data", {}).items() if name != "schema"}
    if data:
        parts.append(_table("The data", data))
    machine = subject.metrics.get("machine")
    if machine:
        parts.append(_table("Machine and versions of the training", machine))
    return join((side_by_side(parts), "" if machine else paragraph("The machine of the training is not recorded.")))


def _training(subject: Subject) -> Mapping[str, Any] | None:
    """The options of the training, with values for those that depend on the data where these are there."""
    if "training" not in subject.record:
        return None
    given = subject.run.settings()
    if subject.dataset is None:
        return given.as_record()
    train = subject.dataset.train
    rows = float("inf") if callable(train) else len(train)
    return given.for_data(subject.dataset.event_shape, rows, subject.density.training_settings(rows)).as_record()


def _table(caption: str, values: Mapping[str, Any]) -> Markup:
    lines = [(name, _written(value)) for name, value in values.items()]
    return table(caption, ("name", "value"), lines, texts=2)


def _written(value: Any) -> str:
    if value is None or value in ((), [], {}):
        return "–"
    text = ", ".join(_short(each) for each in value) if isinstance(value, list | tuple) else _short(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return value["name"] if "name" in value else ", ".join(to_json(value).strip("{}").split("\n"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
