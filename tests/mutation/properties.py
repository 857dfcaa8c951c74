"""What docstrings of single bijections and direct gradients promise beyond the laws, one function each, in float64."""

from collections.abc import Callable

from mutation import direct, domains, initialization, structure, univariate

__all__ = ["PROPERTIES"]

PROPERTIES: dict[str, Callable[[], None]] = {
    name: getattr(module, name)
    for module in (univariate, domains, initialization, structure, direct)
    for name in module.__all__
}
