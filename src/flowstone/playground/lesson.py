"""The lesson in one dimension: a density is stretched, and its area stays one."""

from flowstone.playground.fragments import section

__all__ = ["lesson_section"]


def lesson_section() -> str:
    r"""A section of HTML that shows the change of variables in one dimension, live.

    $$ p_x(x) = p_z(f(x)) \, |f'(x)| $$

    The reader chooses a density of x and a map f (affine, a kink, tanh, an exponential) and drags its stretch and
    shift; the densities of x and of z = f(x), the areas under both, and the terms of the formula follow. The section
    needs nothing but itself: it can stand in any page, and makes no request.

    >>> html = lesson_section()
    >>> html.startswith('<div class="flowstone-part flowstone-lesson">'), "src=" in html
    (True, False)
    """
    return section("lesson", {})
