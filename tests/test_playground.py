"""The playground: the ONNX programs of a flow, the folder that is written, and the model in a browser."""

import base64
import json
import math
import re
from typing import Any

import pytest
import torch

import flowstone as package
from browser import barriers, browsing, opened, require_browser, require_runtime
from cases import disturb
from commands import refused
from flowstone.errors import OutputError, SettingError
from flowstone.evaluation.metrics import log_prob
from flowstone.playground import write_playground
from flowstone.playground.onnx_model import model_record, require_exportable
from flowstone.playground.runtime import MODULE, PROGRAM, SCRIPT, packed_runtime, runtime_folder
from flowstone.priors import PRIORS, FromTorch, Prior, Uniform, make_prior
from flowstone.recipes import build

COLUMNS = ["height", "weight"]


def a_flow(features: int = 2, **arguments) -> tuple[package.Flow, torch.Tensor]:
    """A flow with random weights that knows the means and deviations of rows in large units."""
    flow = build("nice", {"features": features, "couplings": 2, "hidden": (4,), **arguments})
    x = torch.randn(200, features) * 5 + 100
    flow.initialize(x)
    disturb(flow, 0.3)
    return flow.eval(), x


@pytest.fixture(scope="module")
def exported() -> tuple[package.Flow, dict[str, Any]]:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    flow, x = a_flow()
    return flow, model_record(flow, x[:50])


@pytest.fixture
def runtime(tmp_path):
    """A folder with the names of onnxruntime-web's files, which is enough where no page is opened."""
    folder = tmp_path / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    for name in (SCRIPT, MODULE, PROGRAM):
        (folder / name).write_text("// nothing\n//# sourceMappingURL=x.map")
    return folder.parent


def test_the_programs_give_the_numbers_of_the_flow(exported):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    flow, record = exported

    def run(name: str, values: torch.Tensor) -> list[torch.Tensor]:
        session = onnxruntime.InferenceSession(base64.b64decode(record[name]), providers=["CPUExecutionProvider"])
        return list(map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: values.numpy()})))

    rows = torch.tensor(record["rows"], dtype=getattr(torch, record["dataType"])).reshape(-1, 2)
    for x in (rows, rows[:2], rows[:1].repeat(7, 1)):
        found, z = run("forward", x)
        torch.testing.assert_close(found, flow.log_prob(x).detach(), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(z, flow.to_latent(x)[0].detach(), atol=1e-4, rtol=1e-5)
        (back,) = run("inverse", z)
        torch.testing.assert_close(back.double(), x.double(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(record["logProb"]), flow.log_prob(rows).detach(), atol=1e-6, rtol=1e-6)


def test_the_record_of_a_mixture_draws_what_the_prior_draws():
    """With z = μ + ε M, the covariance is MᵀM."""
    from flowstone.playground.onnx_model import PRIORS as RECORDS

    prior = make_prior("mixture", 2)
    for parameter in prior.parameters():
        parameter.data.normal_().mul_(0.5)
    record = RECORDS[type(prior)](prior)
    matrices, means = torch.tensor(record["matrices"]), torch.tensor(record["means"])
    chosen = torch.multinomial(torch.tensor(record["weights"]), 200_000, replacement=True)
    z = means[chosen] + torch.einsum("ni,nij->nj", torch.randn(200_000, 2), matrices[chosen])
    wanted = prior.sample(200_000)
    torch.testing.assert_close(z.mean(0), wanted.mean(0), atol=0.05, rtol=0.05)
    torch.testing.assert_close(z.T.cov(), wanted.T.cov(), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("density", "what"),
    [
        (lambda: package.nice(2, context_features=2), "conditioned on 2 other columns"),
        (lambda: package.nice_image((1, 2, 2), couplings=1, hidden=(4,)), r"of images \(1, 2, 2\)"),
        (lambda: package.recipes.mixed(2, width=8, blocks=1), "a MixedDensity"),
        (
            lambda: with_prior(FromTorch(torch.distributions.Laplace(torch.zeros(2), 1.0))),
            "one with the prior FromTorch",
        ),
    ],
)
def test_what_has_no_playground_is_refused_in_one_line(density, what, tmp_path, runtime):
    made = density()
    with pytest.raises(SettingError, match=f"columns without a context; this density is {what}.*") as error:
        write_playground(made, torch.zeros(3, 2), tmp_path / "out", runtime=runtime)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def with_prior(prior: Prior) -> package.Flow:
    return package.Flow(a_flow()[0].bijection, prior)


@pytest.mark.parametrize(
    "prior", [*(make_prior(name, 2) for name in PRIORS), Uniform(2)], ids=lambda p: type(p).__name__
)
def test_every_prior_of_a_recipe_has_a_playground(prior):
    assert require_exportable(with_prior(prior)).prior is prior


def test_a_missing_runtime_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=r"node_modules/onnxruntime-web does not hold .*npm install onnxruntime-web"):
        runtime_folder()
    with pytest.raises(SettingError, match="elsewhere does not hold"):
        runtime_folder(tmp_path / "elsewhere")


def test_the_runtime_is_found_where_npm_puts_it_and_packed_without_a_map(runtime, tmp_path, monkeypatch):
    (tmp_path / "node_modules").mkdir()
    runtime.rename(tmp_path / "node_modules" / "onnxruntime-web")
    monkeypatch.chdir(tmp_path)
    script = packed_runtime(runtime_folder())
    assert "sourceMappingURL" not in script
    assert script == packed_runtime(runtime_folder())


def test_a_folder_that_holds_anything_is_left_alone(tmp_path, runtime):
    flow, x = a_flow()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="out exists: choose another folder"):
        write_playground(flow, x, tmp_path / "out", runtime=runtime)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_the_command_says_what_is_missing_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from commands import make_run, make_table

    make_table(tmp_path / "t.csv", columns=2)
    make_run("run", "t.csv")
    said = refused(capsys, monkeypatch, "playground", "run", "--out", "page")
    assert said.endswith("or name the folder of the package: --runtime FOLDER")
    assert not (tmp_path / "page").exists()


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(exported, tmp_path_factory):
    """The page of the flow, from disk, with its model running."""
    require_browser()
    flow, record = exported
    folder = tmp_path_factory.mktemp("playground") / "page"
    x = torch.tensor(record["rows"]).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:  # the export is that of the other tests
        patch.setattr("flowstone.playground.page.model_record", lambda *_, **__: record)
        index = write_playground(flow, x, folder, columns=COLUMNS, runtime=require_runtime(), title="A <flow>")
    with browsing() as browser, opened(browser, index, alone=False) as shown:
        assert shown.inner_text("h1") == "A <flow>"
        assert shown.locator(".flowstone-lesson").is_visible()
        shown.click("text=The model")
        shown.wait_for_selector(
            ".flowstone-model[data-heat=ready], .flowstone-model[data-state=failed]", timeout=60_000
        )
        shown.flow = flow
        yield shown


