"""The exact density of a table of mixed columns, with gaps, and of any columns given any others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from flowstone.bijections import Standardize
from flowstone.density import Density
from flowstone.distribution import FlowDistribution
from flowstone.errors import DataError, SettingError, ShapeError, UnknownNameError
from flowstone.kernels import computed_parts
from flowstone.mixed.column import Column
from flowstone.mixed.embedding import ColumnEmbedding
from flowstone.mixed.encoding import Encoder
from flowstone.mixed.heads import Heads
from flowstone.mixed.masks import draw_masks
from flowstone.mixed.prediction import Prediction
from flowstone.nets import AnyOrderNet, OrderedNet
from flowstone.validation import require_choice, require_integer

__all__ = ["MixedDensity"]

VALUES = 2**14  # of a table computed on one thread where no gradient is recorded
CHUNKS = 4  # of so many values, which several threads compute at the same time
GAPS = ("absent", "event")
ROWS = 2**14  # checked at a time
MOST_LEARNED = 32  # columns in one step of a training in any order


ANY_ORDER = "the recipe's order='any' makes one for any order"


class MixedDensity(Density):
    r"""The distribution of rows of categories, integers, numbers, angles and gaps, column by column.

    $$ \log p(x) = \sum_j \log p(x_j \mid x_i, i \text{ before } j) $$

    with respect to counting measure on what is discrete and to length on what is continuous: a value that is an atom,
    or lies on a grid, contributes a probability, any other a density. A row is float64, ``(columns,)``: the index of a
    category, the value of a number, NaN where there is none.

    NaN means that nothing is known of a column, and the likelihood is that of the other columns alone. With
    ``gaps="event"`` a gap is an event that has a probability, and on which other columns may depend; columns with
    ``gaps`` learn both.

    With an ``AnyOrderNet`` any columns may be given: they come before all others, which follow as they stand in the
    table. In training two fifths of the rows are learned in the table's order; in the others some columns, drawn for
    each row, come first. With an ``OrderedNet`` only columns that come before all unknown ones can be given. An order
    is a choice: two of them agree as far as the net has learned that they do.

    A value that is none of the atoms of a column with ``unseen`` has that probability, and the other columns are as if
    it were absent. Known values keep their probabilities. If all unseen values of a column count as one value, the
    total mass of all rows is therefore $\prod_j (1 + p_j)$, with $p_j$ the ``unseen`` of column j, or 0.

    Args:
        columns: the description of each column.
        net: the conditioner.
        heads: parameters → distributions; its encoder turns rows into what heads and embedding read.
        embedding: values → vectors.
        context_features: width of a context that every column is given.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        net: AnyOrderNet | OrderedNet,
        heads: Heads,
        embedding: ColumnEmbedding,
        *,
        context_features: int = 0,
    ) -> None:
        super().__init__(torch.Size((len(columns),)), context_features)
        self.columns = tuple(columns)
        self.embedding, self.net, self.heads = embedding, net, heads
        self.standardize_context = Standardize(context_features, keep_constant=True) if context_features else None
        self.register_buffer("initialized", torch.tensor(False))

    initialized: Tensor

    @property
    def with_gaps(self) -> Tensor:
        """Which columns have gaps, ``(columns,)``."""
        return torch.tensor([column.gaps for column in self.columns], device=self.device)

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return self.embedding.options.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its nets; rows, statistics and grids are computed in float64."""
        return self.embedding.options.dtype

    @property
    def accepts_any_dtype(self) -> bool:
        """Always: rows are read in float64."""
        return True

    @property
    def accepts_gaps(self) -> bool:
        """Always: NaN is a value of which nothing is known."""
        return True

    @property
    def stochastic_training(self) -> bool:
        """Always: known and hidden columns are drawn for each row."""
        return True

    @property
    def rows_at_once(self) -> int:
        """How many rows suit ``log_prob`` where no gradient is recorded: chunks for several threads."""
        return CHUNKS * _chunk_rows(len(self.columns))

    @property
    def encoder(self) -> Encoder:
        """The encoder that reads rows."""
        return self.heads.encoder

    @property
    def any_order(self) -> bool:
        """Whether any columns may be given any others."""
        return isinstance(self.net, AnyOrderNet)

    @torch.no_grad()
    def require_possible(self, x: Tensor, what: str) -> None:
        for start in range(0, len(x), ROWS):
            bad = (~self.encoder.encode(x[start : start + ROWS].to(self.device)).possible).nonzero()
            if len(bad):
                row, index = bad[0].tolist()
                column, value = self.columns[index], x[start + row, index].item()
                raise DataError(
                    f"{what}: row {start + row}, column {column.name!r} is {value:.13g}; it can be {column.values}"
                )

    def training_settings(self, rows: float) -> Mapping[str, Any]:
        """The settings that measured best on held-out rows of three tables.

        A net soon overfits categories and values with mass, and learns continuous columns slowly; therefore steps,
        dropout and learning rate follow the share of continuous columns. In any order there are so many steps that the
        training of a net that overfits ends by its patience while the learning rate is still high: the samples of such
        a net are better than those of a net whose learning rate has fallen to 0.
        """
        share = sum(column.is_continuous for column in self.columns) / len(self.columns)
        steps, often = (3000 + 2000 * share, 25) if self.any_order else (1500 + 1500 * share, 50)
        dropout, lr = 0.25 - 0.15 * share, 2e-3 + 1e-3 * share
        return {"steps": round(steps), "dropout": dropout, "lr": lr, "ema": 0.995, "validate_every": often}

    def distribution(self, context: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        """The density as a ``torch.distributions.Distribution``; arguments are those of ``Flow.distribution``."""
        return FlowDistribution(self, context, validate_args=validate_args)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set marginals, and the start of each column's distribution, from rows; later calls change nothing."""
        self._check(x, context, self.event_shape)
        if self.initialized:
            return
        if self.standardize_context is not None and context is not None:
            self.standardize_context.initialize(context)
        self.encoder.initialize(x)
        self.net.set_start(self.heads.initialize(self.encoder.encode(x)))
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``log_prob``; in training, of columns and gaps drawn anew for each row (see the class)."""
        if not (self.training and torch.is_grad_enabled()):
            return self.log_prob(x, context)
        self._check(x, context, self.event_shape)
        masks = draw_masks(x, self.with_gaps, any_order=self.any_order)
        columns = self._drawn_columns()
        terms = self._terms(x, context, **masks._asdict(), columns=columns)
        return terms.sum(1) * (1 if columns is None else len(self.columns) / len(columns))

    def _drawn_columns(self) -> list[int] | None:
        """The columns that a step learns: some of those of a wide table, as the time grows with their square."""
        if not self.any_order or len(self.columns) <= MOST_LEARNED:
            return None
        return torch.randperm(len(self.columns))[:MOST_LEARNED].sort().values.tolist()

    def _terms(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        event: Tensor,
        known: Tensor | None = None,
        hidden: Tensor | None = None,
        place: Tensor | None = None,
        columns: Sequence[int] | None = None,
    ) -> Tensor:
        """The log-probability of each column given those before it, 0 where it is known or absent.

        Args:
            event: ``(rows, columns)``: where a gap is an event and not an absence.
            known: the columns before all others.
            hidden: the columns on which no other depends.
            place: numbers by which the others are ordered, ``(columns,)`` or ``(rows, columns)``; None: as they stand.
            columns: the columns whose terms are returned; None: all.
        """
        encoded = self.encoder.encode(x)
        seen = encoded.possible & (~encoded.missing | event)
        seen = seen if hidden is None else seen & ~hidden
        tokens = self.embedding(encoded) * seen[..., None]
        given = self._standardized(context)
        if isinstance(self.net, AnyOrderNet):
            parameters = self.net(tokens, self._before(place, known), given, columns=columns)
        else:
            parameters = self.net(tokens, given)
        parameters = self._in_own_dtype(parameters)
        if columns is not None:
            encoded = self.encoder.encode(x[:, columns], columns)
            event, known = event[:, columns], None if known is None else known[:, columns]
        values, gaps = self.heads.log_prob(encoded, parameters)
        terms = values + gaps.where(event, 0.0)
        return terms if known is None else terms.where(~known, 0.0)

    def _column_parameters(self, tokens: Tensor, index: int, context: Tensor | None) -> Tensor:
        """The net's parameters of one column, for the heads."""
        return self.net.column(tokens, index, context).to(self.dtype)

    def _in_own_dtype(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What the heads compute with: ``torch.autocast`` lowers the precision of the net alone."""
        return [each.to(self.dtype) for each in parameters]

    def _before(self, place: Tensor | None, known: Tensor | None) -> Tensor:
        """Whether column j comes before column i, ``(columns i, columns j)`` or ``(rows, columns i, columns j)``: if it
        is known, or has a lower place.
        """
        place = torch.arange(len(self.columns), device=self.device) if place is None else place
        earlier = place[..., :, None] > place[..., None, :]
        return earlier if known is None else earlier | known[:, None]

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.column_log_prob(x, context).sum(1)

    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        gaps: str = "absent",
        order: Sequence[int] | Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        r"""Log-probability of each row in nats, ``(rows, columns)`` → ``(rows,)``.

        Args:
            gaps: ``absent``: NaN says nothing, and the likelihood is that of the other columns alone; ``event``: it
                counts as a value of the columns that have gaps, minus infinity in others.
            order: the columns by number, the first one first; None: as they stand in the table. Several orders: the
                density is the equal mixture of theirs, $\log \tfrac1K \sum_k p_k(x)$.

        Raises:
            SettingError: the density has a fixed order, and this is another.
        """
        if order is None or all(isinstance(index, int) for index in order):
            return self.column_log_prob(x, context, gaps=gaps, order=cast(Sequence[int] | None, order)).sum(1)
        each = [self.log_prob(x, context, gaps=gaps, order=cast(Sequence[int], one)) for one in order]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def column_log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        gaps: str = "absent",
        order: Sequence[int] | None = None,
    ) -> Tensor:
        """The terms of ``log_prob``, ``(rows, columns)``: each column given those before it, 0 where absent."""
        require_choice("gaps", gaps, GAPS)
        self._check(x, context, self.event_shape)
        place = None if order is None else self._place(order)
        event = torch.full(x.shape, gaps == "event", device=x.device)
        return self._in_chunks(x, context, event=event, place=place)

    def _place(self, order: Sequence[int]) -> Tensor:
        """The place of each column in an order."""
        order, natural = [int(index) for index in order], list(range(len(self.columns)))
        if sorted(order) != natural:
            raise SettingError(f"order={order} must name each of the columns 0 … {natural[-1]} once")
        if order != natural and not self.any_order:
            raise SettingError(
                f"order={order}: this density has a fixed order; one of the recipe's order='any' has none"
            )
        return torch.tensor(order, device=self.device).argsort()

    def conditional_log_prob(
        self, x: Tensor, known: Tensor, context: Tensor | None = None, *, gaps: str = "absent"
    ) -> Tensor:
        r"""$\log p(\text{the other columns} \mid \text{the known ones})$ of each row.

        Args:
            known: a mask, ``(columns,)`` or ``(rows, columns)``.
            gaps: ``absent``: a column that is NaN is neither known nor unknown; ``event``: a gap is a value like any.

        Raises:
            SettingError: the density has a fixed order, and a known column comes after an unknown one.
        """
        self._check(x, context, self.event_shape)
        known = self._mask("known", known, x)
        require_choice("gaps", gaps, GAPS)
        event = (self.with_gaps | ~known) & (gaps == "event")  # a gap that cannot be tells nothing
        self._require_order(known & (event | ~x.isnan()), ~known & (event | ~x.isnan()))
        return self._in_chunks(x, context, event=event, known=known).sum(1)

    def fill(
        self,
        x: Tensor,
        unknown: Tensor,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        gaps: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Rows whose unknown columns are drawn given the others; those that are NaN elsewhere stay so.

        Args:
            unknown: a mask, ``(columns,)`` or ``(rows, columns)``.
            temperature: below 1, nearer to the most likely values.
            gaps: True: gaps are events, so that unknown columns that have gaps may be drawn as gaps, and a gap in a
                known column tells about the others. False: nothing is known of a column that is NaN.
            seed: the same seed gives the same draws.

        Raises:
            SettingError: the density has a fixed order, and a known column comes after an unknown one.
        """
        self._check(x, context, self.event_shape)
        if not 0 < temperature < math.inf:
            raise SettingError(f"temperature={temperature} must be positive and finite")
        unknown = self._mask("unknown", unknown, x)
        self._require_order(~unknown & (~x.isnan() | (self.with_gaps & gaps)), unknown)
        return self._fill(x, unknown, context, self._generator(seed), temperature=temperature, gaps=gaps)

    @torch.no_grad()
    def _fill(
        self,
        x: Tensor,
        unknown: Tensor,
        context: Tensor | None,
        generator: torch.Generator | None,
        **how: Any,
    ) -> Tensor:
        """Fill a part of the rows at a time; ``how`` holds ``temperature`` and ``gaps``."""
        found = [
            self._fill_rows(x[part], unknown[part], None if context is None else context[part], generator, **how)
            for part in _parts(x)
        ]
        return torch.cat(found)

    def _fill_rows(
        self,
        x: Tensor,
        unknown: Tensor,
        context: Tensor | None,
        generator: torch.Generator | None,
        *,
        temperature: float,
        gaps: bool,
    ) -> Tensor:
        x, given = x.double().masked_fill(unknown, torch.nan), self._standardized(context)
        tokens = self._tokens(x, event=self.with_gaps & ~unknown if gaps else None)
        for index in range(len(self.columns)):
            rows = unknown[:, index].nonzero()[:, 0]
            if not len(rows):
                continue
            parameters = self._column_parameters(tokens[rows], index, None if given is None else given[rows])
            value = self.heads.sample(index, parameters, generator, temperature=temperature, gaps=gaps)
            x[rows, index] = value
            tokens[rows, index] = self.embedding(self.encoder.encode(value[:, None], [index]))[:, 0]
        return x

    def _tokens(self, x: Tensor, event: Tensor | None = None) -> Tensor:
        """The vectors of what is there, ``(rows, columns, width)``, and of gaps that are events; zeros elsewhere."""
        encoded = self.encoder.encode(x)
        present = ~encoded.missing if event is None else ~encoded.missing | event
        return self.embedding(encoded) * (encoded.possible & present)[..., None]

    @torch.no_grad()
    def predict(
        self, x: Tensor, column: int | str, context: Tensor | None = None, *, gaps: str = "absent"
    ) -> Prediction:
        """The distribution of one column of each row given the others; its own values in x are not looked at.

        Args:
            gaps: ``absent``: nothing is known of a column that is NaN; ``event``: it is known to be missing.

        Raises:
            UnknownNameError, SettingError: there is no such column; the order is fixed, and known columns come later.
        """
        self._check(x, context, self.event_shape)
        index = self._index(column)
        require_choice("gaps", gaps, GAPS)
        x = x.double().clone()
        x[:, index] = torch.nan
        queried = torch.zeros_like(x, dtype=torch.bool)
        queried[:, index] = True
        self._require_order(~queried & (~x.isnan() | (self.with_gaps & (gaps == "event"))), queried)
        tokens = self._tokens(x, event=self.with_gaps & ~queried if gaps == "event" else None)
        return Prediction(self.heads, index, self._column_parameters(tokens, index, self._standardized(context)))

    def fill_likely(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Rows whose gaps hold the most likely value of their column (``Prediction.mode``), one column after the other,
        each given what the row holds by then.
        """
        x = x.double().clone()
        for index in range(len(self.columns)):
            rows = x[:, index].isnan().nonzero()[:, 0]
            if len(rows):
                x[rows, index] = self.predict(x[rows], index, None if context is None else context[rows]).mode()
        return x

    @torch.no_grad()
    def to_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Independent logistic latents of rows whose columns are all continuous, ``(rows, columns)``, NaN at gaps:

        $$ z_j = \operatorname{logit} P(X_j \le x_j \mid x_i, i < j), $$

        in the table's order (Rosenblatt 1952).

        Raises:
            SettingError: a column has atoms, a grid or a circle, and so no such latent.
        """
        self._check(x, context, self.event_shape)
        self._require_lines()
        found = []
        for rows in _parts(x):
            encoded, tokens = self.encoder.encode(x[rows]), self._tokens(x[rows])
            given = self._standardized(None if context is None else context[rows])
            before = [self._before(None, None)] if self.any_order else []
            parameters = self._in_own_dtype(self.net(tokens, *before, given))
            each = [self.heads.rest_latent(place, encoded, raw) for place, raw in enumerate(parameters)]
            found.append(torch.stack(each, 1).masked_fill(encoded.missing, torch.nan))
        return torch.cat(found)

    @torch.no_grad()
    def from_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The rows of these latents: the inverse of ``to_latent``."""
        self._check(z, context, self.event_shape)
        self._require_lines()
        x = torch.full(z.shape, torch.nan, dtype=torch.float64, device=self.device)
        tokens, given = self._tokens(x), self._standardized(context)
        for index in range(len(self.columns)):
            parameters = self._column_parameters(tokens, index, given)
            x[:, index] = self.heads.rest_quantile(index, parameters, z[:, index])
            seen = self.embedding(self.encoder.encode(x[:, index, None], [index]))[:, 0]
            tokens[:, index] = seen * ~z[:, index, None].isnan()
        return x

    def _require_lines(self) -> None:
        for column in self.columns:
            if column.atoms or column.rest in (None, "grid", "circle"):
                raise SettingError(f"column {column.name!r} has no latents: it is not a number on a line without atoms")

    def _index(self, column: int | str) -> int:
        names = [described.name for described in self.columns]
        if isinstance(column, str):
            if column not in names:
                raise UnknownNameError("column", column, names)
            return names.index(column)
        require_integer("column", column, at_least=0)
        if column >= len(names):
            raise SettingError(f"column={column}: there are {len(names)} columns, the first is 0")
        return column

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float,
        gaps: bool = False,
    ) -> Tensor:
        x = torch.full((n, len(self.columns)), torch.nan, dtype=torch.float64, device=self.device)
        return self._fill(x, x.isnan(), context, generator, temperature=temperature, gaps=gaps)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        gaps: bool = False,
    ) -> Tensor:
        """Draw ``n`` rows, float64, as ``Density.sample``; with ``gaps`` a column that has gaps may be NaN."""
        draw = partial(self._sample, temperature=temperature, gaps=gaps)
        return self._gather(n, context, self._draw(draw, n, context, seed))

    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        x = self._sample(n, context, generator, 1.0)
        return x, self._log_prob(x, context)

    def _in_chunks(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        event: Tensor,
        known: Tensor | None = None,
        place: Tensor | None = None,
    ) -> Tensor:
        """``_terms``; where no gradient is recorded, a part of the rows at a time."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._terms(x, context, event=event, known=known, place=place)

        def terms(rows: slice) -> Tensor:
            return self._terms(
                x[rows],
                None if context is None else context[rows],
                event=event[rows],
                known=None if known is None else known[rows],
                place=place,
            )

        return torch.cat(computed_parts(terms, list(_parts(x)), self.device))

    def _mask(self, name: str, mask: Tensor, x: Tensor) -> Tensor:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise SettingError(f"{name} is a mask: a torch.Tensor of True and False")
        if mask.shape not in (x.shape, x.shape[1:]):
            raise ShapeError(
                f"{name}: expected shape {tuple(x.shape)} or {tuple(x.shape[1:])}, got {tuple(mask.shape)}"
            )
        return mask.to(x.device).expand(x.shape)

    def _require_order(self, known: Tensor, unknown: Tensor) -> None:
        """Where the order is fixed, every known column comes before every unknown one."""
        if self.any_order:
            return
        late = known & (unknown.cumsum(1) > 0)
        if late.any():
            row, column = late.nonzero()[0].tolist()
            first = unknown[row].nonzero()[0].item()
            raise SettingError(
                f"row {row}: column {self.columns[column].name!r} is given, but comes after "
                f"{self.columns[int(first)].name!r}, which is not: this density has a fixed order "
                f"({ANY_ORDER})"
            )

    def _standardized(self, context: Tensor | None) -> Tensor | None:
        return None if context is None or self.standardize_context is None else self.standardize_context(context)[0]


def _chunk_rows(columns: int) -> int:
    return max(1, VALUES // columns)


def _parts(x: Tensor) -> Iterator[slice]:
    rows = _chunk_rows(x.shape[1])
    return (slice(start, start + rows) for start in range(0, max(len(x), 1), rows))
