"""What docstrings of single bijections promise beyond the laws, one function each, in float64."""

from collections.abc import Callable

from mutation import domains, initialization, structure, univariate

__all__ = ["PROPERTIES"]

PROPERTIES: dict[str, Callable[[], None]] = {
    name: getattr(module, name)
    for module in (univariate, domains, initialization, structure)
    for name in module.__all__
}
