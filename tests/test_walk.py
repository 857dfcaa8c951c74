"""The walk through the layers of a flow, and the lesson: their numbers, and the pages in a browser."""

import base64
import json
import math
import re

import numpy as np
import pytest
import torch

import flowstone
from browser import barriers, browsing, opened
from cases import disturb
from flowstone.errors import SettingError
from flowstone.evaluation.metrics import log_prob
from flowstone.playground import lesson_section, walk_section
from flowstone.recipes import build
from flowstone.runs.frames import FrameWriter, read_frames
from flowstone.train.history import History, Record

RECIPES = {
    "nice": {"couplings": 2, "hidden": (8,)},
    "realnvp": {"couplings": 2, "hidden": (8,), "leaky_relu": True, "prior": "logistic"},
    "glow": {"couplings": 1, "hidden": (8,)},
    "maf": {"layers": 2, "hidden": (8,)},
    "gaussian_mixture": {"components": 3},
}


def a_flow(name: str = "realnvp", **arguments) -> tuple[flowstone.Flow, torch.Tensor]:
    """A flow with random weights that knows the means and deviations of rows in large units."""
    flow = build(name, {"features": 2, **RECIPES[name], **arguments})
    x = torch.randn(400, 2) * torch.tensor([3.0, 20.0]) + torch.tensor([100.0, -7.0])
    flow.initialize(x)
    disturb(flow, 0.2)
    return flow.eval(), x


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" class="flowstone-data">(.*?)</script>', html)
    assert found
    return json.loads(found[1])


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(float)


def places(data: dict, name: str, stop: int) -> torch.Tensor:
    """The places of points at a stop, in its own units."""
    each = data["sets"][name]
    values = floats(each["places"]).reshape(-1, each["count"], 2)[stop]
    view = data["views"][stop]
    return torch.from_numpy(values * view["half"] + view["middle"])


@pytest.mark.parametrize("name", RECIPES)
def test_the_terms_of_every_point_add_up_to_its_log_density(name):
    flow, x = a_flow(name)
    data = data_of(walk_section(flow, x))
    for part, each in data["sets"].items():
        assert each["count"] == (300 if part != "grid" else 2 * data["lines"] * data["onLine"])
        total = floats(each["logDets"]).reshape(-1, each["count"]).sum(0) + floats(each["logPrior"])
        expected = log_prob(flow, places(data, part, 0)).double().numpy()
        np.testing.assert_allclose(total, expected, atol=1e-4, rtol=1e-5)
        latents = flow.to_latent(places(data, part, 0))[0].detach()
        np.testing.assert_allclose(places(data, part, -1), latents, atol=1e-3, rtol=1e-3)


def test_the_grid_of_the_latent_is_carried_back():
    flow, x = a_flow()
    data = data_of(walk_section(flow, x))
    grid = floats(data["latentGrid"]).reshape(len(data["views"]), -1, 2)
    ends = [torch.from_numpy(grid[i] * data["views"][i]["half"] + data["views"][i]["middle"]) for i in (0, -1)]
    np.testing.assert_allclose(flow.from_latent(ends[1].float())[0].detach(), ends[0], atol=1e-3, rtol=1e-4)


def test_a_long_flow_has_a_small_page_whose_terms_still_add_up():
    flow, x = a_flow("realnvp", couplings=30)
    html = walk_section(flow, x)
    assert len(html) < 1_000_000
    data = data_of(html)
    assert len(data["layers"]) < len(flow.states(x[:1])) - 1
    total = floats(data["sets"]["data"]["logDets"]).reshape(len(data["layers"]), -1).sum(0)
    total += floats(data["sets"]["data"]["logPrior"])
    np.testing.assert_allclose(total, log_prob(flow, places(data, "data", 0)).double(), atol=1e-3, rtol=1e-4)


def test_sections_repeat_request_nothing_and_hold_no_foreign_markup():
    flow, x = a_flow()
    html = walk_section(flow, x, columns=["</script><b>", "b"], seed=3)
    assert html == walk_section(flow, x, columns=["</script><b>", "b"], seed=3)
    assert html != walk_section(flow, x, columns=["</script><b>", "b"], seed=4)
    for section in (html, lesson_section()):
        assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", section)
        assert section.count("</script>") == section.count("<script")
        for classes in re.findall(r'class="([^"]*)"', section):
            assert all(name.startswith("flowstone-") for name in classes.split())


