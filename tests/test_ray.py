"""Scoring, imputing and sampling over Ray Data on a local cluster."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from commands import flowstone
from flowstone.errors import CheckpointError, DataError, SettingError, UnknownNameError
from flowstone.streaming import Scorer
from flowstone.table_model import TableModel, learn

SMALL = ["--set", "width=8", "blocks=1", "bins=4", "--steps", 3, "--quiet", "--no-plots"]


def table(rows: int = 400) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({
        "row": np.arange(rows),
        "sex": rng.choice(["F", "M"], rows),
        "age": pa.array(rng.integers(18, 30, rows), mask=rng.random(rows) < 0.2),
        "height": rng.normal(170, 8, rows),
    })  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    pyarrow.parquet.write_table(table(), folder / "t.parquet")
    flowstone("train", folder / "t.parquet", "--exclude", "row", "--out", folder / "R", *SMALL)
    return folder / "R"


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine. It counts four processors, whatever there are, so that actors and readers have one each."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install flowstone[ray]")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def rows_of(dataset) -> list[dict]:
    return dataset.to_pandas().to_dict("records")


def in_order(rows: pa.Table) -> pa.Table:
    return rows.take(np.argsort(rows.column("row").to_numpy()))


def arrow_of(dataset) -> pa.Table:
    import ray  # pyright: ignore[reportMissingImports]

    return pa.concat_tables([ray.get(each) for each in dataset.to_arrow_refs()], promote_options="permissive")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")  # Ray's
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_scores_imputed_rows_and_samples_on_a_local_cluster(cluster, run):
    import ray.data  # pyright: ignore[reportMissingImports]

    from flowstone.streaming import ray as maps

    rows = table()
    dataset = ray.data.from_arrow([rows.slice(0, 150), rows.slice(150)])
    scored = in_order(arrow_of(maps.score(dataset, run, actors=2)))
    expected = Scorer(str(run))(rows)
    assert scored.column_names == expected.column_names
    np.testing.assert_allclose(
        scored.column("log_prob").to_numpy(), expected.column("log_prob").to_numpy(), rtol=1e-5, atol=1e-5
    )
    assert scored.drop_columns("log_prob").to_pylist() == rows.to_pylist()

    filled = in_order(arrow_of(maps.impute(dataset, run, how="likely")))
    assert filled.to_pylist() == TableModel.load(run).impute(rows, how="likely").to_pylist()

    samples = arrow_of(maps.sample(run, 30, {"sex": "F"}, seed=1))
    assert samples.column_names == ["sex", "age", "height"]
    assert len(samples) == 30
    assert set(samples.column("sex").to_pylist()) == {"F"}


def test_what_an_actor_draws_follows_from_the_seed_and_its_batch(run):
    from flowstone.streaming.ray import _Impute, _Sample

    rows = table(60)
    one, again, other = _Impute(str(run), "draw", 1), _Impute(str(run), "draw", 1), _Impute(str(run), "draw", 2)
    assert one(rows).equals(again(rows))
    assert not one(rows).equals(other(rows))
    parts = [pa.table({"id": [number]}) for number in range(3)]
    actor = _Sample(str(run), 2 * (1 << 16) + 5, {}, 0, {})
    last = actor(parts[2])
    assert len(last) == 5
    assert last.equals(_Sample(str(run), 2 * (1 << 16) + 5, {}, 0, {})(parts[2]))


def test_a_missing_run_is_said_before_anything_is_started(tmp_path):
    from flowstone.streaming import ray as maps

    with pytest.raises(CheckpointError, match="nowhere is not a run folder"):
        maps.score(None, tmp_path / "nowhere")  # pyright: ignore[reportArgumentType]


def test_what_a_run_cannot_do_is_said_before_anything_is_started(run, tmp_path):
    from flowstone.streaming import ray as maps

    nothing: Any = None
    numbers, arguments = {"a": np.random.default_rng(0).normal(size=40)}, {"components": 1}
    learn(numbers, recipe="gaussian_mixture", arguments=arguments, steps=1, progress=False).save(tmp_path)
    with pytest.raises(SettingError, match="filled gaps: not of a density of recipe 'gaussian_mixture'"):
        maps.impute(nothing, tmp_path)
    with pytest.raises(UnknownNameError, match="unknown how 'guess'"):
        maps.impute(nothing, run, how="guess")
    pytest.importorskip("ray.data")
    with pytest.raises(DataError, match="given sex=X: unknown level 'X'"):
        maps.sample(run, 5, {"sex": "X"})
    with pytest.raises(SettingError, match="temperature"):
        maps.sample(run, 5, temperature=-1)
