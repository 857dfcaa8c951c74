"""Scoring, imputing and sampling past one machine: maps over Ray Data, in which each actor loads the run folder once.

Ray is an extra: ``pip install flowstone[ray]``. The run folder must be readable under its path on every machine, as on
a shared disk. Each function returns a Ray dataset, which computes nothing before its rows are taken or written.
"""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowstone.errors import SettingError
from flowstone.streaming.scorer import Scorer
from flowstone.table_model import WAYS, TableModel
from flowstone.validation import require_choice, require_integer

if TYPE_CHECKING:
    from ray.data import Dataset  # pyright: ignore[reportMissingImports]

__all__ = ["impute", "sample", "score"]

ROWS = 1 << 16  # in a batch


def score(
    dataset: "Dataset", run: Path | str, *, per_column: bool = False, drop_missing: bool = False, actors: int = 1
) -> "Dataset":
    """The rows of a dataset with their log-likelihoods, as ``flowstone score`` writes them.

    Args:
        dataset: rows with the density's columns; other columns are carried along.
        run: a run folder of a table.
        per_column, drop_missing: as ``Scorer`` takes them.
        actors: processes that each hold the density.
    """
    options: dict[str, Any] = {"per_column": per_column, "drop_missing": drop_missing}
    rows = Scorer(str(run), **options).part_rows  # also says what is wrong with the run before anything is started
    return _mapped(dataset, _Score, (_resolved(run), options), actors, rows)


def impute(dataset: "Dataset", run: Path | str, *, how: str = "draw", seed: int = 0, actors: int = 1) -> "Dataset":
    """The rows of a dataset with their gaps filled, given what each row holds.

    Args:
        how: as ``TableModel.impute`` takes it. What is drawn for a batch follows from the seed and its rows, so that
            the same batches have the same draws on whatever actor.
        run, actors: as for ``score``; the density is of mixed columns.
    """
    require_choice("how", how, WAYS)
    model = TableModel.load(run)
    model.impute(model.sample(1, seed=0)[:0], how=how)  # says what is wrong before anything is started
    return _mapped(dataset, _Impute, (_resolved(run), how, seed), actors, ROWS)


def sample(
    run: Path | str, n: int, given: Mapping[str, Any] | None = None, *, seed: int = 0, actors: int = 1, **how: Any
) -> "Dataset":
    """A dataset of ``n`` rows that are drawn from a density; the same seed gives the same with any number of actors.

    Args:
        given: values by column, as ``TableModel.sample`` takes them.
        how: its ``temperature`` and ``gaps``.
        run, actors: as for ``score``.
    """
    _require_ray()
    import ray.data  # pyright: ignore[reportMissingImports]

    require_integer("n", n)
    TableModel.load(run).sample(1, given, seed=seed, **how)  # says what is wrong before anything is started
    parts = ray.data.range(-(-n // ROWS))
    return _mapped(parts, _Sample, (_resolved(run), n, dict(given or {}), seed, how), actors, 1)


class _Score:
    """An actor that scores batches."""

    def __init__(self, run: str, options: Mapping[str, Any]) -> None:
        self.scorer = Scorer(run, **options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.scorer(batch)


class _Impute:
    """An actor that fills the gaps of batches."""

    def __init__(self, run: str, how: str, seed: int) -> None:
        self.model, self.how, self.seed = TableModel.load(run), how, seed

    def __call__(self, batch: pa.Table) -> pa.Table:
        digest = hashlib.sha256(str(self.seed).encode())
        for column in batch.columns:
            digest.update(repr(column.to_pylist()).encode())
        return self.model.impute(batch, how=self.how, seed=_seed_of(digest))


class _Sample:
    """An actor that draws rows; a batch holds the number of the part to draw."""

    def __init__(self, run: str, n: int, given: Mapping[str, Any], seed: int, how: Mapping[str, Any]) -> None:
        self.model, self.n, self.given, self.seed, self.how = TableModel.load(run), n, given, seed, how

    def __call__(self, batch: pa.Table) -> pa.Table:
        (part,) = batch.column("id").to_pylist()
        rows = min(ROWS, self.n - part * ROWS)
        number = _seed_of(hashlib.sha256(f"{self.seed} {part}".encode()))
        return self.model.sample(rows, self.given, seed=number, **self.how)


def _require_ray() -> None:
    """SettingError where Ray is not installed."""
    if find_spec("ray") is None:
        raise SettingError("maps over Ray Data need Ray: pip install flowstone[ray]")


def _mapped(dataset: "Dataset", actor: type, arguments: tuple[Any, ...], actors: int, rows: int) -> "Dataset":
    from ray.data import ActorPoolStrategy  # pyright: ignore[reportMissingImports]

    require_integer("actors", actors)
    return dataset.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        batch_size=rows,
        compute=ActorPoolStrategy(size=actors),
    )


def _resolved(run: Path | str) -> str:
    return str(Path(run).resolve())


def _seed_of(digest: Any) -> int:
    return int.from_bytes(digest.digest()[:7], "big")
