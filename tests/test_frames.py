"""Frames: samples that a training leaves, from which it can be shown from start to end."""

import pytest
import torch

import flowstone as package
from commands import flowstone
from flowstone.errors import CheckpointError
from flowstone.runs import Run
from flowstone.runs.frames import FRAMES, FrameWriter, has_frames, read_frames, samples_of_frame
from flowstone.train.history import History, Record
from training import same, weights

TRAIN = ["--flow", "nice", "--set", "couplings=2", "hidden=8", "--steps", "240", "--validate-every", "20"]


def history_to(step: int, every: int = 100) -> History:
    return History([Record(at, 0.0, 2.0, 1.0 + at, 0.0, 0.0) for at in (*range(0, step, every), step)])


@pytest.fixture
def flow():
    return package.nice(2, couplings=1, hidden=(4,)).eval()


def kept(tmp_path, flow, steps) -> list[int]:
    """The steps of all frames after a training that had validations at these steps."""
    write_frame = FrameWriter(tmp_path)
    for step in steps:
        write_frame(flow, history_to(step))
    frames = read_frames(tmp_path)
    assert frames is not None
    return frames.steps.tolist()


def test_a_training_by_the_command_leaves_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("flowstone.cli.job.Job._finish", lambda *_: None)  # figures and pages of the finished run
    flowstone("train", "moons", "--out", tmp_path / "run", "--points", "300", "--quiet", *TRAIN)
    run = Run(tmp_path / "run")
    frames = read_frames(run.folder)
    assert frames is not None
    assert frames.steps.tolist() == [0, 100, 200]
    assert frames.val_nll.tolist() == [run.history.records[step // 20].val_nll for step in frames.steps.tolist()]
    assert frames.samples.shape == (3, 300, 2)
    assert not torch.equal(frames.samples[0], frames.samples[-1])


def test_frames_change_no_bit_of_a_training(tmp_path):
    x, trained = package.data.TOYS["moons"](300), []
    for watch in (None, FrameWriter(tmp_path)):
        torch.manual_seed(0)
        density = package.realnvp(2, couplings=2, hidden=(8,))
        package.fit(density, x, steps=20, validate_every=2, progress=False, watch=watch)
        trained.append(weights(density))
    assert same(*trained)
    assert read_frames(tmp_path) is not None


def test_frames_are_few_and_lie_ever_further_apart(tmp_path, flow):
    steps = kept(tmp_path, flow, range(0, 10_100, 100))
    assert steps == [0, 100, 200, 300, 500, 700, 1000, 1400, 2000, 2800, 4000, 5600, 7900]


def test_a_frame_holds_the_samples_of_the_density_of_its_moment(tmp_path, flow):
    write_frame = FrameWriter(tmp_path)
    write_frame(flow, history_to(0))
    first = samples_of_frame(flow)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1)
    write_frame(flow, history_to(100))
    frames = read_frames(tmp_path)
    assert frames is not None
    assert torch.equal(frames.samples, torch.stack((first, samples_of_frame(flow))))


def test_a_training_that_continues_from_before_some_frames_drops_these(tmp_path, flow):
    assert kept(tmp_path, flow, (0, 100, 200, 300)) == [0, 100, 200, 300]
    assert kept(tmp_path, flow, (200, 250, 300)) == [0, 100, 200, 300]
    assert kept(tmp_path, flow, (150, 160, 250)) == [0, 100, 250]
    assert kept(tmp_path, flow, (0,)) == [0]


def test_damaged_frames_are_refused_and_a_training_begins_them_again(tmp_path, flow):
    for content in (b"no tensors", None):
        if content is None:
            torch.save({}, tmp_path / FRAMES)
        else:
            (tmp_path / FRAMES).write_bytes(content)
        with pytest.raises(CheckpointError, match=FRAMES):
            read_frames(tmp_path)
        assert kept(tmp_path, flow, (400,)) == [400]


def test_frames_of_other_shapes_are_refused(tmp_path, flow):
    from flowstone.files import tensors_to_bytes

    FrameWriter(tmp_path)(flow, history_to(0))
    frames = read_frames(tmp_path)
    assert frames is not None
    for name in ("steps", "val_nll", "samples"):
        tensors = dict(vars(frames))
        tensors[name] = tensors[name][:0]
        (tmp_path / FRAMES).write_bytes(tensors_to_bytes(tensors))
        with pytest.raises(CheckpointError, match="not frames that Flowstone wrote"):
            read_frames(tmp_path)


def test_only_flows_of_two_columns_without_a_context_leave_frames():
    assert has_frames(package.nice(2))
    assert not has_frames(package.nice(2, context_features=1))
    assert not has_frames(package.nice_image((1, 2, 2), couplings=1, hidden=(4,)))
