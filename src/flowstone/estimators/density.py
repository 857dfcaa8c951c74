"""FlowDensity: a density of tables with the interface of scikit-learn."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits
from torch import Tensor

from flowstone.blend import Blend
from flowstone.data import Rows
from flowstone.data.tables import Columns, read_table
from flowstone.density import Density
from flowstone.errors import CheckpointError, DataError, SettingError, UnknownNameError
from flowstone.estimators.candidates import MODELS, candidates, default_models
from flowstone.estimators.conditional import Conditional
from flowstone.estimators.context import ContextColumns
from flowstone.estimators.ladder import Judgement, choose
from flowstone.estimators.rows import TableInput, seed_of
from flowstone.estimators.tables import as_rows, in_container, in_container_of, is_frame
from flowstone.estimators.weights import checked_weights, repetitions
from flowstone.evaluation import log_prob
from flowstone.mixed import MixedDensity
from flowstone.runs.checkpoint import RECORD, load, read_record, reading, save
from flowstone.table_model import TableModel
from flowstone.validation import as_integer, require_given, require_number

__all__ = ["FlowDensity"]

SORTED_ROWS = 100_000  # up to so many rows the result does not depend on their order
ONE_THREAD = 1_000_000  # numbers, up to which a second thread of linear algebra only waits


class FlowDensity(TableInput, ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""The density of a table's rows, chosen among simple and flexible models by held-out likelihood.

    Rows are numbers (an array, or a frame of numbers without gaps), or a frame of columns of any kind, with gaps. For
    numbers the candidates are independent columns, a Gaussian, mixtures of Gaussians and, from 500 rows on, the flows
    ``spline`` and ``mixed``; for other tables independent columns and, from 100 rows on, ``mixed``. Each is judged by
    cross-validation where rows are few, and on a fifth of the rows otherwise. The blend of candidates that makes
    held-out rows likeliest (for columns of several kinds, or with gaps: the best candidate) is fitted to all rows.

    Where numbers repeat, or a column follows from others, a density of numbers can grow without bound, and the
    likelihood tells only how narrow its spikes are; ``kinds="infer"`` gives repeated values of a frame probabilities.

    Likelihoods are in nats a row, with respect to length in the units of X for numbers, and as ``flowstone.learn`` has
    them for other tables. Constant columns are not part of the density: a row that has another value there is
    impossible, and samples have the constant.

    With a ``context``, such as the observations of a simulation, the estimator learns the density of X given the
    context: the candidates are a linear regression whose residuals have a Gaussian or a mixture of Gaussians (where
    rows are few, also a Gaussian that ignores the context), ``spline``, ``maf_spline`` (also with dropout, where it is
    the mean of four densities) and ``mixed``; from 20 numbers of context on also ``embedded``, a net that makes the
    context narrow and a ``spline`` given what it returns. Columns of the context may be of any kind.

    A whole ``sample_weight`` is exact: a weight of 2 is the row twice. Other weights, and whole ones that make more
    than ten million rows, are divided by their mean and rounded up or down at random: right in expectation. Up to
    100,000 rows the result does not depend on their order.

    Args:
        kinds: ``auto``: a frame of numbers without gaps is continuous, and the kinds of other frames are inferred;
            ``infer``: the kinds of any frame are inferred; or corrections of what is inferred, such as ``{"zip":
            "categorical"}``.
        models: the candidates, among ``independent gaussian mixture spline maf_spline mixed embedded``; ``auto``: all
            of them, except ``maf_spline`` where there is no context. ``embedded`` needs a context.
        time_limit: seconds that all trainings of nets may take together; None: as long as they need.
        device: where nets are trained.
        random_state: a seed, or a ``Generator`` or ``RandomState`` of NumPy; without a time limit the same seed repeats
            exactly on a CPU.
        verbose: whether to print what each candidate is worth.

    Attributes:
        flow_: the density that was chosen.
        history_: the History of its training; None if it was fitted without a training.
        candidates_: a ``Judgement`` of each candidate.
        kinds_: the kind of each column.
        context_: how the context's columns become numbers; None without a context.
        n_features_in_, feature_names_in_: of X.

    >>> import numpy as np
    >>> from flowstone import FlowDensity
    >>> X = np.random.default_rng(0).normal(5, 2, (200, 2))
    >>> density = FlowDensity(random_state=0).fit(X)
    >>> density.score_samples(X[:3]).shape, density.sample(4).shape
    ((3,), (4, 2))
    >>> height, age = X[:, :1], X[:, 1:]
    >>> given_age = FlowDensity(random_state=0).fit(height, context=age)
    >>> given_age.sample(2, context=[[4.0], [6.0]]).shape  # two for each row of the context
    (4, 1)
    """

    def __init__(
        self,
        *,
        kinds: str | Mapping[str, str] = "auto",
        models: str | Sequence[str] = "auto",
        time_limit: float | None = None,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.kinds = kinds
        self.models = models
        self.time_limit = time_limit
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = tags.input_tags.string = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, context: Any = None) -> "FlowDensity":
        """Learn the density of the rows of X, or of X given a context.

        Args:
            X: ``(rows, columns)``.
            y: not looked at.
            sample_weight: ``(rows,)``.
            context: ``(rows, context columns)``, an array or a frame; or ``(rows,)``.

        Raises:
            ValueError: X, weights or settings cannot be used; the message names what is wrong.
        """
        self._check_settings()
        seed = seed_of(self.random_state)
        x = self._learned_rows(X)
        self.context_ = None if context is None else ContextColumns.learn(context, self._requested_kinds())
        self._check_kinds(() if self.context_ is None else self.context_.names)
        counts, given = repetitions(sample_weight, len(x), seed), self._given_context(context, len(x), learned=True)
        return self._fit_rows(_in_order(Rows(x, given), counts, seed), seed)

    def fit_as(self, other: TableInput, x: Tensor) -> "FlowDensity":
        """Learn the density of rows that another estimator has read.

        Args:
            x: some of its rows, ``(rows, columns)``, as ``_learned_rows`` gave them.
        """
        self._check_settings()
        self.read_as(other)
        self.context_ = None
        seed = seed_of(self.random_state)
        return self._fit_rows(_in_order(Rows(x), None, seed), seed)

    def _fit_rows(self, rows: Rows, seed: int) -> "FlowDensity":
        x = rows.x
        self._constants = {} if self.columns_ is not None else _constants(x, list(self.kinds_))
        self._varying = [index for index in range(x.shape[1]) if index not in self._constants]
        if not self._varying:
            equal = f"all {len(x)} rows are equal: they have" if len(x) > 1 else "one row alone has"
            raise ValueError(f"{equal} no density")
        heads, width = self._heads(x), 0 if self.context_ is None else self.context_.features
        found = candidates(self._models(), len(x), len(self._varying), heads, width, self.device)
        if not found:
            raise SettingError(
                f"models={self.models!r}: none of them is for {len(x)} such rows; there are 'independent' and 'mixed' "
                "where columns are of several kinds or have gaps, nets need some hundred rows, and 'embedded' needs a "
                "context"
            )
        minutes = None if self.time_limit is None else self.time_limit / 60
        with threadpool_limits(1 if x.numel() <= ONE_THREAD else None, "blas"):
            self.flow_, self.history_, self.candidates_ = choose(
                found,
                Rows(x[:, self._varying], rows.context),
                seed=seed,
                minutes=minutes,
                blended=heads is None,
                say=self._say,
            )
        self._n_features_out = len(self._varying)
        return self

    def _say(self, words: str) -> None:
        if self.verbose:
            sys.stderr.write(f"{words}\n")

    def _check_settings(self) -> None:
        if self.time_limit is not None:
            require_number("time_limit", self.time_limit, above=0)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingError(f"device={self.device!r} cannot be used: {reason}") from error

    def _models(self) -> Sequence[str]:
        if isinstance(self.models, str) and self.models == "auto":
            return default_models(conditional=self.context_ is not None)
        if not isinstance(self.models, Iterable):
            raise SettingError(f"models={self.models!r}: expected 'auto', or one or several of {', '.join(MODELS)}")
        models = (self.models,) if isinstance(self.models, str) else tuple(self.models)
        for name in models:
            if name not in MODELS:
                raise UnknownNameError("model", name, MODELS)
        return models

    def _heads(self, x: Tensor) -> list[dict[str, Any]] | None:
        """The records of the columns; None where all are continuous and without gaps."""
        if self.columns_ is not None:
            return self.columns_.heads()
        if not x.isnan().any():
            return None
        return [
            {"name": f"x{index}", "rest": "real", "gaps": bool(x[:, index].isnan().any())} for index in self._varying
        ]

    def _given_context(self, context: Any, rows: int | None, *, learned: bool = False) -> Tensor | None:
        """A context as the density takes it, a row for each row; a single row is for all of them, unless it is learned.

        Args:
            rows: how many; None: as many as the context has.
        """
        if self.context_ is None:
            if context is not None:
                raise SettingError("context: the density was fitted without one")
            return None
        if context is None:
            raise SettingError(f"the density was fitted with a context ({', '.join(self.context_.names)}): give one")
        given = self.context_.encode(context)
        device = torch.device("cpu") if learned else self.flow_.device
        if rows is None or len(given) == rows:
            return given.to(device)
        if len(given) == 1 and not learned:
            return given.expand(rows, -1).to(device)
        raise DataError(f"the context has {len(given)} rows, X has {rows}")

    # --- scores, samples and latents ----------------------------------------------------------------------------------

    def score_samples(self, X: Any, context: Any = None) -> np.ndarray:
        """The log-likelihood of each row in nats, ``(rows,)``; a row with gaps has that of the values that are there,
        where ``independent`` or ``mixed`` was chosen. Levels that were not learned are scored as
        ``flowstone.TableModel`` scores them, with a warning.

        Args:
            context: a row for each row of X, or one row for all.

        Raises:
            DataError: a value is missing, and the model that was chosen has no likelihood of such rows.
        """
        x = self._rows(X)
        found = self.varying_log_prob(x, self._given_context(context, len(x)))
        for index, value in self._constants.items():
            found = found.masked_fill((x[:, index] != value) & ~x[:, index].isnan(), -np.inf)
        for other in self._other_constants(X).values():
            found = found.masked_fill(torch.from_numpy(other), -np.inf)
        return found.numpy()

    def varying_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-likelihood of rows as the density reads them, ``(rows,)``, whatever the constant columns hold."""
        x = x[:, self._varying]
        if not self.flow_.accepts_gaps and x.isnan().any():
            row, column = x.isnan().nonzero()[0].tolist()
            name = list(self.kinds_)[self._varying[column]]
            raise DataError(
                f"X: column {name!r}, row {row + 1} is missing, and the model that was chosen has no likelihood of "
                "rows with gaps; fit with models=('independent', 'mixed')"
            )
        return log_prob(self.flow_, x.to(self.flow_.data_dtype), context).double().cpu()

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any = None, *, sample_weight: Any = None, context: Any = None
    ) -> float:
        """The mean log-likelihood of the rows in nats, weighted where there are weights; a row of weight 0 is not
        looked at.
        """
        found = self.score_samples(X, context)
        if sample_weight is None:
            return float(found.mean())
        weights = checked_weights(sample_weight, len(found))
        return float(np.average(found[weights > 0], weights=weights[weights > 0] / weights.max()))

    def sample(
        self, n: int = 1, given: Mapping[Any, Any] | None = None, *, context: Any = None, random_state: Any = None
    ) -> Any:
        """Draw n rows, in the container that X was fitted in.

        With a context, n rows are drawn for each of its rows, those for its first row first.

        Args:
            given: values by name of column, such as ``{"sex": "F", "age": 40}``, or of an array by its number, where
                ``mixed`` was chosen.
            random_state: a seed, or a ``Generator`` or ``RandomState`` of NumPy.
        """
        check_is_fitted(self)
        seed = seed_of(random_state)
        each = self._given_context(context, None)
        if self.columns_ is not None:
            model = TableModel(self.flow_, self.columns_)
            return in_container(model.sample(n, given, context=each, seed=seed), self._backend, self._types)
        if given is not None and len(given):
            return self._drawn_rows(self._known_row(given), n, each, seed)
        x = self.flow_.sample(n, each, seed=seed)
        return self._with_constants(x if each is None else x.transpose(0, 1).flatten(0, 1))

    def conditional(self, given: Mapping[Any, Any], *, context: Any = None) -> Conditional:
        """The density of the other columns given values of some, such as ``{"sex": "F", "age": 40}``: samples,
        likelihoods, quantiles and tail probabilities, without rejection.

        Args:
            given: values by name of column, or of an array by its number.
            context: one row, where there is a context.

        Raises:
            SettingError: the model that was chosen has no such conditionals; ``models="mixed"`` has.
        """
        check_is_fitted(self)
        density, each = self._any_order("conditional densities"), self._given_context(context, None)
        if each is not None and len(each) != 1:
            raise DataError(f"the context of a conditional density is one row, got {len(each)}")
        if self.columns_ is None:
            names = [name for index, name in enumerate(self.kinds_) if index in self._varying]
            known = self._known_row(given)
        else:
            names, known = self.columns_.names, TableModel(density, self.columns_).known_row(given)
        return Conditional(
            density, names, self.columns_, numbered=list(self.kinds_), given=given, known=known, context=each,
            encode=self._varying_rows, draw=lambda n, random_state: self._drawn_rows(known, n, each, random_state),
        )  # fmt: skip

    def _drawn_rows(self, known: Tensor, n: int, context: Tensor | None, random_state: Any) -> Any:
        """Rows whose columns that are NaN in ``known``, ``(1, varying columns)``, are drawn given the others."""
        density = self._any_order("samples given values")
        seed = seed_of(random_state)
        if context is not None:
            n, context = n * len(context), context.repeat_interleave(n, 0)
        x = known.to(density.device).expand(n, -1)
        x = density.fill(x, x.isnan(), context, seed=seed)
        if self.columns_ is not None:
            return in_container(self.columns_.decode(x, seed=seed), self._backend, self._types)
        return self._with_constants(x)

    def _varying_rows(self, X: Any) -> Tensor:
        """The columns of X that vary, as the density takes them."""
        return self._rows(X)[:, self._varying]

    def _known_row(self, given: Mapping[Any, Any]) -> Tensor:
        """Numbers of which some are known, ``(1, varying columns)``, NaN elsewhere."""
        require_given(given)
        names = list(self.kinds_)
        x = torch.full((1, len(names)), torch.nan, dtype=torch.float64)
        for key, value in given.items():
            place = as_integer(key)
            name = names[place] if type(place) is int and 0 <= place < len(names) else str(key)
            if name not in names:
                raise UnknownNameError("column", name, names)
            index = names.index(name)
            if not isinstance(value, Real) or not np.isfinite(float(value)):
                raise SettingError(f"given {name}={value!r}: expected a finite number")
            if float(value) != self._constants.get(index, float(value)):
                raise SettingError(f"given {name}={value}: it was {self._constants[index]:g} in all rows")
            x[:, index] = float(value)
        return x[:, self._varying]

    def impute(self, X: Any, context: Any = None, *, random_state: Any = None) -> Any:
        """X with its gaps drawn given what each row holds, and its context, in its own container."""
        check_is_fitted(self)
        given_rows, X, seed = X, as_rows(X), seed_of(random_state)
        if self.columns_ is not None:
            table = read_table(X)
            given = self._given_context(context, len(table))
            filled = TableModel(self.flow_, self.columns_).impute(table, context=given, seed=seed)
            return in_container_of(given_rows, filled)
        x = self._rows(X)
        filled, given = x[:, self._varying], self._given_context(context, len(x))
        if filled.isnan().any():
            density = self._any_order("filled gaps")
            filled = density.fill(filled.to(density.device), filled.isnan().to(density.device), given, seed=seed)
        rows = self._complete_rows(filled, beside=x)
        return in_container_of(given_rows, _table(read_table(X).columns, rows)) if is_frame(X) else rows

    def fit_transform(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any = None, *, sample_weight: Any = None, context: Any = None
    ) -> Any:
        """``fit``, then the latents of the same rows."""
        return self.fit(X, y, sample_weight=sample_weight, context=context).transform(X, context)

    def transform(self, X: Any, context: Any = None) -> np.ndarray:
        """The latents of rows by the heaviest model of a blend, ``(rows, varying columns)``: normal for ``spline``,
        logistic for ``independent`` and ``mixed``; for a mixture of Gaussians, the standardised rows.

        Raises:
            SettingError: columns are of several kinds: rows have no latents.
        """
        x = self._rows(X)[:, self._varying]
        flow, given = self._with_latents(), self._given_context(context, len(x))
        with torch.no_grad():
            z = flow.to_latent(x.to(flow.device, flow.data_dtype), given)
        return (z if isinstance(flow, MixedDensity) else z[0]).double().cpu().numpy()

    def inverse_transform(self, X: Any, context: Any = None) -> Any:
        """The rows at these latents: the inverse of ``transform``."""
        z = torch.from_numpy(np.array(X, dtype=np.float64))
        flow, given = self._with_latents(), self._given_context(context, len(z))
        with torch.no_grad():
            if isinstance(flow, MixedDensity):
                return self._with_constants(flow.from_latent(z.to(flow.device), given))
            return self._with_constants(flow.from_latent(z.to(flow.device, flow.dtype), given)[0])

    def _with_latents(self) -> Any:
        check_is_fitted(self)
        return self.flow_.heaviest if isinstance(self.flow_, Blend) else self.flow_

    def _any_order(self, what: str) -> MixedDensity:
        if not isinstance(self.flow_, MixedDensity):
            raise SettingError(f"{what}: not of the model that was chosen; fit with models='mixed'")
        return self.flow_

    def _with_constants(self, x: Tensor) -> Any:
        """Rows of numbers with the constant columns, in the container that X was fitted in."""
        if self.columns_ is not None:
            return in_container(self.columns_.decode(x), self._backend, self._types)
        rows = self._complete_rows(x)
        if self._backend is None:
            return rows
        made = in_container(_table(self.kinds_, rows), self._backend, self._types)
        return made if hasattr(self, "feature_names_in_") else made.set_axis(range(rows.shape[1]), axis=1)

    def _complete_rows(self, x: Tensor, beside: Tensor | None = None) -> np.ndarray:
        """Rows of numbers with the constant columns; what ``beside`` holds in constant columns stays."""
        rows = np.empty((len(x), len(self.kinds_)))
        rows[:, self._varying] = x.double().cpu().numpy()
        for index, value in self._constants.items():
            rows[:, index] = value if beside is None else beside[:, index].nan_to_num(value).numpy()
        return rows

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write what was learned into a folder that ``FlowDensity.load`` reads, without pickle."""
        check_is_fitted(self)
        record = {
            "settings": self._settings(),
            "kinds": self.kinds_,
            "backend": self._backend,
            "types": {name: str(kind) for name, kind in self._types.items()},
            "constants": [[index, value] for index, value in self._constants.items()],
            "named": hasattr(self, "feature_names_in_"),
            "schema": None if self.columns_ is None else self.columns_.as_record(),
            "context": None if self.context_ is None else self.context_.as_record(),
            "candidates": [asdict(judgement) for judgement in self.candidates_],
        }
        save(self.flow_, folder, extra={"estimator": record})

    def _settings(self) -> dict[str, Any]:
        """The settings as plain values for JSON."""
        return {
            "kinds": self.kinds if isinstance(self.kinds, str) else dict(self.kinds),
            "models": self.models if isinstance(self.models, str) else list(self.models),
            "time_limit": None if self.time_limit is None else float(self.time_limit),
            "device": str(self.device),
            "verbose": bool(self.verbose),
        }

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> "FlowDensity":
        """The estimator that ``save`` wrote.

        Raises:
            CheckpointError: the folder is damaged, or holds no estimator.
        """
        held = read_record(folder).get("estimator")
        if not isinstance(held, dict):
            raise CheckpointError(f"{Path(folder) / RECORD}: it holds no estimator")
        density = load(folder, device=device)
        with reading(Path(folder) / RECORD):
            return cls._of_record(held, density)

    @classmethod
    def _of_record(cls, held: Mapping[str, Any], density: Density) -> "FlowDensity":
        settings = held["settings"]
        if isinstance(settings["models"], list):
            settings["models"] = tuple(settings["models"])
        made = cls(**settings)
        made.flow_, made.history_ = density, None
        made.kinds_, made._backend, made._types = held["kinds"], held["backend"], held.get("types", {})
        made._constants = {int(index): float(value) for index, value in held["constants"]}
        made._varying = [index for index in range(len(made.kinds_)) if index not in made._constants]
        made.columns_ = None if held["schema"] is None else Columns.from_record(held["schema"])
        if made.columns_ is not None:
            made._varying = list(range(len(made.columns_.names)))
        context = held.get("context")
        made.context_ = None if context is None else ContextColumns.from_record(context)
        made.n_features_in_, made._n_features_out = len(made.kinds_), len(made._varying)
        if held["named"]:
            made.feature_names_in_ = np.array(list(made.kinds_), dtype=object)
        made.candidates_ = [Judgement(**judgement) for judgement in held["candidates"]]
        return made


def _table(names: Iterable[str], rows: np.ndarray) -> pa.Table:
    return pa.table(dict(zip(names, rows.T, strict=True)))


def _constants(x: Tensor, names: Sequence[str]) -> dict[int, float]:
    """The columns all of whose values are the same, by their index."""
    found = {}
    for index, name in enumerate(names):
        values = x[:, index][~x[:, index].isnan()]
        if not len(values):
            raise ValueError(f"column {name!r} holds no value: leave it out")
        if (values == values[0]).all():
            found[index] = values[0].item()
    return found


def _in_order(rows: Rows, counts: np.ndarray | None, seed: int) -> Rows:
    """Each row as often as it counts, in an order that depends on the seed and, up to ``SORTED_ROWS``, on nothing else
    but the rows.
    """
    if counts is not None:
        rows = rows.take(torch.from_numpy(np.repeat(np.arange(len(rows)), counts)))
    if len(rows) <= SORTED_ROWS:
        columns = rows.x if rows.context is None else torch.cat((rows.x, rows.context), 1)
        rows = rows.take(torch.from_numpy(np.lexsort(columns.numpy().T[::-1])))
    return rows.take(torch.from_numpy(np.random.default_rng(seed).permutation(len(rows))))
