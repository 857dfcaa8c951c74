"""pyarrow's functions over columns, typed as Any: pyarrow makes them at run time, where no type checker sees them."""

from typing import Any

import pyarrow.compute

__all__ = ["compute"]

compute: Any = pyarrow.compute
