"""Frames: samples that a training keeps at some of its validations, so that its course can be shown."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowstone.density import Density
from flowstone.errors import CheckpointError
from flowstone.files import read_tensors, tensors_to_bytes, write_atomically
from flowstone.flow import Flow
from flowstone.train.history import History

__all__ = ["FRAMES", "FrameWriter", "Frames", "has_frames", "read_frames", "samples_of_frame"]

FRAMES = "frames.safetensors"
POINTS, SEED = 300, 0  # of the latents, which are the same in every frame, so that each sample can be followed
APART, GROWTH = 100, 1.4  # steps between two frames at least, and the factor by which the step grows


@dataclass(frozen=True)
class Frames:
    """What the weights of some moments of a training made of the same latents.

    Attributes:
        steps: the step of each frame, ``(frames,)``.
        val_nll: the validation NLL there, in nats.
        samples: ``(frames, 300, 2)``, in the units of the data.
    """

    steps: Tensor
    val_nll: Tensor
    samples: Tensor


def has_frames(density: Density) -> bool:
    """Whether a training leaves frames: that of a flow of two columns without a context.

    >>> import flowstone
    >>> has_frames(flowstone.nice(2)), has_frames(flowstone.nice(3))
    (True, False)
    """
    return isinstance(density, Flow) and tuple(density.event_shape) == (2,) and not density.context_features


class FrameWriter:
    """Adds frames to a run folder while a training runs; to be called after each validation, as ``fit`` does.

    The first validation has a frame, later ones where the step is 100 above that of the last frame and 1.4 times as
    large: as a training changes most at its start, frames then lie ever further apart, and are few however long it is.
    Where a training that was killed continues from an earlier state, its frames of later steps are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: Frames | None = None

    def __call__(self, density: Density, history: History) -> None:
        """Write the samples of this moment, if it is to have a frame."""
        record = history.records[-1]
        before = self.frames or _frames_before(self.folder, record.step)
        last = before.steps[-1].item() if len(before.steps) else -math.inf
        if record.step >= max(last + APART, GROWTH * last):
            tensors = {
                "steps": torch.cat((before.steps, torch.tensor([record.step]))),
                "val_nll": torch.cat((before.val_nll, torch.tensor([record.val_nll], dtype=torch.float64))),
                "samples": torch.cat((before.samples, samples_of_frame(density)[None])),
            }
            write_atomically(self.folder / FRAMES, tensors_to_bytes(tensors))
            before = Frames(**tensors)
        self.frames = before


@torch.no_grad()
def samples_of_frame(density: Density) -> Tensor:
    """What a density makes of the latents of all frames, ``(300, 2)``."""
    return density.sample(POINTS, seed=SEED).double().cpu()


def read_frames(folder: Path | str) -> Frames | None:
    """The frames in a run folder; None where a training left none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / FRAMES
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    count = len(tensors["steps"]) if tensors.get("steps", torch.zeros(())).ndim else 0
    shapes = {"steps": (count,), "val_nll": (count,), "samples": (count, POINTS, 2)}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes or not count:
        raise CheckpointError(f"{path}: not frames that Flowstone wrote")
    return Frames(**tensors)


def _frames_before(folder: Path, step: int) -> Frames:
    """The frames of earlier steps; none where the file is missing or damaged, as pictures end no training."""
    try:
        frames = read_frames(folder)
    except CheckpointError:
        frames = None
    if frames is None:
        none = torch.zeros(0, dtype=torch.float64)
        return Frames(none.long(), none, torch.zeros(0, POINTS, 2, dtype=torch.float64))
    earlier = frames.steps < step
    return Frames(frames.steps[earlier], frames.val_nll[earlier], frames.samples[earlier])
