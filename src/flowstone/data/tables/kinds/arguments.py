"""What stands in brackets behind a kind: ``circular(0,360)``."""

from collections.abc import Sequence

from flowstone.errors import SettingError

__all__ = ["two_numbers"]


def two_numbers(kind: str, arguments: Sequence[str]) -> tuple[float, float] | None:
    """The two ends that were given, or None where none were.

    Raises:
        SettingError: not two numbers, the smaller first.
    """
    if not arguments:
        return None
    try:
        low, high = map(float, arguments)
    except ValueError as error:
        raise SettingError(f"{kind}({','.join(arguments)}): expected two numbers, as in {kind}(0,360)") from error
    if not low < high:
        raise SettingError(f"{kind}({','.join(arguments)}): the first number must be below the second")
    return low, high
