"""flowstone check, plot and list."""

import json

import pytest

from commands import QUICK, flowstone, make_run, make_table, refused
from flowstone.recipes import build
from flowstone.runs import Run
from flowstone.runs.checkpoint import describe, save


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_plot_draws_again_what_was_deleted(tmp_path):
    flowstone("train", "moons", "--out", "R", *QUICK[:-1])
    before = {p.name for p in (tmp_path / "R" / "plots").iterdir()}
    for path in (tmp_path / "R" / "plots").iterdir():
        path.unlink()
    flowstone("plot", "R")
    assert {p.name for p in (tmp_path / "R" / "plots").iterdir()} == before


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_a_conditional_table_gets_pair_plots(tmp_path):
    make_table(tmp_path / "t.csv")
    flowstone("train", "t.csv", "--context", "a", "--out", "R", *QUICK[:-1])
    assert [p.name for p in (tmp_path / "R" / "plots").glob("p*")] == ["pairs.png"]


def test_check_says_that_a_mixed_density_has_no_layers(tmp_path, capsys, monkeypatch):
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{row % 7}.5,{'xyz'[row % 3]}\n" for row in range(60)))
    flowstone("train", "t.csv", "--out", "R", "--steps", 3, "--quiet", "--no-report")
    for data in ([], ["t.csv"]):
        assert "check needs a Flow, with layers to look at, got a MixedDensity" in refused(
            capsys, monkeypatch, "check", "R", *data
        )


def test_check_says_what_is_wrong_with_a_run(tmp_path, capsys):
    make_table(tmp_path / "t.csv")
    make_run("run", "t.csv", recipe="spline")
    flowstone("check", "run")
    said = capsys.readouterr().out
    assert said.startswith("nothing wrong")
    assert "at the latent's edge" in said
    flowstone("check", "run", "t.csv", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert {layer["place"] for layer in report["layers"]} == {"data", "outside", "edge"}
    # Weights of another size are saved all the same, and check sees what they do.
    density = Run("run").density()
    for parameter in density.parameters():
        parameter.data.normal_().mul_(30)
    extra = {key: value for key, value in Run("run").record.items() if key not in describe(density)}
    save(density, "run", extra=extra)
    flowstone("check", "run", "--json")
    assert not json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.parametrize("command", ["check", "evaluate", "plot", "report"])
def test_a_flow_that_python_saved_has_no_data(tmp_path, capsys, monkeypatch, command):
    save(build("nice", {"features": 2, "couplings": 2, "hidden": 8}), "run")
    said = refused(capsys, monkeypatch, command, "run")
    assert "it has no data: a training by the command writes it; check and evaluate take other data after RUN" in said


def test_list_shows_recipes_and_toys(capsys):
    flowstone("list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert {"nice", "realnvp", "glow", "spline", "maf", "iaf", "maf_spline"} <= set(listed["recipes"])
    assert listed["toys"]["moons"]["entropy"] == pytest.approx(1.1312)
    flowstone("list")
    out = capsys.readouterr().out
    for name in ("spline (default of toys", "mixed (default of mixed", "realnvp_image (default of images"):
        assert name in out
