"""From images to a trained flow, its figures and its samples."""

import csv
import json
import math
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import flowstone
from commands import flowstone as command
from commands import refused
from flowstone.bijections import Chain, Dequantize, Interval
from flowstone.errors import SettingError
from flowstone.priors import Logistic
from flowstone.train.history import History
from image_data import (
    TEST,
    make_folder,
    make_mnist,
    pixels,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


NAMES = ["interpolation", "likely", "loss", "nearest", "reconstructions", "samples", "scales", "temperatures"]


PICTURES = [*(f"{name}.png" for name in NAMES), "training"]


GLOW = ["--flow", "glow", "--set", "scales=2", "channels=8", "couplings=1", "--batch-size", "16", "--steps", "5"]


def test_a_uniform_model_needs_eight_bits():
    flow = flowstone.Flow(Chain(Dequantize(levels=256), Interval(0.0, 256.0)), Logistic(3))
    figures = flowstone.evaluate(flow, torch.from_numpy(pixels(50, 3)))
    assert figures["bits_per_dim"] == pytest.approx(8.0, abs=1e-4)
    assert figures["nll_nats"] == pytest.approx(3 * 8 * math.log(2), abs=1e-4)
    assert figures["round_trip_max"] < 1e-3


def test_a_training_on_images_leaves_sheets_and_event_files(tmp_path, monkeypatch):
    make_mnist(tmp_path / "data")
    arguments = ["train", "mnist", *GLOW, "--data-dir", tmp_path / "data", "--context", "label", "--tensorboard"]
    command(*arguments, "--out", "R")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = History.load(tmp_path / "R" / "history.csv")
    events = EventAccumulator(str(tmp_path / "R" / "tensorboard")).Reload()
    written = [(event.step, event.value) for event in events.Scalars("val_nll")]
    wanted = [(record.step, pytest.approx(record.val_nll, rel=1e-6)) for record in history]
    assert written == wanted
    assert len(events.Images("samples")) == len(history)
    sheets = sorted(path.name for path in (tmp_path / "R" / "plots" / "training").iterdir())
    assert sheets == [f"step-{record.step:06d}.png" for record in history]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"pip install 'flowstone\[tensorboard\]'"):
        command(*arguments, "--out", "R2")
    assert not (tmp_path / "R2").exists()


def test_an_image_set_from_training_to_scores(tmp_path, capsys):
    made = make_mnist(tmp_path / "data")
    data = ["--data-dir", tmp_path / "data"]
    command("train", "mnist", *GLOW, *data, "--out", "R")
    assert "mnist: 54 images of 1x8x8" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "R" / "plots").iterdir()) == sorted(PICTURES)
    record = json.loads((tmp_path / "R" / "flow.json").read_text())
    assert record["arguments"]["event_shape"] == [1, 8, 8]
    assert {key: record["data"][key] for key in ("source", "kind", "channels", "height", "width", "bits")} == {
        "source": "mnist", "kind": "images", "channels": 1, "height": 8, "width": 8, "bits": 8,
    }  # fmt: skip
    command("evaluate", "R", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "R" / "metrics.json").read_text())
    assert figures["bits_per_dim"] == pytest.approx(figures["nll_nats"] / (64 * math.log(2)))
    assert 6 < figures["bits_per_dim"] < 12
    assert figures["n_test"] == TEST
    command("score", "R", "mnist", "--out", "scores.csv")
    with open("scores.csv") as file:
        scores = list(csv.DictReader(file))
    assert list(scores[0]) == ["image", "log_prob", "bits_per_dim"]
    assert len(scores) == TEST
    assert np.mean([float(row["log_prob"]) for row in scores]) == pytest.approx(-figures["nll_nats"], rel=1e-4)
    make_folder(tmp_path / "pics", made["t10k"][0])
    command("evaluate", "R", "pics", "--json")
    assert json.loads(capsys.readouterr().out)["nll_nats"] == pytest.approx(figures["nll_nats"], rel=1e-4)
    command("sample", "R", "-n", 10, "--out", "s.npz")
    with np.load("s.npz") as sampled:
        assert sampled["x"].dtype == np.uint8
        assert sampled["x"].shape == (10, 8, 8, 1)
    command("evaluate", "R", "s.npz", "--json")
    command("sample", "R", "-n", 10, "--out", "s.png", "--temperature", "0.5")
    with Image.open("s.png") as sheet:
        assert sheet.size == (71, 17)
    command("plot", "R")
    capsys.readouterr()
    command("check", "R", "--json")
    assert json.loads(capsys.readouterr().out)["ok"]


def test_images_given_their_label(tmp_path, capsys, monkeypatch):
    make_folder(tmp_path / "pics", pixels(30, 4, 4, 3), classes=2)
    command("train", "pics", *GLOW, "--context", "label", "--out", "R", "--quiet")
    command("sample", "R", "-n", 3, "--given", "label=class1", "--out", "s.npz")
    with np.load("s.npz") as sampled:
        assert sampled["x"].shape == (3, 4, 4, 3)
        assert str(sampled["given_label"]) == "class1"
    command("score", "R", "pics", "--out", "scores.parquet")
    table = pyarrow.parquet.read_table("scores.parquet")
    assert table["image"].to_pylist()[0] == "class0/0000.png"
    capsys.readouterr()
    make_folder(tmp_path / "others", pixels(30, 4, 4, 3), classes=3)
    make_folder(tmp_path / "large", pixels(30, 8, 8, 3), classes=2)
    for words, message in [
        (["sample", "R", "-n", 3, "--out", "s.npz"], "--given label=NAME, of class0, class1"),
        (["sample", "R", "-n", 3, "--out", "s.npz", "--given", "label=cat"], "label 'cat' is not among those"),
        (["sample", "R", "-n", 3, "--out", "s.npz", "--given", "age=3"], "--given age: images are given a label"),
        (["sample", "R", "-n", 3, "--out", "s.csv", "--given", "label=class0"], "must end in .npz, .png"),
        (["evaluate", "R", "others"], "label 'class2' is not among those the flow has learned: class0, class1"),
        (["score", "R", "large", "--out", "o.csv"], "large: images of 3x8x8; the flow has learned 3x4x4"),
        (
            ["train", "pics", "--flow", "nice"],
            "recipe 'nice' is not for images (3x4x4); these are: glow, nice_image, realnvp_image",
        ),
        (["train", "pics", "--flow", "nic"], "did you mean 'nice'"),
        (["train", "pics", "--set", "event_shape=3"], "--set event_shape: the data determine it"),
        (["train", "pics", "--download"], "is no set that has a name"),
        (["train", "mnist"], "mnist: where is it?"),
        (["train", "moons", "--size", "3"], "size=3x3 is for images"),
    ]:
        assert message in refused(capsys, monkeypatch, *words)


def test_without_a_flow_images_get_one_that_fits_them(tmp_path, capsys):
    make_folder(tmp_path / "pics", pixels(30, 12, 12))
    (tmp_path / "pics" / "0007.png").write_bytes(b"")
    settings = ["--set", "couplings=1", "channels=8", "--steps", "2", "--batch-size", "8", "--no-plots"]
    command("train", "pics", *settings, "--skip-bad")
    said = capsys.readouterr().err
    assert "images of 1x12x12 with values 0 … 255, 1 that cannot be read left out" in said
    assert "flow: realnvp_image (the default)" in said
    assert (tmp_path / "runs" / "pics-realnvp_image" / "metrics.json").exists()
    command("list", "--json")
    assert "mnist" in json.loads(capsys.readouterr().out)["images"]
