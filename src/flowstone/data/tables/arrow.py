"""pyarrow's functions over columns, which it makes at run time: a type checker is told that they are there."""

from typing import Any

import pyarrow.compute

__all__ = ["compute"]

compute: Any = pyarrow.compute