def test_a_flow_in_training_mode_is_shown_as_it_is_evaluated_and_stays_as_it_is():
    flow, x = a_flow("maf", batch_norm=True)
    wanted = walk_section(flow, x)
    flow.train()
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    assert walk_section(flow, x) == wanted
    assert flow.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in flow.state_dict().items())


@pytest.mark.parametrize(
    ("density", "what"),
    [
        (lambda: flowstone.nice(3), "of 3 columns"),
        (lambda: flowstone.nice(2, context_features=1), "conditioned on 1 other column"),
        (lambda: flowstone.nice_image((1, 2, 2), couplings=1, hidden=(4,)), r"of images \(1, 2, 2\)"),
        (lambda: flowstone.recipes.mixed(2, width=8, blocks=1), "a MixedDensity"),
    ],
)
def test_what_cannot_be_walked_is_refused_in_one_line(density, what):
    made = density()
    with pytest.raises(SettingError, match=f"two columns without a context; this density is .*{what}") as error:
        walk_section(made, torch.zeros(3, 2))
    assert "\n" not in str(error.value)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    """A page with a walk that has frames and the lesson below it; ``page.flow`` is the flow that it shows."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("walk")
    flow, x = a_flow()
    history, write_frame = History(), FrameWriter(folder)
    for step in (0, 100, 200):
        history.records.append(Record(step, 0.0, 2.0, 3.0 - step / 100, 0.0, 0.0))
        write_frame(flow, history)
    html = walk_section(flow, x, columns=["height", "weight"], frames=read_frames(folder)) + lesson_section()
    path = folder / "page.html"
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body>{html}')
    with opened(browser, path) as shown:
        shown.flow = flow
        yield shown


def slide(page, name: str, value: float | str) -> None:
    page.eval_on_selector(
        f".flowstone-{name}", f"slider => {{ slider.value = {value}; slider.dispatchEvent(new Event('input')); }}"
    )


def check_ledger(page) -> list[float]:
    """The numbers of the table add up to its last row, which is the log-density that Python computes."""
    cells = page.locator(".flowstone-ledger td:last-child").all_inner_texts()
    numbers = [float(text.replace("−", "-")) for text in cells]
    *log_dets, total, prior, log_p = numbers
    assert math.isclose(sum(log_dets), total, abs_tol=1e-4 * len(log_dets))
    assert math.isclose(total + prior, log_p, abs_tol=2e-4)
    root = page.locator(".flowstone-walk")
    place = json.loads(root.get_attribute("data-place"))
    exact = log_prob(page.flow, torch.tensor([place, place], dtype=torch.float64))[0].item()
    assert math.isclose(float(root.get_attribute("data-log-p")), exact, abs_tol=1e-4)
    assert math.isclose(log_p, exact, abs_tol=2e-4)
    return place


def test_a_clicked_place_has_its_ledger_at_every_stop_and_in_both_directions(page):
    found = set()
    for direction in ("forward", "inverse"):
        page.click(f"[data-direction={direction}]")
        for at in (0, 2.5, 5):
            slide(page, "layer", at)
            for corner in ({"x": 150, "y": 120}, {"x": 260, "y": 300}):
                page.click(".flowstone-plane", position=corner)
                assert "the nearest that is computed" in page.inner_text(".flowstone-chosen")
                found.add(tuple(check_ledger(page)))
    assert len(found) > 6


def test_arrow_keys_choose_neighbours(page):
    page.click("[data-direction=forward]")
    page.focus(".flowstone-plane")
    before = check_ledger(page)
    page.keyboard.press("ArrowRight")
    right = check_ledger(page)
    assert right[0] > before[0]
    page.keyboard.press("ArrowUp")
    assert check_ledger(page)[1] > right[1]


def test_points_are_drawn_and_move(page):
    pictures = set()
    for at in (0, 2, 2.5, 5):
        slide(page, "layer", at)
        pictures.add(page.eval_on_selector(".flowstone-plane", "canvas => canvas.toDataURL()"))
    assert len(pictures) == 4


def test_the_slider_of_the_training_names_its_moments(page):
    slide(page, "moment", 1)
    assert page.inner_text(".flowstone-when") == "Step 100: validation NLL 2.000 nats"
    slide(page, "moment", 3)
    assert "weights that were kept" in page.inner_text(".flowstone-when")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_walk_and_lesson_can_be_read_and_used_by_all(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    assert barriers(page) == []
    page.set_viewport_size({"width": 1000, "height": 900})
    page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("width", [340, 600, 736, 960])
def test_the_axes_of_the_lesson_meet_in_a_column_of_any_width(page, width):
    """A site shows the lesson in a column that is narrower than the window."""
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("width => { document.querySelector('.flowstone-lesson').style.width = `${width}px`; }", width)
    boxes = {name: page.locator(f".flowstone-{name}").bounding_box() for name in ("map", "x-density", "z-density")}
    ends = {name: (box["x"] + box["width"], box["y"] + box["height"]) for name, box in boxes.items()}
    assert boxes["map"]["width"] > width / 4
    assert abs(boxes["x-density"]["y"] - ends["map"][1]) < 2
    assert abs(boxes["map"]["x"] - ends["z-density"][0]) < 2
    assert abs(ends["z-density"][1] - ends["map"][1]) < 2
    page.evaluate("document.querySelector('.flowstone-lesson').style.width = ''")
    page.set_viewport_size({"width": 1000, "height": 900})


def test_the_area_of_the_lesson_stays_one_while_it_is_dragged(page):
    def check_areas() -> None:
        counters = page.locator(".flowstone-area")
        assert counters.all_inner_texts() == ["1.000", "1.000"]
        for each in counters.all():
            assert float(each.get_attribute("data-value")) == pytest.approx(1, abs=1e-4)

    for density in ("bumps", "normal", "uniform"):
        page.select_option(".flowstone-density", density)
        for kind in ("affine", "kink", "tanh", "exponential"):
            page.select_option(".flowstone-kind", kind)
            for end in ("min", "max"):
                slide(page, "a", f"slider.{end}")
                check_areas()
    page.select_option(".flowstone-kind", "affine")
    page.locator(".flowstone-map").scroll_into_view_if_needed()
    box = page.locator(".flowstone-map").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    seen = set()
    for step in range(1, 5):
        page.mouse.move(box["x"] + 100 + 12 * step, box["y"] + 100 - 9 * step)
        check_areas()
        seen.add((page.input_value(".flowstone-a"), page.input_value(".flowstone-b")))
    page.mouse.up()
    assert len(seen) == 4


def test_the_numbers_of_the_lesson_fit_the_formula(page):
    page.select_option(".flowstone-density", "normal")
    page.select_option(".flowstone-kind", "affine")
    for a, at in ((0.5, 0.0), (2.0, 0.6), (3.0, -1.0)):
        slide(page, "a", a)
        slide(page, "at", at)
        p = math.exp(-0.5 * at * at) / math.sqrt(2 * math.pi)
        line = page.inner_text("[data-line=density]").replace("−", "-")
        numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", line)]
        assert numbers == pytest.approx([p, p / a, a], abs=6e-4)


def test_play_carries_points_to_the_other_end_and_pauses(page):
    """The last test of the page: its clock is then that of the test."""

    def let_play(milliseconds: int) -> str:
        page.clock.run_for(50)
        page.clock.fast_forward(milliseconds)
        page.clock.run_for(50)
        return page.input_value(".flowstone-layer")

    page.click("[data-direction=forward]")
    last = page.get_attribute(".flowstone-layer", "max")
    page.clock.install()
    page.click(".flowstone-play")
    assert 0 < float(let_play(500)) < float(last)
    assert page.inner_text(".flowstone-play") == "Pause"
    page.click(".flowstone-play")
    paused = page.input_value(".flowstone-layer")
    assert let_play(60_000) == paused
    page.click(".flowstone-play")
    assert let_play(60_000) == last
    assert page.inner_text(".flowstone-where") == "The latent: after the last layer"
    page.click("[data-direction=inverse]")
    page.click(".flowstone-play")
    assert let_play(60_000) == "0"
