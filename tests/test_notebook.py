"""What a notebook shows, in a kernel of its own: a bar, pictures, tables, and neither warnings nor error output."""

import os
import sys
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, nbclient and ipykernel, which run notebooks")
nbclient = pytest.importorskip("nbclient", reason="needs nbformat, nbclient and ipykernel, which run notebooks")
pytest.importorskip("ipykernel", reason="needs nbformat, nbclient and ipykernel, which run notebooks")

CELLS = {
    "prepare": """
import torch, flowstone, flowstone.plot
torch.set_num_threads(1)
x = torch.randn(300, 2)
flow = flowstone.nice(2, couplings=2, hidden=(8,))
settings = {"steps": 20, "validate_every": 10, "batch_size": 64}
""",
    "bar": "history = flowstone.fit(flow, 3 + x, log_every=10, **settings)",
    "live": """
with flowstone.plot.Live(x, share=0.99) as live:
    history = flowstone.fit(flow, x, watch=live, progress=False, **settings)
""",
    "density": "flow",
    "history": "history",
    "picture": "flowstone.plot.sample_figure(flow.sample(100, seed=0), ['a', 'b'])",
    "counting": """
from flowstone.bars import counting_bar
with counting_bar("scoring <a>", 10, rate="rows") as advance:
    advance(4)
    advance(6)
""",
}


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[Any]]:
    """The outputs of each cell, as the notebook shows them at the end."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip()) for code in CELLS.values()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(env=environment)
    return dict(zip(CELLS, (cell["outputs"] for cell in notebook.cells), strict=True))


def data_of(outputs: list[Any]) -> dict[str, str]:
    """The content of the only output of a cell."""
    (output,) = outputs
    assert output["output_type"] in ("display_data", "execute_result")
    return output["data"]


def test_nothing_is_written_to_standard_output_or_error(outputs):
    assert [output for found in outputs.values() for output in found if output["output_type"] == "stream"] == []


def test_a_training_shows_one_bar_that_ends_full_and_its_lines(outputs):
    data = data_of(outputs["bar"])
    lines = data["text/plain"].splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 10 of 20", "step 20 of 20", "step 20 of 20"]
    assert "val " in lines[-1]
    assert "(step 20) nats" in lines[-1]
    assert '<progress value="1.0000" max="1"' in data["text/html"]
    assert "widget" not in str(data)


def test_a_training_shows_one_picture_of_its_end(outputs):
    data = data_of(outputs["live"])
    assert data["text/plain"].startswith("step 20, ")
    assert data["image/png"].startswith("iVBOR")


def test_values_of_cells_are_tables_and_pictures(outputs):
    density, history = data_of(outputs["density"]), data_of(outputs["history"])
    assert density["text/plain"].startswith("Flow(nice, 2 features, ")
    assert "<td>nice</td>" in density["text/html"]
    assert history["text/plain"].startswith("History: 3 validations")
    assert history["text/html"].count("<tr>") == 4
    assert data_of(outputs["picture"])["image/png"].startswith("iVBOR")


def test_counted_work_shows_one_bar(outputs):
    data = data_of(outputs["counting"])
    assert data["text/plain"] == "scoring <a>: 10 of 10 rows"
    assert 'aria-label="scoring &lt;a&gt;"' in data["text/html"]
