"""A table in, its density out: samples, likelihoods, gaps filled and any columns given, all as tables."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flowstone.data.request import MIN_ROWS, TABLE
from flowstone.data.tables import Columns, Table, Unseen, kinds_of, read_table, warn_unseen
from flowstone.data.tables.arrow import compute
from flowstone.data.tables.kinds import Datetime, ModelledKind
from flowstone.data.tables.reading import AS_SHOWN, Reading
from flowstone.density import Density
from flowstone.errors import CheckpointError, DataError, SettingError, UnknownNameError
from flowstone.mixed import MixedDensity
from flowstone.recipes import build
from flowstone.runs.checkpoint import RECORD, load, read_record, reading, save
from flowstone.train import fit
from flowstone.train.history import History
from flowstone.validation import require_choice, require_given, require_integer, require_seed

__all__ = ["TableModel", "learn"]

CHUNK = 1 << 16  # rows drawn and decoded at a time
MOST_CHOICES = 1 << 20  # combinations of given values
WAYS = ("draw", "likely")
GIVEN_OTHERS = "the likelihood of a column given the others"


class TableModel:
    """The density of a table's rows, and the kinds of its columns.

    Tables go in as whatever ``flowstone.data.read_table`` takes, and come out as Arrow tables with the columns, types,
    levels, grids and bounds of the table that was learned; ``.to_pandas()`` makes a frame of one. Likelihoods are in
    nats, with respect to counting on discrete values and to length, in the units of the data, on continuous ones.

    In rows that are scored, a level that a categorical or ordinal column did not have when it was learned counts as one
    more level, of probability 1 / (n + 1) where the column had n values: the row has that probability times the density
    of its other columns, as if this one were missing. A ``DataWarning`` says so. Known levels keep their probabilities,
    so the total mass with such rows is the product of $1 + p$ over these columns. Everywhere else such a level is an
    error.

    Args:
        density: a density of the columns, such as the recipe ``mixed`` makes.
        columns: their kinds.
        history: of its training, where it was trained here.
        reading: how tables that go in are read where they do not show it.
    """

    def __init__(
        self, density: Density, columns: Columns, history: History | None = None, *, reading: Reading = AS_SHOWN
    ) -> None:
        if tuple(density.event_shape) != (len(columns.names),):
            raise SettingError(
                f"the density is of {tuple(density.event_shape)}, but {len(columns.names)} columns have kinds"
            )
        self.density = density
        self.columns = columns
        self.history = history
        self.reading = replace(reading, day_first=columns.day_first)

    def __repr__(self) -> str:
        return f"TableModel({', '.join(self.columns.names)})"

    def log_prob(self, table: Any, *, gaps: str = "absent") -> np.ndarray:
        """Log-likelihood of each row, ``(rows,)``.

        Args:
            table: rows; other columns than those of the density are ignored.
            gaps: ``absent``: a row with gaps has the likelihood of what is there, the exact marginal in the order of
                the columns. ``event``: that a value is missing counts, too.
        """
        table = self._read(table)
        x = self._scored(table)
        with torch.no_grad():
            if isinstance(self.density, MixedDensity):
                return self.density.log_prob(x, gaps=gaps).double().cpu().numpy()
            _require_no_gaps(x, self.columns, table)
            return self.density.log_prob(x).double().cpu().numpy()

    def column_log_prob(self, table: Any) -> pa.Table:
        r"""$\log p(x_j \mid \text{all other values of the row})$ of each value; null where there is a gap."""
        self._any_order(GIVEN_OTHERS)
        return self.column_log_prob_of(self._scored(table))

    def column_log_prob_of(self, x: Tensor) -> pa.Table:
        """``column_log_prob`` of rows that ``encode`` has read, ``(rows, columns)``."""
        density, found = self._any_order(GIVEN_OTHERS), {}
        with torch.no_grad():
            for index, name in enumerate(self.columns.names):
                known = torch.arange(x.shape[1], device=x.device) != index
                terms = density.conditional_log_prob(x, known).double().cpu().numpy()
                found[name] = pa.array(terms, mask=x[:, index].isnan().cpu().numpy())
        return pa.table(found)

    def quantiles(self, table: Any, column: str, probabilities: Sequence[float] | float) -> pa.Table:
        """The quantiles of one column given all other values of each row, a column for each probability.

        Raises:
            UnknownNameError, SettingError: there is no such column; its levels have no order; or the order of the
                density is fixed, and known columns come after it.
        """
        kind = self._ordered(column)
        prediction = self._any_order("quantiles").predict(self.encode(table, partial=True), column)
        found = {}
        for share in _values(probabilities):
            if not isinstance(share, float | int | np.floating) or not 0 <= share <= 1:
                raise SettingError(f"probabilities={probabilities}: they lie between 0 and 1")
            short = f"{share:g}"
            shown = short if float(short) == share else repr(float(share))
            found[f"{column}:{shown}"] = kind.decode(prediction.quantile(float(share)).cpu().numpy())
        return pa.table(found)

    def tail(self, table: Any, column: str) -> np.ndarray:
        """The probability of a value above that of each row, given all its other values, ``(rows,)``; NaN at gaps."""
        self._ordered(column)
        x = self.encode(table)
        value = x[:, self.columns.names.index(column)]
        above = 1 - self._any_order("tail probabilities").predict(x, column).cdf(value.nan_to_num())
        return above.masked_fill(value.isnan(), torch.nan).cpu().numpy()

    def sample(
        self,
        n: int,
        given: Mapping[str, Any] | None = None,
        *,
        context: Tensor | None = None,
        temperature: float = 1.0,
        gaps: bool = False,
        seed: int | None = None,
    ) -> pa.Table:
        """Draw ``n`` rows, never by rejection.

        Args:
            given: values by column, ``{"sex": "F", "age": 40}``; from a list of values, ``{"sex": ["F", "M"]}``, each
                row has one, and of several lists one combination, drawn by their probabilities.
            context: of a conditional density, ``(batch, context_features)``: n rows are drawn for each of its rows,
                those for the first one first.
            temperature: below 1, nearer to the most likely rows.
            gaps: whether columns that had gaps have them in samples, too.
            seed: the same seed gives the same rows.

        Raises:
            DataError, SettingError: no such column or level (the nearest one is named), or a value that cannot be.
        """
        return pa.concat_tables(self.stream(n, given, context=context, temperature=temperature, gaps=gaps, seed=seed))

    def stream(
        self,
        n: int,
        given: Mapping[str, Any] | None = None,
        *,
        context: Tensor | None = None,
        temperature: float = 1.0,
        gaps: bool = False,
        seed: int | None = None,
    ) -> Iterator[pa.Table]:
        """What ``sample`` draws, chunk by chunk, for more rows than memory holds."""
        require_integer("n", n)
        values, seeds = self._given({} if given is None else given), _seeds(seed)
        if context is not None and any(len(options) > 1 for options in values.values()):
            raise SettingError("one of several values can be given without a context alone")
        total = n if context is None else n * len(context)
        known, shares = self._choices(values)
        for start in range(0, total, CHUNK):
            rows, number = min(CHUNK, total - start), next(seeds)
            part = None if context is None else context[torch.arange(start, start + rows) // n]
            if isinstance(self.density, MixedDensity):
                x = self._known_rows(rows, known, shares, seeds).to(self.density.device)
                x = self.density.fill(x, x.isnan(), part, temperature=temperature, gaps=gaps, seed=number)
            else:
                if values:
                    self._any_order("samples with values given")
                x = self.density.sample(rows if part is None else 1, part, temperature=temperature, seed=number)
            x = x.reshape(rows, -1)
            yield self.columns.decode(x, seed=number)

    def sample_given(
        self, table: Any, n: int = 1, *, temperature: float = 1.0, gaps: bool = False, seed: int | None = None
    ) -> pa.Table:
        """Draw ``n`` rows for each row of a table of known values, one after the other; its gaps are drawn, too."""
        return pa.concat_tables(self.stream_given(table, n, temperature=temperature, gaps=gaps, seed=seed))

    def stream_given(
        self, table: Any, n: int = 1, *, temperature: float = 1.0, gaps: bool = False, seed: int | None = None
    ) -> Iterator[pa.Table]:
        """What ``sample_given`` draws, chunk by chunk, for more rows than memory holds."""
        require_integer("n", n)
        density, table = self._any_order("samples with values given"), self._read(table)
        for name in table.columns:
            self._require(name)
        known, seeds = self.encode(table, partial=True), _seeds(seed)
        for part in known.split(max(1, CHUNK // n)):
            for copies in part.repeat_interleave(n, 0).split(CHUNK):
                number = next(seeds)
                x = density.fill(copies, copies.isnan(), temperature=temperature, gaps=gaps, seed=number)
                yield self.columns.decode(x, seed=number)

    def impute(
        self, table: Any, *, how: str = "draw", context: Tensor | None = None, seed: int | None = None
    ) -> pa.Table:
        """The table with its gaps filled, given what each row holds; all other values and columns stay as they are.

        A chunk of a table needs no other chunk; one without rows comes back without rows.

        Args:
            how: ``draw``: from the distribution of what is missing (several seeds give several imputations);
                ``likely``: the most likely value of each column (of numbers the median), one column after the other.
            context: of a conditional density, ``(rows, context_features)``.

        Raises:
            SettingError: the density has a fixed order, in which what is known comes too late.
        """
        require_choice("how", how, WAYS)
        density, table = self._any_order("filled gaps"), self._read(table, empty=True)
        x = self.encode(table)
        missing = x.isnan()
        seed = next(_seeds(None)) if seed is None else seed
        x = density.fill(x, missing, context, seed=seed) if how == "draw" else density.fill_likely(x, context)
        decoded, arrow = self.columns.decode(x, seed=seed), table.arrow
        for index, kind in enumerate(self.columns.modelled):
            if missing[:, index].any():
                values, gaps = decoded.column(kind.column), pa.chunked_array([missing[:, index].cpu().numpy()])
                if isinstance(kind, Datetime):
                    values = kind.decode_as_type_of(x[:, index].cpu().numpy(), arrow.column(kind.column))
                arrow = _with_filled(arrow, kind.column, gaps, values, table.path)
        for kind in self.columns.constants:
            if kind.column in arrow.column_names and kind.value is not None:
                gaps = arrow.column(kind.column).is_null(nan_is_null=True)
                if compute.any(gaps).as_py():
                    arrow = _with_filled(arrow, kind.column, gaps, kind.repeat(len(arrow)), table.path)
        return arrow

    def known_row(self, given: Mapping[str, Any]) -> Tensor:
        """Values by column as the density takes them, ``(1, columns)``, NaN elsewhere; each is possible."""
        row = torch.full((1, len(self.columns.names)), torch.nan, dtype=torch.float64)
        for index, options in self._given(given).items():
            if len(options) > 1:
                raise SettingError(f"given {self.columns.names[index]!r}: one value, not {len(options)}")
            row[0, index] = options[0]
        return row

    def encode(self, table: Any, *, partial: bool = False, unseen: list[Unseen] | None = None) -> Tensor:
        """Rows as the density takes them, ``(rows, columns)``, float64, NaN for gaps; arguments as of
        ``Columns.encode``. Levels that were not learned are an error where the density has no probability for them.
        """
        known = self.density.columns if isinstance(self.density, MixedDensity) else ()
        if all(column.unseen is None for column in known):
            unseen = None
        return self.columns.encode(self._read(table), partial=partial, unseen=unseen).to(self.density.device)

    def _scored(self, table: Any) -> Tensor:
        """Rows to be scored, as ``encode`` reads them; levels that were not learned are warned of."""
        unseen: list[Unseen] = []
        x = self.encode(table, unseen=unseen)
        warn_unseen(unseen)
        return x

    def save(self, folder: Path | str) -> None:
        """Write the density and the kinds of its columns into a folder that ``TableModel.load`` reads."""
        mixed, schema = isinstance(self.density, MixedDensity), self.columns.as_record()
        data = {"kind": TABLE, "mixed": mixed, "schema": schema, "na": self.reading.na, "decimal": self.reading.decimal}
        save(self.density, folder, extra={"columns": list(self.columns.names), "data": data})

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "TableModel":
        """The model in a folder, by ``save`` or by a training of the command.

        Raises:
            CheckpointError: it is damaged, or was not learned from a table.
        """
        record = read_record(folder)
        data = record.get("data", {})
        schema = data.get("schema")
        if not isinstance(schema, list):
            raise CheckpointError(f"{Path(folder) / 'flow.json'}: it has no kinds of columns: it is not of a table")
        with reading(Path(folder) / RECORD):
            columns = Columns.from_record(schema)
            if columns.names != tuple(record["columns"]):
                columns = columns.select(record["columns"])
        return cls(
            load(folder, device=device), columns, reading=Reading(data.get("na", ()), decimal=data.get("decimal"))
        )

    def _read(self, table: Any, *, empty: bool = False) -> Table:
        """Read a table as the one that was learned."""
        how = self.reading
        return read_table(table, na=how.na, decimal=how.decimal, day_first=how.day_first, empty=empty)

    def _any_order(self, what: str) -> MixedDensity:
        if not isinstance(self.density, MixedDensity):
            recipe = (self.density.spec or {}).get("recipe")
            raise SettingError(
                f"{what}: not of a density of recipe {recipe!r}; learn the table with", remedy={"recipe": "mixed"}
            )
        return self.density

    def _ordered(self, column: str) -> ModelledKind:
        """The kind of a column whose values have an order."""
        self._require(column)
        kind = self.columns.modelled[self.columns.names.index(column)]
        if not kind.ordered:
            raise SettingError(f"column {column!r} has no quantiles and no tails: its levels have no order")
        return kind

    def _require(self, name: str) -> None:
        if name in self.columns.left_out:
            kind = self.columns.kind(name)
            raise SettingError(
                f"column {name!r} is {kind.name}: it is not part of the density ({', '.join(self.columns.names)})"
            )
        if name not in self.columns.names:
            raise UnknownNameError("column", name, self.columns.names)

    def _given(self, given: Mapping[str, Any]) -> dict[int, Tensor]:
        """The values that were given, by the index of their column; each of them is possible."""
        require_given(given)
        found = {}
        for name, value in given.items():
            self._require(name)
            kind = self.columns.kind(name)
            values = _values(value)
            if not values:
                raise SettingError(f"given {name!r}: no value")
            x = self._given_numbers(name, values)
            index = self.columns.names.index(name)
            if isinstance(self.density, MixedDensity):
                possible = self.density.encoder.encode(x[:, None].to(self.density.device), [index]).possible[:, 0]
                for each, able in zip(values, possible.tolist(), strict=True):
                    if not able:
                        raise SettingError(f"given {name}={each}: no such value can be ({kind.describe().treatment})")
            found[index] = x.unique()
        return found

    def _given_numbers(self, name: str, values: Sequence[Any]) -> Tensor:
        """The values of one column as the density takes them.

        Raises:
            DataError, SettingError: a value that the column cannot hold, or a gap.
        """
        found = []
        for value in values:
            table = Table(Path("given"), read_table({name: [value]}).arrow)
            try:
                x = self.columns.select([name]).encode(table)[0, 0]
            except DataError as error:
                reason = error.problem.removeprefix(f"given: column {name!r}").removeprefix(", row 1").removeprefix(":")
                raise DataError(f"given {name}={value}: {reason.strip()}") from error
            if x.isnan():
                raise SettingError(f"given {name}={value}: it is a gap; leave the column out instead")
            found.append(x)
        return torch.stack(found)

    @staticmethod
    def _known_rows(rows: int, known: Tensor, shares: Tensor, seeds: Iterator[int]) -> Tensor:
        """So many rows of known values, each of these as often as its share says."""
        if len(known) == 1:
            return known.repeat(rows, 1)
        # The numbers that choose are not those by which the other columns are drawn: these would depend on the choice.
        generator = torch.Generator().manual_seed(next(seeds))
        return known[shares.multinomial(rows, replacement=True, generator=generator)]

    @torch.no_grad()
    def _choices(self, values: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """A row for each combination of the given values, NaN elsewhere, and the probabilities of these rows, which sum
        to 1.
        """
        count = math.prod(map(len, values.values()))
        if count > MOST_CHOICES:
            names = ", ".join(self.columns.names[index] for index, options in values.items() if len(options) > 1)
            raise SettingError(f"given {names}: {count} combinations of values; there can be {MOST_CHOICES} at most")
        rows = torch.full((count, len(self.columns.names)), torch.nan, dtype=torch.float64)
        if values:
            rows[:, list(values)] = torch.cartesian_prod(*values.values()).reshape(count, -1)
        if count == 1:
            return rows, torch.ones(1, dtype=torch.float64)
        known = torch.tensor([len(values.get(index, ())) == 1 for index in range(rows.shape[1])])
        density = self._any_order("one of several values")
        found = density.conditional_log_prob(rows.to(density.device), known.to(density.device)).double()
        return rows, found.softmax(0).cpu()


def learn(
    table: Any,
    *,
    kinds: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    na: Sequence[str] = (),
    decimal: str | None = None,
    day_first: bool | None = None,
    recipe: str = "mixed",
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> TableModel:
    """Learn the joint distribution of a table's columns, of any kinds and with gaps.

    A tenth of the rows, chosen by ``seed``, is kept for validation.

    Args:
        table: a path, a frame of pandas or polars, an Arrow table, an array, a dictionary of columns …
        kinds: corrections of what ``flowstone.kinds_of`` infers, such as ``{"zip": "categorical"}``.
        exclude: columns to leave out.
        na, decimal, day_first: as ``flowstone.data.read_table`` takes them.
        recipe: ``mixed``, or one for columns of numbers without gaps, such as ``spline``.
        arguments: of the recipe, such as ``{"order": "given"}``.
        seed: of the split, the initial weights and the training.
        settings: of the training, as ``flowstone.fit`` takes them: ``minutes=2``, ``progress=False`` …

    Raises:
        DataError: the table cannot be read, or holds what no kind can be; each problem is named.

    >>> import flowstone
    >>> rows = {"age": [20, 30, 40, 50] * 25, "sex": ["f", "m"] * 50}
    >>> model = flowstone.learn(rows, steps=20, progress=False)
    >>> model.sample(2, {"sex": "f"}, seed=0).column("sex").to_pylist()
    ['f', 'f']
    """
    require_seed("seed", seed)
    table = read_table(table, na=na, decimal=decimal, day_first=day_first)
    columns = kinds_of(table, kinds, exclude)
    if not columns.names:
        raise DataError(f"{table.path}: no column is left to learn the density of ({', '.join(columns.notes)})")
    x = columns.encode(table)
    if len(x) < MIN_ROWS:
        raise DataError(f"{table.path}: {len(x)} rows; at least {MIN_ROWS} are needed")
    extra = {"columns": columns.heads()} if recipe == "mixed" else {}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        density = build(recipe, {"features": x.shape[1]} | extra | dict(arguments or {}))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    validation, rows = x[order[: len(x) // 10]], x[order[len(x) // 10 :]]
    if not isinstance(density, MixedDensity):
        _require_no_gaps(x, columns, table)
    history = fit(density, rows, validation=validation, seed=seed, **settings)
    density.eval()
    return TableModel(density, columns, history, reading=table.reading)


def _values(value: Any) -> list[Any]:
    """One value, or several in a list, a set, an array or a column of a frame."""
    if isinstance(value, str | bytes | np.generic) or not isinstance(value, Iterable):
        return [value]
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value.to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return [value[()]]
    return list(value) if isinstance(value, Iterable) else [value]


def _require_no_gaps(x: Tensor, columns: Columns, table: Table) -> None:
    """Refuse gaps for a density that does not accept them."""
    gaps = x.isnan().nonzero()
    if len(gaps):
        row, column = gaps[0].tolist()
        place = f"column {columns.names[column]!r}, row {table.start + row + 1}"
        raise DataError(
            f"{table.path}: {place} is missing; rows with gaps are learned by",
            remedy={"recipe": "mixed"},
        )


def _seeds(seed: int | None) -> Iterator[int]:
    """A seed for each chunk."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        require_seed("seed", seed)
        generator.manual_seed(int(seed))
    while True:
        yield int(torch.randint(2**62, (1,), generator=generator))


