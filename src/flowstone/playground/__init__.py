"""Pages in which a flow can be tried in the browser: the walk through its layers, a lesson, and the model itself."""

from flowstone.playground.lesson import lesson_section
from flowstone.playground.page import write_playground
from flowstone.playground.walk import walk_section

__all__ = ["lesson_section", "walk_section", "write_playground"]
