"""Files that are written while a training runs: history, sheets of samples, frames, a live page, TensorBoard's event
files.
"""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flowstone.errors import SettingError
from flowstone.runs.frames import FrameWriter

__all__ = ["SHEET", "summary_writer", "watching"]

SHEET = 64  # images drawn at each validation


@contextmanager
def watching(
    folder: Path, *, sheets: bool, tensorboard: bool, frames: bool = False, live: Any = None, context: Any = None
):
    """Yields the function ``watch`` that ``fit`` calls after each validation.

    Args:
        sheets: whether to draw 64 images into ``folder/plots/training``, from the same latents each time.
        tensorboard: whether to write event files into ``folder/tensorboard``.
        frames: whether to keep samples for pictures of the training from start to end (``runs.frames``).
        live: a page of pictures (``flowstone.plot.Live``), or None.
        context: context of the images drawn.
    """
    with ExitStack() as stack:
        if live is not None:
            stack.enter_context(live)
        writer = stack.enter_context(_event_files(folder / "tensorboard")) if tensorboard else None
        write_frame = FrameWriter(folder) if frames else None

        def watch(density: Any, history: Any) -> None:
            history.save(folder / "history.csv")
            record = history.records[-1]
            sheet = _sheet(density, folder / "plots" / "training", record.step, context) if sheets else None
            if write_frame is not None:
                write_frame(density, history)
            if writer is not None:
                writer(record, sheet)
            if live is not None:
                live(density, history)

        yield watch


def _sheet(density: Any, folder: Path, step: int, context: Any) -> Any:
    from flowstone.evaluation import sample_rows
    from flowstone.plot import mosaic, save_mosaic

    folder.mkdir(parents=True, exist_ok=True)
    drawn = sample_rows(density, SHEET, context)
    save_mosaic(drawn, folder / f"step-{step:06d}.png")
    return mosaic(drawn)


@contextmanager
def _event_files(folder: Path):
    writer = summary_writer()(str(folder))

    def write(record: Any, sheet: Any) -> None:
        for name in ("train_nll", "val_nll", "learning_rate", "grad_norm"):
            writer.add_scalar(name, getattr(record, name), record.step)
        if sheet is not None:
            writer.add_image("samples", sheet, record.step, dataformats="HWC")
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


def summary_writer() -> Any:
    """TensorBoard's writer; SettingError where its package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingError("--tensorboard needs its package: pip install 'flowstone[tensorboard]'") from error
    return SummaryWriter
