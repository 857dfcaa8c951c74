"""The recipes for Dask and Spark of docs/large-tables.md, run as they stand."""

import datetime
import decimal
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import flowstone
from flowstone.errors import DataError
from flowstone.streaming import Scorer
from flowstone.table_model import TableModel

PAGE = Path(__file__).parents[1] / "docs" / "large-tables.md"
CARRIED = ["row", "note"]  # no part of the density
SMALL = {"width": 8, "blocks": 1, "bins": 4, "pieces": 8}
BAD_VALUE = r"column 'weight', row \d+ holds 'heavy'; it is continuous"
SPARK_FURTHER = """
from pyspark.sql import functions
for few in (frame.filter("row < 0"), frame.filter("row < 3").repartition(4)):
    print(few.mapInArrow(score, scored).count(), "rows")
weight = functions.when(frame.row == 107, "heavy").otherwise(frame.weight.cast("string"))
bad = frame.withColumn("weight", weight)
try:
    bad.mapInArrow(score, type(scored)([*bad.schema, scored["log_prob"]])).count()
except Exception as error:
    print(error)
"""


def recipe(name: str) -> str:
    """The code under a heading of the page."""
    section = PAGE.read_text().partition(f"\n### {name}\n")[2]
    found = re.search(r"^```py(?:thon)?\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def table(rows: int = 300) -> pa.Table:
    """Columns of many types, with gaps; no whole number is known in the last hundred rows."""
    rng = np.random.default_rng(0)
    start, days, seconds = datetime.datetime(2024, 1, 1), rng.integers(0, 300, rows), rng.integers(0, 90_000, rows)
    dates = [start + datetime.timedelta(days=int(day)) for day in days]
    times = [start + datetime.timedelta(seconds=int(second)) for second in seconds]

    def gaps() -> np.ndarray:
        return rng.random(rows) < 0.2

    return pa.table({
        "row": np.arange(rows),
        "sex": rng.choice(["F", "M"], rows),
        "age": pa.array(rng.integers(38, 45, rows), mask=gaps() | (np.arange(rows) >= 200)),
        "height": pa.array(rng.normal(170, 8, rows), mask=gaps()),
        "weight": pa.array(rng.normal(70, 8, rows).astype(np.float32)),
        "born": pa.array(dates, pa.date32(), mask=gaps()),
        "seen": pa.array(times, pa.timestamp("us")),
        "sent": pa.array(times, pa.timestamp("us", "UTC"), mask=gaps()),
        "member": pa.array(rng.random(rows) < 0.5, mask=gaps()),
        "city": pa.array(rng.choice(["Rome", "Bonn", "Oslo"], rows), mask=gaps()).dictionary_encode(),
        "price": [decimal.Decimal(int(cents)) / 100 for cents in rng.integers(100, 9000, rows)],
        "unit": ["m"] * rows,
        "note": [f"note {number}" for number in range(rows)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def model() -> TableModel:
    return flowstone.learn(table(), exclude=CARRIED, steps=3, progress=False, arguments=SMALL)


@pytest.fixture
def folder(tmp_path, monkeypatch, model) -> Path:
    """A run folder, and rows in four files, one of them without any."""
    monkeypatch.chdir(tmp_path)
    model.save("runs/people")
    Path("rows").mkdir()
    for part, (first, count) in enumerate([(0, 100), (100, 100), (200, 0), (200, 100)]):
        pyarrow.parquet.write_table(table().slice(first, count), f"rows/{part}.parquet")
    return tmp_path


def read(folder: str) -> pa.Table:
    return pyarrow.parquet.read_table(folder)


def values(rows: pa.Table) -> list[dict]:
    """Rows in their order, whatever types of text and times they have."""
    rows = rows.sort_by("row") if "row" in rows.column_names else rows
    zone = rows.schema.get_field_index("sent")
    return rows.set_column(zone, "sent", rows.column(zone).cast(pa.timestamp("us"))).to_pylist()


def assert_done_as_by_one_process() -> None:
    """What the recipe wrote is what the library makes of the table."""
    scored, expected = read("scored"), Scorer("runs/people")(table())
    assert scored.column_names == expected.column_names
    assert values(scored.drop_columns("log_prob")) == values(table())
    likelihoods = scored.sort_by("row").column("log_prob").to_numpy()
    np.testing.assert_allclose(likelihoods, expected.column("log_prob").to_numpy(), rtol=1e-5, atol=1e-5)

    filled = values(read("filled"))
    assert len(filled) == 300
    for before, after in zip(values(table()), filled, strict=True):
        assert None not in after.values()
        assert after | {name: value for name, value in before.items() if value is not None} == after
    heights = [after["height"] for before, after in zip(values(table()), filled, strict=True) if not before["height"]]
    assert len(set(heights)) > 0.9 * len(heights)  # no partition repeats the draws of another

    drawn = read("drawn")
    assert drawn.column_names == [name for name in table().column_names if name not in CARRIED]
    assert drawn.column("age").to_pylist() == [40] * 400
    assert len(drawn.column("height").unique()) > 390
    one = TableModel.load("runs/people").sample(100, {"age": 40}, seed=2)
    assert values(one)[5] in values(drawn)


def run_dask() -> dict:
    """Run the recipe as a notebook does, and give its names: what is defined there, no other process can import."""
    pytest.importorskip("dask.dataframe", reason="a tool of the tests: pip install -e .[dev]")
    cell = {"__name__": "notebook"}
    exec(recipe("Dask"), cell)
    assert_done_as_by_one_process()
    return cell


def score_bad_row(cell: dict) -> None:
    frame, score, run = cell["frame"], cell["score"], cell["run"]
    bad = frame.assign(weight=frame["weight"].astype("string").where(frame["row"] != 107, "heavy"))
    bad.map_partitions(score, run, meta=score(bad._meta, run)).compute()


def test_the_recipe_for_dask_runs(folder):
    cell = run_dask()
    import cloudpickle  # pyright: ignore[reportMissingImports]

    for name in ("score", "impute", "sample"):
        cloudpickle.loads(cloudpickle.dumps(cell[name]))  # as Dask sends them to other processes
    with pytest.raises(DataError, match=BAD_VALUE):
        score_bad_row(cell)


@pytest.mark.filterwarnings("ignore")  # those of Dask
def test_the_recipe_for_dask_runs_on_two_processes(folder):
    distributed = pytest.importorskip("distributed", reason="runs where Dask has a cluster: pip install distributed")
    processes = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with processes as cluster, distributed.Client(cluster):
        cell = run_dask()
        with pytest.raises(DataError, match=BAD_VALUE):
            score_bad_row(cell)


def test_the_recipe_for_spark_runs_on_two_processes(folder):
    pytest.importorskip("pyspark", reason="500 MB, which no other test needs: pip install -c constraints.txt pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    Path("recipe.py").write_text(recipe("Spark") + SPARK_FURTHER)
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false pyspark-shell"}
    done = subprocess.run([sys.executable, "recipe.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_done_as_by_one_process()
    assert done.stdout.startswith("0 rows\n3 rows\n")
    assert re.search(BAD_VALUE, done.stdout)
