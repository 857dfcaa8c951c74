"""Tables of mixed columns: the exact density of rows of categories, integers, numbers, angles and gaps."""

from flowstone.mixed.column import Column, columns_of
from flowstone.mixed.density import MixedDensity
from flowstone.mixed.embedding import ColumnEmbedding
from flowstone.mixed.encoding import Encoder
from flowstone.mixed.heads import Heads
from flowstone.mixed.marginals import Marginals
from flowstone.mixed.prediction import Prediction

__all__ = ["Column", "ColumnEmbedding", "Encoder", "Heads", "Marginals", "MixedDensity", "Prediction", "columns_of"]
