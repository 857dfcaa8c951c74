"""The file of the weights: read only after its header has shown that it fits the record, then compared with it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from flowstone.density import Density
from flowstone.digest import digest_of
from flowstone.errors import CheckpointError, FlowstoneError
from flowstone.files import read_header, read_tensors

__all__ = ["Header", "content_digest", "read_weights", "require_fitting"]

# The parts of the record that a weights' digest leaves out: they may change while the weights stay, as when a training
# goes on with more steps.
APART = ("digest", "training", "request")


class Header(NamedTuple):
    """What the header of a weights file says of it: precision and shape by name, and the digest, if it has one."""

    kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    digest: str | None

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(prod(shape) for _, shape in self.kinds.values())


def content_digest(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The digest of a density: of what its record tells about it and its data, and of its weights."""
    return digest_of({name: value for name, value in record.items() if name not in APART}, tensors)


def require_fitting(record: Mapping[str, Any], build: Callable[[], Density], path: Path) -> None:
    """Compare the header of the weights with the density that ``build`` makes, before either takes memory.

    The density is built on the device ``meta``, which holds shapes and no numbers. Weights of format 1 have no digest;
    there, statistics may have another precision, and newer layers may lack theirs.

    Raises:
        CheckpointError: they do not fit; the message names the first tensor.
    """
    header = Header(*read_header(path))
    given = record["arguments"].get("features")
    features = max(record["event_shape"][0], given if isinstance(given, int) else 0)
    if len(record["event_shape"]) == 1 and features > header.size:
        raise CheckpointError(f"{path}: {header.size} numbers are too few for the {features} features in flow.json")
    try:
        with torch.device("meta"), _limited_to(len(header.kinds), path):
            expected = {name: (t.dtype, tuple(t.shape)) for name, t in build().state_dict().items()}
    except FlowstoneError as error:
        if "meta" not in str(error):
            raise
        with _limited_to(len(header.kinds), path):  # a recipe of another package, which looks at numbers as it builds
            expected = {name: (t.dtype, tuple(t.shape)) for name, t in build().state_dict().items()}
    for name in dict.fromkeys((*expected, *header.kinds)):
        there, wanted = header.kinds.get(name), expected.get(name)
        if header.digest is None and (there is None or _fits(there, wanted)):
            continue
        if there != wanted:
            reason = f"{name} is {_words(there)}, expected {_words(wanted)}"
            raise CheckpointError(f"{path}: does not fit flow.json ({reason})")


def read_weights(record: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in ``path``, once they are sure to be those that were written together with the record.

    Raises:
        CheckpointError: they are damaged, of another record, or hold NaN or infinity.
    """
    tensors, metadata = read_tensors(path)
    digest = metadata.get("digest")
    has_digest = record["format_version"] > 1 or digest is not None
    if has_digest and digest != content_digest(record, tensors):
        raise CheckpointError(f"{path}: damaged, or of another flow.json: its digest is not that of the two")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity")
    return tensors


def _fits(there: tuple[torch.dtype, tuple[int, ...]], wanted: tuple[torch.dtype, tuple[int, ...]] | None) -> bool:
    if wanted is None:
        return False
    floating = there[0].is_floating_point and wanted[0].is_floating_point
    return there[1] == wanted[1] and (there[0] == wanted[0] or floating)


def _words(kind: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    if kind is None:
        return "not there"
    dtype, shape = kind
    return f"{str(dtype).removeprefix('torch.')} of shape {shape}"


@contextmanager
def _limited_to(tensors: int, path: Path) -> Iterator[None]:
    """Stop the building of a density that registers far more parameters and buffers than there are tensors."""
    most, thread, count = 4 * tensors + 100, threading.get_ident(), 0

    def register(_: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal count
        if value is None or threading.get_ident() != thread:
            return
        count += 1
        if count > most:
            raise CheckpointError(f"{path}: {tensors} tensors are far too few for the layers in flow.json")

    hooks = [
        torch_module.register_module_parameter_registration_hook(register),
        torch_module.register_module_buffer_registration_hook(register),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
