"""The directive ``api``: a table of public names with their first sentences, then each from its docstring."""

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from latex import with_roles
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode
from sphinx.util.parsing import nested_parse_to_nodes


def object_named(name: str) -> Any:
    """The thing that a dotted name means."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def kind_of(thing: Any) -> str:
    """The directive of autodoc for a thing, or ``data``, which has no docstring of its own.

    >>> kind_of(int), kind_of(len), kind_of(3)
    ('autoclass', 'autofunction', 'data')
    """
    if inspect.isclass(thing):
        return "autoexception" if issubclass(thing, Exception) else "autoclass"
    return "autofunction" if inspect.isroutine(thing) else "data"


def first_sentence(thing: Any) -> str:
    """The beginning of a docstring, up to the end of its first sentence or paragraph."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    sentence = re.split(r"(?<=[.]) (?=[A-Z`])", " ".join(paragraph.split()))[0]
    return with_roles(sentence.rstrip(":,"))


class Api(Directive):
    """Names of the content, one or several a line; they may lack the module that is the argument.

    With ``:table-only:`` the entries are on another page.
    """

    has_content = True
    required_arguments = 1
    option_spec = {"table-only": lambda _: True}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        names = [f"{self.arguments[0]}.{name}" for line in self.content for name in line.split()]
        lines = [".. list-table::", "   :widths: 30 70", "   :class: api-table", ""]
        for name in names:
            lines += [f"   * - :py:obj:`~{name}`", f"     - {about(name)}"]
        if "table-only" not in self.options:
            lines += [line for name in names for line in _entry(name)]
        content = type(self.content)(lines, source=self.state.document.current_source or "")
        return nested_parse_to_nodes(self.state, content)


def about(name: str) -> str:
    """What a name is, in a sentence; of a constant what it holds."""
    thing = object_named(name)
    if kind_of(thing) != "data":
        return first_sentence(thing)
    if isinstance(thing, Mapping):
        return "By name: " + ", ".join(f"``{getattr(key, '__name__', key)}``" for key in thing) + "."
    if isinstance(thing, list | tuple):
        return "In order: " + ", ".join(f"``{getattr(each, '__name__', each)}``" for each in thing) + "."
    return f"``{thing!r}``"


def _entry(name: str) -> list[str]:
    kind = kind_of(object_named(name))
    if kind == "data":
        return ["", f".. py:data:: {name}", "", f"   {about(name)}"]
    options = ["   :members:"] if kind in ("autoclass", "autoexception") else []
    return ["", f".. {kind}:: {name}", *options]


def _without_base_signature(
    _app: Sphinx, what: str, _name: str, _thing: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """A class without a constructor of its own has that of ``torch.nn.Module``, which says nothing."""
    inherited = re.sub(r"[~.]|typing", "", signature or "") == "(*args: Any, **kwargs: Any)"
    return ("", returns) if what == "class" and inherited else None


def _mend_fields(_app: Sphinx, document: nodes.document) -> None:
    """A dash between a name and what is said of it."""
    for text in [*document.findall(nodes.Text)]:
        if text.startswith(" -- ") and any(isinstance(parent, nodes.field_body) for parent in _parents(text)):
            text.parent.replace(text, nodes.Text(text.replace(" -- ", " – ", 1)))


class LinkNames(SphinxPostTransform):
    """Code in sentences that is a public name leads to its entry.

    A name is linked in full; without its module if it is of ``flowstone`` itself or a class of one module alone, and no
    plain word such as ``fit``, which may be a method or a command.
    """

    default_priority = 200
    formats = ("html",)

    def run(self, **_: Any) -> None:
        targets = self._targets()
        for code in [*self.document.findall(nodes.literal)]:
            entry = targets.get(code.astext().removesuffix("()"))
            inside = (nodes.reference, nodes.title, addnodes.desc_signature)
            if entry is not None and not any(isinstance(parent, inside) for parent in _parents(code)):
                name, place = entry
                link = make_refnode(
                    self.app.builder, self.env.docname, place.docname, place.node_id, code.deepcopy(), name
                )
                code.replace_self(link)

    def _targets(self) -> dict[str, tuple[str, Any]]:
        places = {n: place for n, place in self.env.domains.python_domain.objects.items() if not place.aliased}
        alone = Counter(name.rpartition(".")[2] for name in places)
        found = {}
        for name, place in places.items():
            module, _, last = name.rpartition(".")
            found[name] = (name, place)
            by_itself = module == "flowstone" or alone[last] == 1
            if by_itself and (last[:1].isupper() or (module == "flowstone" and "_" in last)):
                found[last] = (name, place)
        return found


def _parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def _is_left_out(_app: Sphinx, _what: str, name: str, _member: Any, _skip: bool, _options: Any) -> bool | None:
    """Methods that scikit-learn adds to every estimator are described there."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and what is left out."""
    app.add_directive("api", Api)
    app.add_post_transform(LinkNames)
    app.connect("autodoc-skip-member", _is_left_out)
    app.connect("autodoc-process-signature", _without_base_signature)
    app.connect("doctree-read", _mend_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
