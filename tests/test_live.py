"""Pictures of a training while it runs: what they show, what they cost, and that they change nothing."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import flowstone
from browser import barriers, browsing, opened
from commands import flowstone as command
from flowstone import plot
from flowstone.plot import figures, live, training_figure
from flowstone.recipes import build
from flowstone.runs import Run
from flowstone.train.history import History, Record
from training import QUICK, same, weights

pytestmark = pytest.mark.filterwarnings("ignore:validation has not moved")  # in so few steps

SMALL = {"couplings": 2, "hidden": (8,)}


@pytest.fixture
def always(monkeypatch):
    """Every validation has time for a picture, which is a coarse one."""
    monkeypatch.setattr(live._Budget, "allows_picture", lambda *_: True)
    monkeypatch.setattr(training_figure, "GRID", 8)
    monkeypatch.setattr(live, "ROWS", 50)
    monkeypatch.setattr(figures, "DPI", 20)


def picture_of(page: Path) -> np.ndarray:
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    assert found
    return np.array(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def a_history(*val_nll: float) -> History:
    return History([Record(10 * i, 1.0 + i, 2.0, nll, 1e-3, 1.0) for i, nll in enumerate(val_nll)])


moments = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.001, 20), st.floats(0.001, 1)), max_size=60)


@given(moments, st.floats(0.01, 0.5))
def test_drawing_stays_below_its_share_unless_a_picture_costs_twice_the_last_one(moments, share):
    clock, budget, seconds, written, excess = [0.0], live._Budget(share), 0.0, 0.0, 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.time, "perf_counter", lambda: clock[0])
        for training, picture, page in moments:
            seconds += training
            kind = "picture" if budget.allows_picture(seconds) else "page"
            if kind == "picture" or budget.allows_page(seconds, written):
                cost, expected = {"picture": picture, "page": page}[kind], budget.costs[kind]
                with budget.measured(kind):
                    clock[0] += cost
                written, excess = seconds, max(0.0, cost - (live.BUSIER if kind == "picture" else 1) * expected)
                assert budget.spent <= share * seconds + excess + 1e-9
    assert budget.spent == pytest.approx(clock[0])


def test_pictures_come_as_often_as_their_share_allows_and_figures_between_them(monkeypatch):
    clock, budget, drawn, pages, written = [0.0], live._Budget(0.05), 0, 0, 0.0
    monkeypatch.setattr(live.time, "perf_counter", lambda: clock[0])
    for seconds in range(1000):
        if budget.allows_picture(seconds):
            drawn, written = drawn + 1, seconds
            with budget.measured("picture"):
                clock[0] += 0.5
        elif budget.allows_page(seconds, written):
            pages, written = pages + 1, seconds
            with budget.measured("page"):
                clock[0] += 0.01
    assert budget.spent < 50
    assert 90 < drawn < 99  # of 0.5 s each, in 5% of 1000 s
    assert 200 < pages < 300  # every 3 s, but where a picture was drawn


@pytest.mark.parametrize("recipe", ["nice", "nice_image"])
def test_the_weights_are_those_of_a_training_without_it(recipe, tmp_path, always):
    """Noise and dropout of the steps follow the same random numbers, and those of the caller stay where they were."""
    images = recipe == "nice_image"
    x = torch.randint(256, (60, 1, 2, 2)) if images else torch.randn(200, 2)
    ends, states = [], []
    for page in (None, tmp_path / "live.html"):
        torch.manual_seed(3)
        flow = build(recipe, SMALL | ({"event_shape": (1, 2, 2)} if images else {"features": 2}))
        with plot.Live(x, page=page) as shown:
            history = flowstone.fit(flow, x, steps=10, watch=shown, **QUICK)
        ends.append((weights(flow), history.column("val_nll")))
        states.append(torch.get_rng_state())
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert torch.equal(*states)
    assert picture_of(tmp_path / "live.html").std() > 0


def test_the_page_reads_itself_anew_until_the_training_has_ended(tmp_path, always):
    page, pages, x = tmp_path / "live.html", [], torch.randn(200, 2)

    with plot.Live(x, page=page, title="a <b> & c", columns=["p", "q"]) as shown:

        def watch(density, history):
            shown(density, history)
            pages.append(page.read_text())
            assert [path.name for path in tmp_path.iterdir()] == ["live.html"]

        history = flowstone.fit(flowstone.nice(2, **SMALL), x, steps=10, watch=watch, **QUICK)
    assert len(pages) == 2
    for text in pages:
        assert '<meta http-equiv="refresh" content="3">' in text
        assert "location.reload()" in text
    end = page.read_text()
    assert "refresh" not in end
    assert "<script" not in end
    assert "training finished" in end
    for text, record in zip([*pages, end], [*history, history.records[-1]], strict=True):
        assert f"step {record.step}, {record.seconds:.1f} s: train {record.train_nll:.4f}" in text
        assert "a &lt;b&gt; &amp; c" in text
        assert "http://" not in text
        assert "https://" not in text
        assert re.search(r'<img [^>]*alt="[^"]+"', text)


def test_the_first_page_comes_before_there_is_time_for_a_picture(tmp_path):
    shown = plot.Live(torch.randn(20, 2), page=tmp_path / "live.html")
    shown(flowstone.nice(2, **SMALL), History([Record(0, 0.01, 2.0, 2.0, 1e-3, 1.0)]))
    text = (tmp_path / "live.html").read_text()
    assert "<img" not in text
    assert "The first picture comes when there is time for it." in text
    assert shown.budget.spent > 0
    assert shown.budget.costs["picture"] == live.FIRST


def test_figures_are_written_between_pictures_at_most_every_three_seconds(tmp_path):
    page, flow, history = tmp_path / "live.html", flowstone.nice(2, **SMALL).eval(), History()
    shown, pages = plot.Live(torch.randn(20, 2), page=page), []
    for step, seconds in enumerate((0.0, 1.0, 2.9, 3.0, 5.9, 6.5)):
        history.records.append(Record(step, seconds, 2.0, 2.0, 1e-3, 1.0))
        shown(flow, history)
        pages.append(page.read_text())
    assert [[f"step {step}," in text for step in range(6)].index(True) for text in pages] == [0, 0, 0, 3, 3, 5]


def test_what_a_picture_costs_is_measured_before_the_training(tmp_path, monkeypatch):
    """By what drawing the data alone takes the second time, whatever kind they are."""
    clock = iter([1.0, 5.0, 10.0, 10.75])
    monkeypatch.setattr(live.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(figures, "DPI", 20)
    with plot.Live(torch.randn(20, 2), page=tmp_path / "live.html") as shown:
        assert shown.budget.costs["picture"] == 0.75 * live.ALONE
        assert shown.budget.spent == 0
    assert list(tmp_path.iterdir()) == []
    for x in (
        torch.randn(20, 1),
        torch.randn(20, 4),
        torch.randint(256, (20, 3, 2, 2)),
        torch.tensor([[1.0], [torch.nan]]),
    ):
        assert len(training_figure.training_figure(x, x, list("pqrs")[: x.shape[1]], None)[0].axes) >= 2


def test_a_training_that_fails_leaves_a_page_that_says_so(tmp_path):
    shown = plot.Live(torch.randn(20, 2), page=tmp_path / "live.html")
    flow = flowstone.nice(2, **SMALL)
    shown(flow.eval(), a_history(2.0))
    flow.bijection.train()
    modes = [module.training for module in flow.modules()]
    shown.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert [module.training for module in flow.modules()] == modes
    text = (tmp_path / "live.html").read_text()
    assert "training ended by ZeroDivisionError" in text
    assert "refresh" not in text


def test_a_page_that_cannot_be_written_ends_no_training(tmp_path):
    shown = plot.Live(torch.randn(20, 2), page=tmp_path / "gone" / "live.html")
    with pytest.warns(UserWarning, match=r"cannot write .*live.html: .*; the training goes on without this page"):
        shown(flowstone.nice(2, **SMALL).eval(), a_history(2.0))
    shown(flowstone.nice(2, **SMALL).eval(), a_history(2.0, 1.9))


class Lost(flowstone.Flow):
    """Samples that are not finite, but for every third one."""

    def _sample(self, n, context, generator, temperature):
        x = super()._sample(n, context, generator, temperature)
        x[::3] = torch.inf
        x[1::3] = torch.nan
        return x


def test_samples_that_are_not_finite_are_left_out():
    scaling, normal = flowstone.bijections.Scaling(3), flowstone.priors.StandardNormal(3)
    figure = plot.live_figure(Lost(scaling, normal), a_history(3.0, 2.0), torch.randn(30, 3))
    assert [ax.get_title() for ax in figure.axes] == ["x1", "x2", "x3", "negative log-likelihood"]


def test_dates_are_written_as_dates():
    x = torch.arange(17000.0, 17300.0).repeat(3, 1).T
    figure = training_figure.training_figure(x, x, ["a", "b", "day"], None, formats={"day": lambda v: f"day {v:g}"})[0]
    figure.canvas.draw()
    labels = [[tick.get_text() for tick in ax.get_xticklabels()] for ax in figure.axes[:3]]
    assert all(text.startswith("day ") for text in labels[2])
    assert not any(text.startswith("day") for text in labels[0])


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("one", ["", "negative log-likelihood"]),
        ("one given another", ["p", "negative log-likelihood"]),
        ("two", ["data", "density and samples", "negative log-likelihood"]),
        ("two given another", ["data", "samples, given the contexts of the data", "negative log-likelihood"]),
        ("seven", ["p", "q", "r", "s", "t", "negative log-likelihood"]),
        ("images", ["samples", "negative log-likelihood"]),
        ("mixed", ["age\ngaps: 20.0%, samples 21.0%", "sex", "negative log-likelihood"]),
    ],
)
def test_each_kind_of_data_has_its_picture(kind, titles):
    names, context = list("pqrstuv"), torch.randn(40, 1) if "given" in kind else None
    if kind == "mixed":
        rows = {"age": [20, 30, 40, 50, None] * 20, "sex": ["f", "m"] * 50}
        model = flowstone.learn(rows, steps=1, progress=False)
        density, x, names = model.density, model.encode(rows), ["age", "sex"]
    elif kind == "images":
        density, x = flowstone.nice_image((3, 2, 2), couplings=1, hidden=(4,)), torch.randint(256, (40, 3, 2, 2))
    else:
        count = {"one": 1, "two": 2, "seven": 7}[kind.split()[0]]
        x = torch.randn(40, count)
        density = flowstone.spline(count, couplings=1, hidden=(4,), context_features=int(context is not None))
    figure = plot.live_figure(density.eval(), a_history(3.0, 2.0), x, context=context, columns=names[: x.shape[1]])
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    assert [ax.get_title() for ax in shown] == titles


def test_train_live_leaves_a_page_and_the_same_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "moons", "--flow", "nice", "--set", "couplings=2", "hidden=8", "--steps", 20, "--no-plots"]
    command(*words, "--quiet", "--out", "A")
    command(*words, "--live", "--out", "B")
    assert "live page: B/live.html" in capsys.readouterr().err
    assert Run("A").digest == Run("B").digest
    assert "training finished" in (tmp_path / "B" / "live.html").read_text()
    assert not (tmp_path / "A" / "live.html").exists()
    assert "moons, nice" in (tmp_path / "B" / "live.html").read_text()
    command("train", "--resume", "--live", "--steps", 40, "--out", "B", "--no-plots", "--quiet", "--log-every", 7)
    assert "step 40, " in (tmp_path / "B" / "live.html").read_text()
    assert json.loads((tmp_path / "B" / "flow.json").read_text())["training"]["log_every"] == 7


def test_the_page_can_be_read_and_used_by_all(tmp_path, always):
    page = tmp_path / "live.html"
    with plot.Live(torch.randn(200, 2), page=page, title="moons, nice", columns=["p", "q"]) as shown:
        shown(flowstone.nice(2, **SMALL).eval(), a_history(3.0, 2.0))
    with browsing() as browser, opened(browser, page, width=390, dark=True) as seen:
        assert barriers(seen) == []
