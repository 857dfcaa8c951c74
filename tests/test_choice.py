"""``flowstone train --flow auto`` takes the recipe under which held-out rows are likeliest, and says so."""

import json
import warnings

import numpy as np
import pytest

from commands import flowstone, make_table, refused
from flowstone import train
from flowstone.cli import choice
from flowstone.data import open_source
from flowstone.errors import NonFiniteError

FEW = ("--steps", "8", "--no-plots")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt(
        "skewed.csv", np.random.default_rng(0).uniform(0, 1, (200, 2)) ** 9, delimiter=",", header="a,b", comments=""
    )
    np.savetxt(
        "whole.csv", np.random.default_rng(0).integers(0, 900, (200, 2)), delimiter=",", header="a,b", comments=""
    )
    make_table(tmp_path / "t.csv")
    (tmp_path / "levels.csv").write_text("a,s\n" + "1.5,x\n2.25,y\n" * 30)


def test_the_likeliest_recipe_is_trained_recorded_and_said(tmp_path, capsys):
    flowstone("train", "t.csv", "--flow", "auto", "--out", "R", *FEW)
    record, said = json.loads((tmp_path / "R/flow.json").read_text()), capsys.readouterr().err
    tried = {each["recipe"]: each["nats"] for each in record["choice"]}
    assert set(tried) == {"gaussian_mixture", "spline", "mixed"}
    assert record["recipe"] == max(tried, key=tried.__getitem__)
    for name, nats in tried.items():
        assert f"{name} {nats:.4f}" in said
    flowstone("train", "--resume", "--out", "R", "--flow", "auto", "--steps", "12", "--no-plots")
    assert json.loads((tmp_path / "R/flow.json").read_text())["choice"] == record["choice"]


def test_a_table_that_mixed_describes_best_is_opened_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "FLOWS", ("gaussian_mixture",))
    flowstone("train", "skewed.csv", "--flow", "auto", "--out", "R", "--quiet", "--no-plots", "--epochs", "4")
    record = json.loads((tmp_path / "R/flow.json").read_text())
    assert record["recipe"] == "mixed"
    assert record["data"]["mixed"]
    flowstone("sample", "R", "-n", "3", "--given", "a=0.25", "--out", "drawn.csv")


@pytest.mark.parametrize(("words", "quarter"), [(("--steps", "8"), (2, None)), (("--minutes", "2"), (None, 0.5))])
def test_each_recipe_is_tried_for_a_quarter_of_the_training(capsys, monkeypatch, words, quarter):
    asked = []

    def fit(*_args, settings, **_kwargs):
        asked.append((settings.steps, settings.minutes))
        raise NonFiniteError("the loss is nan")

    monkeypatch.setattr(choice, "fit", fit)
    said = refused(capsys, monkeypatch, "train", "t.csv", "--flow", "auto", "--out", "R", "--quiet", *words)
    assert "none of gaussian_mixture, spline, mixed can be trained" in said
    assert asked == [quarter] * 3


def test_a_recipe_that_learns_nothing_is_no_warning(monkeypatch, capsys):
    def fit(*args, **kwargs):
        warnings.warn("validation has not moved from its start", stacklevel=2)
        return train.fit(*args, **kwargs)

    monkeypatch.setattr(choice, "fit", fit)
    flowstone("train", "t.csv", "--flow", "auto", "--out", "R", *FEW)
    assert "has not moved" not in capsys.readouterr().err


def test_recipes_compete_where_their_likelihoods_compare():
    names = {source: choice.comparable(open_source(source)) for source in ("t.csv", "whole.csv", "levels.csv", "moons")}
    assert names["t.csv"] == ("gaussian_mixture", "spline", "mixed")
    assert names["whole.csv"] == ("gaussian_mixture", "spline")  # of integers mixed has probabilities, flows densities
    assert names["levels.csv"] == ("mixed",)
    assert names["moons"] == ()


@pytest.mark.parametrize(
    "words",
    [("moons",), ("t.csv", "--context", "a"), ("t.csv", "--set", "couplings=2"), ("-",)],
    ids=" ".join,
)
def test_what_leaves_no_choice_is_one_line(words, capsys, monkeypatch, tmp_path):
    assert "--flow auto" in refused(capsys, monkeypatch, "train", *words, "--flow", "auto", *FEW)
    assert not (tmp_path / "runs").exists()


def test_the_default_is_said_to_be_one(capsys):
    flowstone("train", "t.csv", "--set", "couplings=2", "hidden=8", "--out", "R", *FEW)
    assert "spline (the default; --flow auto chooses by held-out likelihood)" in capsys.readouterr().err
