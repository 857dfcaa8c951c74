"""Tables larger than memory: their rows are scored chunk by chunk with a run folder, and broken-off work goes on."""

from flowstone.streaming.parts import Parts
from flowstone.streaming.score import score_to_file
from flowstone.streaming.scorer import Scorer

__all__ = ["Parts", "Scorer", "score_to_file"]