def test_the_model_in_the_page_gives_the_numbers_of_python(page):
    assert "The model runs in this page" in page.inner_text(".flowstone-status")
    x = 100 + 5 * torch.randn(20, 2, dtype=torch.float64)
    here = "rows => document.querySelector('.flowstone-model').model.logProb(rows)"
    for rows in (x, x[:1]):
        found = page.evaluate(here, rows.flatten().tolist())
        expected = log_prob(page.flow, torch.cat((rows, rows)))[: len(rows)].double()
        torch.testing.assert_close(torch.tensor(found["logProb"], dtype=torch.float64), expected, atol=1e-4, rtol=1e-5)
        back = page.evaluate("z => document.querySelector('.flowstone-model').model.fromLatent(z)", found["z"])
        torch.testing.assert_close(torch.tensor(back, dtype=torch.float64), rows.flatten(), atol=1e-3, rtol=1e-4)


def test_the_density_under_the_pointer_is_that_of_python(page):
    model = page.locator(".flowstone-model")
    places = []
    for position in ({"x": 120, "y": 90}, {"x": 250, "y": 210}):
        before = model.get_attribute("data-place")
        page.locator(".flowstone-model .flowstone-plane").hover(position=position)
        page.wait_for_function(
            "before => document.querySelector('.flowstone-model').dataset.place !== before", arg=before
        )
        place = json.loads(model.get_attribute("data-place"))
        exact = log_prob(page.flow, torch.tensor([place, place], dtype=torch.float64))[0].item()
        assert math.isclose(float(model.get_attribute("data-log-p")), exact, abs_tol=1e-4)
        said = re.search(r"log.p.=.(\S+) nats", page.inner_text(".flowstone-readout").replace("−", "-"))
        assert said
        assert math.isclose(float(said[1]), exact, abs_tol=2e-4)
        places.append(place)
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]


def test_temperature_and_new_samples_change_what_is_drawn(page):
    image = "document.querySelector('.flowstone-latent').toDataURL()"
    pictures = {page.evaluate(image)}
    page.eval_on_selector(
        ".flowstone-temperature", "slider => { slider.value = 0.3; slider.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_function(f"before => {image} !== before", arg=next(iter(pictures)))
    pictures.add(page.evaluate(image))
    assert page.inner_text(".flowstone-degree") == "0.30"
    page.click(".flowstone-draw")
    page.wait_for_function(f"before => !before.includes({image})", arg=[*pictures])


def test_latents_follow_every_prior(page):
    """Means and deviations of what the page draws, where both are known."""
    moments = """prior => {
        const model = document.querySelector('.flowstone-model').model;
        const record = {...model.record, prior};
        const other = Object.assign(Object.create(Object.getPrototypeOf(model)), model, {record});
        let state = 1;
        const random = () => { state = (state * 16807) % 2147483647; return state / 2147483647; };
        const z = other.latents(20000, 0.5, random);
        const mean = z.reduce((sum, value) => sum + value, 0) / z.length;
        return [mean, Math.sqrt(z.reduce((sum, value) => sum + (value - mean) ** 2, 0) / z.length)];
    }"""
    mixture = {"kind": "mixture", "weights": [0.5, 0.5], "means": [[-3.0, 0.0], [3.0, 0.0]]}
    known = [
        ({"kind": "normal"}, 0.0, 1.0),
        ({"kind": "logistic"}, 0.0, math.pi / math.sqrt(3)),
        ({"kind": "uniform", "low": 0.0, "high": 1.0}, 0.5, math.sqrt(1 / 12)),
        ({"kind": "student", "df": [9.0, 9.0]}, 0.0, math.sqrt(9 / 7)),
        ({**mixture, "matrices": [[[1.0, 0.0], [0.0, 1.0]]] * 2}, 0.0, math.sqrt(5.5)),
    ]
    for prior, mean, deviation in known:
        found = [2 * value for value in page.evaluate(moments, prior)]  # drawn at half the temperature
        assert found[0] == pytest.approx(mean, abs=0.03)
        assert found[1] == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_can_be_read_and_used_by_all(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    for index in (0, 2, 1):
        page.click(f"#tab-{index}")
        assert barriers(page) == []
    page.set_viewport_size({"width": 1000, "height": 900})
    page.emulate_media(color_scheme="light")


def test_the_last_tab_is_the_walk_and_keys_go_from_tab_to_tab(page):
    page.focus("#tab-1")
    page.keyboard.press("ArrowRight")
    assert page.locator(".flowstone-walk").is_visible()
    assert not page.locator(".flowstone-model").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator(".flowstone-lesson").is_visible()
