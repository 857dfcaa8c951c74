"""Pictures of the gallery that no window holds: the figures that functions of ``flowstone.plot`` return."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_saved: set[int] = set()


def scrape_figures(_block: Any, variables: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Save each new figure of an example's variables, and return the reStructuredText that shows them."""
    paths = []
    for figure in variables["example_globals"].values():
        if isinstance(figure, Figure) and not hasattr(figure, "number") and id(figure) not in _saved:
            _saved.add(id(figure))
            path = next(variables["image_path_iterator"])
            figure.savefig(path, dpi=110)
            paths.append(path)
    title = variables["src_file"].rpartition("/")[2].removesuffix(".py").replace("_", " ")
    return figure_rst(paths, settings["src_dir"], fig_titles=f"The figure of the example: {title}")
