"""How the arithmetic is run: on how many threads, in which precision, in how much memory, compiled or not."""

from flowstone.execution.checkpointing import checkpointed
from flowstone.execution.compile import compiled
from flowstone.execution.direct import DirectGradient
from flowstone.execution.direct_layers import UnknownLayerError
from flowstone.execution.few_inputs import fast_few_inputs
from flowstone.execution.precision import bf16_conditioners
from flowstone.execution.shared_dropout import shared_dropout
from flowstone.execution.threads import thread_count, threads_for

__all__ = [
    "DirectGradient",
    "UnknownLayerError",
    "bf16_conditioners",
    "checkpointed",
    "compiled",
    "fast_few_inputs",
    "shared_dropout",
    "thread_count",
    "threads_for",
]
