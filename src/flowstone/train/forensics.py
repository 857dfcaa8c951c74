"""What was not finite in a training: the layer, the rows, and a file with which the step can be repeated."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.errors import CheckpointError, NonFiniteError
from flowstone.files import make_folder, read_tensors, tensors_to_bytes, write_atomically
from flowstone.recipes import build

__all__ = [
    "OVERFLOW",
    "Evidence",
    "bad_gradient_rows",
    "bad_rows",
    "first_bad_gradient",
    "first_bad_output",
    "keep_evidence",
    "named_rows",
    "read_evidence",
]

OVERFLOW = "every gradient is finite, their norm overflows"
MOST_NAMED = 5  # rows
WEIGHTS = "weights."


def first_bad_output(density: Density, rows: Rows) -> str:
    """Run the batch again and name the first module whose output is not finite."""
    if not (rows.x.isfinite() | (rows.x.isnan() & density.accepts_gaps)).all():
        return "the batch itself holds NaN or infinity"
    bad: list[str] = []
    names = {module: name for name, module in density.named_modules()}

    def record(module: nn.Module, _, output) -> None:
        values = output if isinstance(output, tuple | list) else (output,)
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not bad and not all(value.isfinite().all() for value in tensors):
            bad.append(f"first bad output: {names[module]}, {type(module).__name__}")

    hooks = [module.register_forward_hook(record) for module in density.modules()]
    try:
        with torch.no_grad():
            density.log_prob(rows.x, rows.context)
    finally:
        for hook in hooks:
            hook.remove()
    return bad[0] if bad else "first bad output: the prior's log-density"


def first_bad_gradient(density: Density) -> str:
    """The parameter nearest to the data whose gradient is not finite."""
    for name, parameter in density.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"first bad gradient: {name}"
    return OVERFLOW


@torch.no_grad()
def bad_rows(density: Density, rows: Rows) -> list[int]:
    """The rows of a batch whose log-density is not finite."""
    return (~density.log_prob(rows.x, rows.context).isfinite()).nonzero().flatten().tolist()


def bad_gradient_rows(density: Density, rows: Rows) -> list[int]:
    """The rows of a batch that, each alone, have a gradient that is not finite."""
    parameters, found = [parameter for parameter in density.parameters() if parameter.requires_grad], []
    for index in range(len(rows)):
        row = rows.take(slice(index, index + 1))
        loss = density.log_prob(row.x, row.context).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
            found.append(index)
    return found


def named_rows(bad: list[int], numbers: Tensor | None) -> str:
    """Words for these rows of a batch: their numbers, from 1, among all rows, or in a batch that is drawn anew."""
    if not bad:
        return ""
    named = [index + 1 if numbers is None else int(numbers[index]) + 1 for index in bad[:MOST_NAMED]]
    more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    return f"; rows {', '.join(map(str, named))}{more}{' of the batch' if numbers is None else ''}"


class Evidence(NamedTuple):
    """What ``keep_evidence`` wrote.

    Attributes:
        message: what was not finite, and where.
        density: with the weights of that moment.
        rows: the batch.
    """

    message: str
    density: Density
    rows: Rows


def keep_evidence(folder: Path, error: NonFiniteError, density: Density) -> Path:
    """Write the weights, the batch and the message of an error into ``folder/step-<number>.safetensors``."""
    make_folder(folder)
    path = folder / f"step-{error.step}.safetensors"
    tensors = {f"{WEIGHTS}{name}": tensor for name, tensor in density.state_dict().items()}
    tensors |= {"x": error.rows.x} | ({} if error.rows.context is None else {"context": error.rows.context})
    about = {"message": str(error), "dtype": str(density.dtype).removeprefix("torch."), "spec": density.spec}
    write_atomically(path, tensors_to_bytes(tensors, {"about": json.dumps(about, default=str)}))
    return path


def read_evidence(path: Path | str) -> Evidence:
    """What was not finite in a training, from ``not-finite/step-<number>.safetensors`` in its ``resume`` folder.

    With this density in training mode and these rows the step can be taken again, layer by layer
    (``density.states(rows.x)``).

    Raises:
        CheckpointError: the file is damaged, or its density was made by no recipe.

    >>> import tempfile, torch, flowstone
    >>> from flowstone.errors import NonFiniteError
    >>> flow, x = flowstone.nice(2), torch.randn(3, 2)
    >>> error = NonFiniteError("step 7: the loss is inf")
    >>> error.step, error.rows = 7, Rows(x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     evidence = read_evidence(keep_evidence(Path(folder), error, flow))
    >>> evidence.message, evidence.density.log_prob(evidence.rows.x).shape
    ('step 7: the loss is inf', torch.Size([3]))
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        about = json.loads(metadata["about"])
        density = build(about["spec"]["recipe"], about["spec"]["arguments"]).to(getattr(torch, about["dtype"]))
        weights = {key.removeprefix(WEIGHTS): value for key, value in tensors.items() if key.startswith(WEIGHTS)}
        density.load_state_dict(weights)
        return Evidence(about["message"], density, Rows(tensors["x"], tensors.get("context")))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not what a training keeps of a failure ({error})") from error
