"""DataRequest: the single list of data options, with their defaults, their help and their checks."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from flowstone.data.tables.reading import Reading
from flowstone.errors import SettingError
from flowstone.options import describe_options, option, options_of, require_options
from flowstone.validation import require_bool, require_integer, require_seed

__all__ = ["IMAGES", "MIN_ROWS", "TABLE", "TOY", "DataRequest"]

MIN_ROWS = 20  # a tenth of fewer rows is too few for a test set
TOY, TABLE, IMAGES = "toy", "table", "images"
WORDS = {TOY: ("a toy", "toys"), TABLE: ("a table", "tables"), IMAGES: ("images", "images")}


@dataclass(frozen=True)
class DataRequest:
    """Which data to open, and how to read and split them.

    Raises:
        SettingError: an option has a value that it cannot have.
    """

    source: str = option(
        MISSING,
        "A toy's name (moons, circles, ...); a table: text (.csv, .tsv, .txt, also compressed), Parquet, Arrow, JSON "
        "lines, .npy, .xlsx, - for standard input, or a folder or pattern of such files; an image set by its name "
        "(mnist, fashion-mnist, cifar10, celeba, faces32), a folder of images, or an array of them (.npy, .npz).",
    )
    seed: int = option(0, "Seed of the split and of the noise that is added to columns with repeated values.")
    context: Sequence[str] = option(
        (),
        "Columns that the density of the others is conditioned on. For images: label, which is one-hot; in a folder of "
        "images it is the name of the subfolder, in an .npz file the array y.",
        applies_to=(TABLE, IMAGES),
    )
    columns: Sequence[str] = option((), "The columns to use, in this order. If not set: all.", applies_to=[TABLE])
    exclude: Sequence[str] = option(
        (), "Columns to leave out, also where columns or context name them.", applies_to=[TABLE]
    )
    points: int | None = option(
        None, "The size of a fixed training set of a toy. If not set: fresh points for each step.", applies_to=[TOY]
    )
    drop_missing: bool = option(
        False, "Leave out rows of a table with a missing, NaN or infinite value.", applies_to=[TABLE]
    )
    dequantize: bool = option(
        True,
        "Add a little uniform noise to columns of a table with repeated values: without noise the density of a column "
        "can grow without bound at such a value.",
        applies_to=[TABLE],
    )
    size: int | str | Sequence[int] | None = option(
        None,
        "The side of the images in pixels, or height x width as in 48x64: the shorter side is resized to it and the "
        "longer one cropped.",
        applies_to=[IMAGES],
    )
    gray: bool = option(False, "Make images grey, of one channel.", applies_to=[IMAGES])
    na: Sequence[str] = option(
        (),
        "Texts or numbers of a table that mean a gap, beside the usual ones (NA ? - None null ...).",
        applies_to=[TABLE],
    )
    kinds: Mapping[str, str] = option(
        (),
        "The kinds of columns of a table that would be taken for another kind, as column=kind: continuous, positive, "
        "bounded(0,1), circular(0,360), integer, gridded(0.01), ordinal(S,M,L), categorical, boolean, datetime, "
        "identifier or text.",
        applies_to=[TABLE],
    )
    encoding: str | None = option(
        None, "The encoding of a text file, such as cp1252. If not set: guessed from its bytes.", applies_to=[TABLE]
    )
    decimal: str | None = option(
        None,
        "The decimal mark of a text file, . or a comma, where its numbers do not show it. If not set: a point, in a "
        "file separated by semicolons a comma.",
        applies_to=[TABLE],
    )
    day_first: bool | None = option(
        None,
        "Whether 3/4/2024 is in April, where dates that are text do not show it. If not set: the month comes first "
        "between slashes, the day between hyphens.",
        applies_to=[TABLE],
    )
    skip_bad: bool = option(
        False,
        "Leave out images that cannot be read, and rows of a text file with too many or too few fields.",
        applies_to=[TABLE, IMAGES],
    )
    data_dir: str | os.PathLike[str] | None = option(
        None,
        "The folder of the image sets that have a name. If not set: the environment variable FLOWSTONE_DATA.",
        applies_to=[IMAGES],
    )
    download: bool = option(
        False, "Fetch the image set into the data folder if it is missing; needs huggingface_hub.", applies_to=[IMAGES]
    )

    def __post_init__(self) -> None:
        if not isinstance(self.source, str | os.PathLike) or not str(self.source):
            raise SettingError(f"source={self.source!r} must be a name or a path")
        require_seed("seed", self.seed)
        if self.points is not None:
            require_integer("points", self.points, at_least=MIN_ROWS)
        for name in ("drop_missing", "dequantize", "gray", "download"):
            require_bool(name, getattr(self, name))
        plain = {"source": str(self.source), "size": _height_and_width(self.size)}
        plain |= {name: _names(name, getattr(self, name)) for name in ("context", "columns", "exclude")}
        plain["na"] = Reading(self.na, self.encoding, self.skip_bad, self.decimal, self.day_first).na
        plain["kinds"] = _pairs("kinds", self.kinds)
        plain["data_dir"] = None if self.data_dir is None else str(self.data_dir)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, source: "str | os.PathLike[str] | DataRequest", options: Mapping[str, Any]) -> "DataRequest":
        """The request for ``source``, which may be one already, with other options by name.

        Raises:
            UnknownNameError: a name is that of no option; the message holds the nearest one.
        """
        require_options("data option", cls, options)
        return replace(source, **options) if isinstance(source, DataRequest) else cls(str(source), **options)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "DataRequest":
        """The request that ``as_record`` wrote; what else the record holds is ignored.

        >>> DataRequest.from_record(DataRequest("moons", points=100).as_record("toy")).points
        100
        """
        return cls(**{each.name: record[each.name] for each in fields(cls) if each.name in record})

    def as_record(self, kind: str) -> dict[str, Any]:
        """The options that apply to this kind of data, for JSON. Fetching was done once and is not recorded."""
        values = {
            each.name: getattr(self, each.name)
            for each in options_of(DataRequest)
            if each.name != "download" and (not each.applies_to or kind in each.applies_to)
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def require_kind(self, kind: str) -> None:
        """Refuse options that have no meaning for this kind of data: ``"toy"``, ``"table"`` or ``"images"``."""
        for each in options_of(DataRequest):
            value = getattr(self, each.name)
            if each.applies_to and kind not in each.applies_to and value != each.default:
                others = " and ".join(WORDS[other][1] for other in each.applies_to)
                value = (
                    ("x" if each.name == "size" else ",").join(map(str, value)) if isinstance(value, tuple) else value
                )
                raise SettingError(f"{each.name}={value} is for {others}; {self.source!r} is {WORDS[kind][0]}")


def _all(option: str, values: Iterable) -> tuple:
    try:
        return tuple(values)
    except TypeError as error:
        raise SettingError(f"{option}={values!r} must be a sequence") from error


def _names(option: str, names: str | Iterable[str]) -> tuple[str, ...]:
    """Names of columns; one alone need not be in a sequence."""
    names = (names,) if isinstance(names, str) else _all(option, names)
    for name in names:
        if not isinstance(name, str):
            raise SettingError(f"{option}={names!r} must be names of columns")
        if names.count(name) > 1:
            raise SettingError(f"{option}: column {name!r} is named more than once")
    return names


def _pairs(option: str, pairs: Mapping[str, str] | Iterable) -> Mapping[str, str] | tuple[()]:
    """Texts by name; an empty tuple, the default, where there are none."""
    try:
        pairs = dict(pairs)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{option}={pairs!r} must be texts by the names of columns") from error
    for name, text in pairs.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise SettingError(f"{option}={pairs!r} must be texts by the names of columns")
    return pairs or ()


def _height_and_width(size: int | str | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of ``32``, ``"32"``, ``"32x48"`` or ``(32, 48)``."""
    if size is None:
        return None
    text = "x".join(map(str, size)) if isinstance(size, Iterable) and not isinstance(size, str) else str(size)
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None or not int(match[1]) or not int(match[2] or 1):
        raise SettingError(f"size={text}: expected a side or height x width in pixels, such as 32 or 48x64")
    return int(match[1]), int(match[2] or match[1])


DataRequest.__doc__ = f"{DataRequest.__doc__}\n{describe_options(DataRequest, indent='    ')}"