def _with_filled(arrow: pa.Table, name: str, gaps: pa.ChunkedArray, values: Any, where: Path) -> pa.Table:
    """The table with values, an array or chunks of it, in place of the gaps of one column."""
    place, column = arrow.column_names.index(name), arrow.column(name)
    values = pa.chunked_array([values]) if isinstance(values, pa.Array) else values
    try:
        return arrow.set_column(place, name, _filled(column, gaps, values))
    except pa.ArrowException as error:
        value = values.filter(gaps)[0].as_py()
        raise DataError(
            f"{where}: column {name!r} is of type {column.type}, which does not hold what fills its gaps ({value!r})"
        ) from error


def _filled(column: pa.ChunkedArray, gaps: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with values in place of its gaps, in its own type where it has one."""
    if pa.types.is_null(column.type):
        return values
    plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(plain) and pa.types.is_floating(values.type):
        values = compute.round(values)
    if pa.types.is_dictionary(column.type):
        return _filled_levels(column, gaps, values)
    return compute.if_else(gaps, values.cast(column.type, safe=False), column)


def _filled_levels(column: pa.ChunkedArray, gaps: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column with values in place of its gaps; its levels keep their order, and new ones follow."""
    kind = column.type
    plain = compute.if_else(gaps, values.cast(kind.value_type), column.cast(kind.value_type))
    levels = pa.chunked_array([*(each.dictionary for each in column.chunks), *plain.chunks], kind.value_type)
    levels = compute.drop_null(compute.unique(levels))
    indices = compute.index_in(plain, value_set=levels).cast(kind.index_type).combine_chunks()
    return pa.chunked_array([pa.DictionaryArray.from_arrays(indices, levels, ordered=kind.ordered)])
