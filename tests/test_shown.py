"""How densities, histories and pictures show themselves, in a line and in notebooks."""

import builtins
import re
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowstone
from flowstone import plot
from flowstone.errors import SettingError
from flowstone.notebook import html_table
from flowstone.recipes import build
from flowstone.train.history import SHOWN, History, Record
from test_export import IMAGES, VECTORS
from training import QUICK


class Cells(HTMLParser):
    """The texts of a page's cells, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.rows = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def a_density(name: str) -> flowstone.Density:
    if name.endswith("_image"):
        return build(name, {"event_shape": (1, 4, 4), **IMAGES[name]})
    return build(name, {"features": 3, **VECTORS.get(name, {})})


@pytest.mark.parametrize("name", [*VECTORS, "nice_image", "realnvp_image", "blend", "gaussian_mixture"])
def test_a_density_is_one_line_and_in_a_notebook_a_table(name):
    density = a_density(name)
    count = f"{sum(parameter.numel() for parameter in density.parameters()):,}"
    size = "3 features" if tuple(density.event_shape) == (3,) else "1 x 4 x 4"
    assert repr(density) == f"{type(density).__name__}({name}, {size}, {count} parameters, not trained)"
    rows = dict(Cells(density._repr_html_()).rows)
    assert rows["recipe"] == name
    assert rows["parameters"] == count
    assert rows["state"] == "not trained"
    assert density.spec is not None
    assert density.spec["arguments"].keys() - {"features", "event_shape", "context_features"} <= rows.keys()


def test_the_module_tree_is_that_of_the_parts():
    flow = flowstone.nice(2, couplings=2)
    assert [line.split("(")[0].strip() for line in str(flow.bijection).splitlines()[1:-1]] == [
        "Standardize", "Coupling", "Coupling", "Scaling",
    ]  # fmt: skip
    assert dict(Cells(flow._repr_html_()).rows)["layers"] == "Standardize → 2 Coupling → Scaling → Logistic"


def test_a_density_of_no_recipe_and_one_with_a_context_say_so():
    density = flowstone.Flow(flowstone.bijections.Scaling(1), flowstone.priors.StandardNormal(1), context_features=2)
    assert repr(density) == "Flow(1 feature, 2 of context, 1 parameters, not trained)"
    assert "recipe" not in dict(Cells(density._repr_html_()).rows)


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_trained_is_known_after_training_and_after_loading(tmp_path):
    flow = flowstone.nice(2, couplings=1)
    flowstone.save(flow, tmp_path / "before")
    flowstone.fit(flow, torch.randn(100, 2), steps=2, **QUICK)
    flowstone.save(flow, tmp_path / "after")
    other = flowstone.realnvp(2, couplings=1)
    flowstone.fit_to_density(other, lambda x: -x.square().sum(-1), steps=2, n_samples=10, progress=False)
    assert [flow.trained, other.trained] == [True, True]
    assert [flowstone.load(tmp_path / name).trained for name in ("before", "after")] == [False, True]
    flow.trained = None
    flowstone.save(flow, tmp_path / "unknown")
    loaded = flowstone.load(tmp_path / "unknown")
    assert loaded.trained is None
    assert repr(loaded).endswith("parameters)")


records = st.builds(Record, st.integers(0, 10**6), *[st.floats(allow_infinity=False)] * 5)


@given(st.lists(records, max_size=40))
def test_a_history_shows_its_first_last_and_best_records(many):
    history = History(many)
    lines = repr(history).splitlines()
    rows = Cells(history._repr_html_()).rows[1:]
    assert lines[0] == f"History: {len(many)} validation{'s' * (len(many) != 1)}, finished"
    assert [line.split() for line in lines[2:]] == [" ".join(row).split() for row in rows]
    assert len(rows) <= SHOWN + 1
    assert len(rows) == len(many) or len(many) > SHOWN
    if many:
        assert [rows[0][0], rows[-1][0]] == [str(many[0].step), str(many[-1].step)]
        (best,) = [row for row in rows if row[-1] == "best"]
        assert best[3] == f"{history.best.val_nll:.4f}"


@given(st.lists(records, max_size=5))
def test_a_history_becomes_a_frame(many):
    frame = History(many).to_pandas()
    again = [Record(**row) for row in frame.to_dict("records")]
    assert len(frame) == len(many)
    assert list(frame.columns) == list(Record.__dataclass_fields__)
    assert repr(again) == repr(many)


def test_without_pandas_one_line_says_what_is_missing(monkeypatch):
    imported = builtins.__import__

    def without(name, *others, **options):
        if name == "pandas":
            raise ImportError(name)
        return imported(name, *others, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingError, match="to_pandas needs pandas, which is not installed: pip install pandas"):
        History().to_pandas()


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5), st.text())
def test_a_table_keeps_any_text(rows, caption):
    found = Cells(html_table(rows, caption=caption)).rows
    plain = [[re.sub("\r\n?", "\n", cell) for cell in row] for row in found]
    assert plain == [[re.sub("\r\n?", "\n", cell) for cell in row] for row in rows]


def test_a_picture_shows_itself_without_pyplot():
    figure, axes = plot.new_figure(1, 1, (2, 2))
    axes[0, 0].plot([0, 1])
    assert vars(type(figure))["_repr_png_"](figure).startswith(b"\x89PNG")
