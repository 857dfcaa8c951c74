"""The loss curve."""

from markupsafe import Markup

from flowstone.plot import loss_curve, new_figure, png_of
from flowstone.report.markup import picture
from flowstone.report.subject import Subject

__all__ = ["training"]


def training(subject: Subject) -> Markup | None:
    """Train and validation NLL over the steps."""
    history = subject.history
    if not len(history):
        return None
    image = subject.picture("loss")
    if image is None:
        figure, axes = new_figure(1, 1, (5.4, 4.0))
        loss_curve(history, axes[0, 0])
        image = png_of(figure)
    first, best, last = history.records[0], history.best, history.records[-1]
    alt = (
        f"Loss curve: validation NLL goes from {first.val_nll:.4f} nats at step {first.step} to {best.val_nll:.4f} at "
        f"step {best.step}, the best; at the end, step {last.step}, it is {last.val_nll:.4f} and that of training rows "
        f"{last.train_nll:.4f}."
    )
    return picture(image, alt, "The training kept the weights of the best step. Validation rows are not learned from.")
