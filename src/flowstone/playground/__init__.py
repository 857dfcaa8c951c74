"""Pages in which a flow can be tried in the browser: the walk through its layers, a lesson, and the model itself."""

from flowstone.playground.walk import walk_section

__all__ = ["walk_section"]
