"""flowstone plot --animate: points that move through the layers of a flow of two columns."""

import shutil

import pytest
import torch
from PIL import Image, ImageSequence

import flowstone as package
from commands import flowstone, make_run, make_table, refused
from flowstone.errors import SettingError, UnknownNameError
from flowstone.plot import animate_layers
from flowstone.plot.animation import _moments, _panels, _title


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    for name, value in (("MOVING", 1), ("RESTING", 1), ("STAGES", 1), ("POINTS", 30)):
        monkeypatch.setattr(f"flowstone.plot.animation.{name}", value)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "t.csv", columns=2)
    make_run("run", "t.csv")
    return tmp_path / "run"


def test_the_command_writes_a_gif_that_moves_and_repeats(run, capsys):
    flowstone("plot", run, "--animate")
    path = run / "plots" / "layers.gif"
    assert capsys.readouterr().out.split() == [str(path)]
    assert [each.name for each in path.parent.iterdir()] == ["layers.gif"]
    with Image.open(path) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3  # rests of the same picture are one
    first = path.read_bytes()
    flowstone("plot", run, "--animate", "gif")
    assert path.read_bytes() == first


def test_an_mp4_without_ffmpeg_is_refused_in_one_line(run, capsys, monkeypatch):
    monkeypatch.setattr("flowstone.plot.animation.shutil.which", lambda _: None)
    monkeypatch.setattr("flowstone.plot.animation._ffmpeg_of_package", lambda: None)
    said = refused(capsys, monkeypatch, "plot", run, "--animate", "mp4")
    assert "an MP4 needs the program ffmpeg: install it, or `pip install imageio-ffmpeg`" in said
    assert list((run / "plots").iterdir()) == []


def test_an_mp4_is_written_where_ffmpeg_is(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.importorskip("imageio_ffmpeg", reason="neither ffmpeg nor imageio-ffmpeg is installed")
    flow = package.nice(2, couplings=1, hidden=(4,)).eval()
    path = animate_layers(flow, torch.randn(20, 2), tmp_path / "layers.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"


def test_runs_of_other_widths_are_refused_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "t.csv", columns=3)
    make_run("run", "t.csv")
    said = refused(capsys, monkeypatch, "plot", "run", "--animate")
    assert "two columns without a context; this density is of 3 columns" in said
    assert list((tmp_path / "run" / "plots").iterdir()) == []


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown kind of animation 'git': did you mean 'gif'"):
        animate_layers(package.nice(2), torch.randn(20, 2), tmp_path / "layers.git")
    with pytest.raises(SettingError, match="seed=-1"):
        animate_layers(package.nice(2), torch.randn(20, 2), tmp_path / "layers.gif", seed=-1)


def test_moments_rest_at_every_stage_and_titles_name_it():
    moments = list(_moments(3))
    assert moments == sorted(moments)
    assert {at for at in moments if at == int(at)} == {0, 1, 2}
    names = ["data", "1 Whiten", "2 Coupling"]
    assert [_title(names, at) for at in (0, 0.5, 1, 1.5, 2)] == [
        "data", "1 Whiten", "after 1 Whiten", "2 Coupling", "latent"
    ]  # fmt: skip


def test_colours_come_equally_often_also_of_skewed_data():
    x = torch.exp(3 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    figure, _ = _panels([torch.stack([x, x]), torch.stack([2 * x, x])], torch.ones(2, 2, 2).double(), ["data", "one"])
    rank = figure.axes[0].collections[0].get_array()
    assert rank is not None
    assert sorted((100 * rank).round().tolist()) == list(range(100))
