"""Pictures of the gallery that no window holds: the figures that functions of ``flowstone.plot`` return."""

from collections.abc import Mapping
from typing import Any

from docutils import nodes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
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


def _name_thumbnails(_app: Sphinx, document: nodes.document) -> None:
    """Thumbnails have no alternative text of their own; the file's name says which example it is."""
    for image in document.findall(nodes.image):
        name = image["uri"].rpartition("/")[2]
        if name.startswith("sphx_glr_") and not image.get("alt"):
            example = name.removeprefix("sphx_glr_").rpartition("_thumb")[0].replace("_", " ")
            image["alt"] = f"A picture of the example: {example}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Give thumbnails a text."""
    app.connect("doctree-read", _name_thumbnails)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
