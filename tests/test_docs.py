"""The pages of the site, without building it: commands, links, names, formulas and the gallery are what they say."""

import ast
import importlib
import importlib.util
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest
from commands_page import commands_page
from repository import DOCS, PAGES, ROOT, TUTORIALS, site_links, without_absent

import flowstone
from flowstone import bijections, nets, priors
from flowstone.cli import COMMANDS, app

SOURCE = ROOT / "src" / "flowstone"
GALLERY = sorted((ROOT / "examples" / "gallery").glob("*.py"))
BUILT = ("_build", "generated", "gallery", "extensions", "_static")  # folders of docs/ that hold no sources of pages
IN_DOCS = sorted(
    path for path in (*DOCS.rglob("*.md"), *DOCS.rglob("*.rst")) if path.relative_to(DOCS).parts[0] not in BUILT
)
PAGES_OF_TEXT = [path for path in IN_DOCS if path.suffix == ".md"] + [
    ROOT / name for name in ("README.md", *PAGES.values())
]
GENERATED = {DOCS / "generated" / f"{name}.md" for name in (*PAGES, "commands")} | {DOCS / "gallery" / "index.rst"}
INTERNAL = {  # as api/index.rst says
    "bars", "cli", "digest", "files", "kernels", "lazy", "notebook", "options", "validation",
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parametrized(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=name_of)


# Names of other libraries

NAMED = {  # what the tables of translations call d, k, …
    **{name: value for module in (bijections, nets) for name, value in vars(module).items() if name[0].isupper()},
    "StandardNormal": priors.StandardNormal,
    "priors": priors,
    "nets": nets,
    "flowstone": flowstone,
    **{"features": 4, "d": 4, "changed": 2, "dims_in": 2, "dims_out": 4, "net": nets.MLP(2, 4)},
}


@parametrized(sorted((DOCS / "how-to").glob("from-*.md")))
def test_translations_can_be_built(path):
    """Calls in the second column of a table whose arguments are all written out."""
    rows = re.findall(r"^\| .* \| (.*) \|$", path.read_text(), re.MULTILINE)
    for call in (call for row in rows for call in re.findall(r"`([^`]*\))`", row) if "…" not in call):
        names = {node.id for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name)}
        if names <= NAMED.keys():
            eval(call, dict(NAMED))


# Commands and flags


def flags_of(command: str) -> set[str]:
    arguments = app[command].assemble_argument_collection()
    return {name for argument in arguments for name in argument.names if name.startswith("-")} | {"--help"}


FLAGS = {command: flags_of(command) for command in COMMANDS}
ANY_FLAG = set().union(*FLAGS.values()) | {"--version"}


def command_lines(text: str) -> Iterator[str]:
    """Lines of the command in blocks of code."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = re.fullmatch(r"[ !$]*(flowstone [a-z].*)", line)
            if words:
                yield words[1]


def parse(line: str) -> None:
    """Let the real parser read a line, without its pipes; raises where the parser does."""
    words = shlex.split(re.split(r" [|>]|;", line)[0], comments=True)[1:]
    app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_parser_refuses_what_does_not_exist():
    parse("flowstone train moons --steps 3 --out runs/moons # a comment")
    for wrong in ("flowstone trian moons", "flowstone train moons --stepz 3", "flowstone score runs/moons"):
        with pytest.raises(Exception, match=r"trian|stepz|data"):
            parse(wrong)


@parametrized(PAGES_OF_TEXT)
def test_every_command_in_a_block_parses(path):
    for line in command_lines(path.read_text()):
        parse(line)


def spans(text: str) -> list[str]:
    """Code between single backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


@parametrized([*PAGES_OF_TEXT, *GALLERY])
def test_every_command_and_flag_in_a_sentence_exists(path):
    text = path.read_text()
    for span in spans(text if path.suffix == ".md" else text.replace("``", "`")):
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span))
        if span.startswith("flowstone "):
            command = span.split()[1]
            if command.startswith("-"):
                continue
            assert command in {*COMMANDS, "COMMAND"}, f"{span}: there is no command {command}"
            assert flags <= FLAGS.get(command, ANY_FLAG), f"{span}: no flags {flags - FLAGS[command]}"
        elif re.match(r"--?[a-z]|train |sample |score |evaluate |check ", span) and path.parent.name != "benchmarks":
            assert flags <= ANY_FLAG, f"{span}: no flags {flags - ANY_FLAG}"


def test_the_reference_has_every_command_and_flag():
    page = commands_page()
    for command, flags in FLAGS.items():
        section = page.partition(f"## flowstone {command}\n")[2].partition("\n## ")[0]
        assert section.startswith(f"\n```text\nflowstone {command}")
        for flag in flags - {"--help"}:
            assert re.search(rf"^\* `[^`]*{flag}\b", section, re.MULTILINE), f"{command} {flag}"


# Links and contents


def slugs(text: str) -> set[str]:
    """Anchors of the headings of Markdown, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower().replace(" ", "-") for heading in headings}


@parametrized(PAGES_OF_TEXT)
def test_links_and_anchors_lead_somewhere(path):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", without_absent(path.read_text(), path), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists() or target in GENERATED, f"{link}: there is no such file"
        if anchor:
            assert target.suffix == ".md", f"{link}: anchors are of Markdown"
            assert anchor in slugs(target.read_text()), f"{link}: there is no such heading"


def contents(path: Path) -> set[Path]:
    """The pages that the tables of contents on a page name."""
    text = path.read_text()
    if path.suffix == ".md":
        text = without_absent(text, path)
        blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    else:
        blocks = re.findall(r"^\.\. toctree::\n((?:\n|   .*\n)+)", text, re.MULTILINE)
    found = set()
    for entry in (line.strip() for block in blocks for line in block.splitlines()):
        if entry and not entry.startswith(":"):
            candidates = [(path.parent / f"{entry}{suffix}").resolve() for suffix in (".md", ".rst")]
            found.add(next(page for page in candidates if page.exists() or page in GENERATED))
    return found


def test_every_page_is_in_a_table_of_contents():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += contents(page) if page.exists() and page not in GENERATED else []
    assert set(IN_DOCS) | GENERATED == reached


def test_the_front_page_leads_to_every_subject_in_one_click():
    links = set(re.findall(r"\]\(([^)\s]+)\)", (DOCS / "index.md").read_text()))
    wanted = {f"tutorials/{name}.md" for name in TUTORIALS}
    wanted |= {f"how-to/{path.name}" for path in (DOCS / "how-to").glob("*.md") if path.name != "index.md"}
    wanted |= {"start.md", "gallery/index.rst", "api/index.rst", "generated/commands.md", "faq.md", "results.md"}
    wanted |= {"many-processes.md", "export.md", "reliability.md", "architecture.md", "change-of-variables.md"}
    assert wanted <= links


def test_links_to_files_of_the_repository_become_links_of_the_site():
    text = "[a](../CHANGELOG.md#x) [b](../examples/demo.py) [c](results.md) `[d](../CHANGELOG.md)` [e](https://x.org/a)"
    page = DOCS / "export.md"
    there = "https://github.com/flowstone-flows/flowstone/blob/main/examples/demo.py"
    assert site_links(text, page, page) == (
        f"[a](generated/changelog.md#x) [b]({there}) [c](results.md) `[d](../CHANGELOG.md)` [e](https://x.org/a)"
    )
    text = "[a](docs/results.md) [b](CHANGELOG.md)"
    page = DOCS / "generated" / "contributing.md"
    assert site_links(text, ROOT / "CONTRIBUTING.md", page) == "[a](../results.md) [b](changelog.md)"


# Public names


def names_on_the_api_pages() -> list[str]:
    """Every name that a directive ``api`` documents; tables alone do not count."""
    found = []
    for path in sorted((DOCS / "api").glob("*.rst")):
        for module, body in re.findall(r"^\.\. api:: (\S+)\n((?:\n|   .*\n)+)", path.read_text(), re.MULTILINE):
            if ":table-only:" not in body:
                found += [f"{module}.{name}" for name in body.split()]
    return found


def names_in_all(module: str) -> list[str]:
    """``__all__`` as it is written: what is public is known without the module's own dependencies."""
    spec = importlib.util.find_spec(f"flowstone.{module}")
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"flowstone.{module} has no __all__")


MODULES = sorted({path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()})
PUBLIC = [name for name in MODULES if not name.startswith("__") and name not in INTERNAL]
DOCUMENTED = names_on_the_api_pages()


def test_names_are_documented_once():
    assert len(DOCUMENTED) == len(set(DOCUMENTED))


def test_names_of_the_package_are_documented_and_in_the_first_table():
    index = (DOCS / "api" / "index.rst").read_text()
    table = set(index.partition(":table-only:")[2].partition("Its packages")[0].split())
    for name in flowstone.__all__:
        if not isinstance(getattr(flowstone, name), ModuleType):
            assert f"flowstone.{name}" in DOCUMENTED, name
            assert name in table, name
        else:
            assert f"flowstone.{name}" in index, name


@pytest.mark.parametrize("module", PUBLIC)
def test_names_of_each_package_are_documented(module):
    for name in names_in_all(module):
        if f"flowstone.{module}.{name}" not in DOCUMENTED:
            assert f"flowstone.{name}" in DOCUMENTED, f"flowstone.{module}.{name}"
            thing = getattr(importlib.import_module(f"flowstone.{module}"), name)
            assert thing is getattr(flowstone, name), f"flowstone.{module}.{name}"


def test_nothing_else_is_on_the_api_pages():
    public = {f"flowstone.{module}.{name}" for module in PUBLIC for name in names_in_all(module)}
    assert set(DOCUMENTED) <= public | {f"flowstone.{name}" for name in flowstone.__all__}


def test_the_api_page_names_the_modules_that_may_change():
    page = (DOCS / "api" / "index.rst").read_text()
    assert set(re.findall(r"``(\w+)``", page.partition("Other modules")[2])) == INTERNAL
    assert set(MODULES) >= INTERNAL


# Formulas


def docstrings() -> Iterator[tuple[str, str]]:
    """Every docstring with its file."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield name_of(path), ast.get_docstring(node) or ""


def formulas() -> Iterator[tuple[str, str]]:
    """Every formula between dollars with its place."""
    from latex import BLOCK, INLINE

    texts = [(name_of(path), re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)) for path in PAGES_OF_TEXT]
    texts += docstrings()
    for place, text in texts:
        blocks = BLOCK.findall(text)
        yield from ((place, latex) for _, latex in blocks)
        yield from ((place, latex) for _, latex in INLINE.findall(BLOCK.sub("", text)) if latex)


def test_every_formula_becomes_mathml():
    pytest.importorskip("latex2mathml", reason="latex2mathml draws the formulas of the site; make docs installs it")
    from latex import mathml

    found = list(formulas())
    assert len(found) > 100
    for place, latex in found:
        try:
            drawn = mathml(latex)
        except Exception as error:
            raise AssertionError(f"{place}: {latex}") from error
        assert "\\" not in drawn, f"{place}: {latex} is not understood: {drawn}"


def test_formulas_of_docstrings_become_roles():
    pytest.importorskip("latex2mathml", reason="latex2mathml draws the formulas of the site; make docs installs it")
    from latex import with_roles

    assert with_roles("The $x^2$ of ``$HOME`` and 5$.") == "The :math:`x^2` of ``$HOME`` and 5$."
    assert with_roles("±``limit``, not $a$b or ($c$)") == r"±\ ``limit``, not :math:`a`\ b or (:math:`c`)"
    assert with_roles("for $a\nb$, too") == "for :math:`a b`, too"
    assert with_roles("  $$ z =\n     x $$") == "\n  .. math::\n\n     z = x\n"


def test_docstrings_have_bars_in_formulas_and_code_alone():
    """Elsewhere the site reads what is between two bars as the name of a substitution."""
    apart = re.compile(r"\$\$.*?\$\$|\$.*?\$|``.*?``|^ *(>>>|\.\.\.).*?$", re.S | re.M)
    for place, text in docstrings():
        assert not re.search(r"\|[^\s|]+\|", apart.sub("", text)), f"{place}: {text}"


def test_attributes_of_docstrings_become_a_list():
    pytest.importorskip("latex2mathml", reason="latex2mathml draws the formulas of the site; make docs installs it")
    from latex import with_attributes

    text = "A thing.\n\nAttributes:\n    a, b: two of\n        them.\n    c: one.\n\n>>> 1"
    expected = "A thing.\n\n:Attributes:\n    * **a**, **b** – two of\n      them.\n    * **c** – one.\n\n>>> 1"
    assert with_attributes(text) == expected


# The gallery


def test_the_gallery_has_many_examples():
    assert len(GALLERY) >= 20


@parametrized(GALLERY)
def test_an_example_has_a_title_a_text_and_a_seed(path):
    tree = ast.parse(path.read_text())
    title, line, *rest = (ast.get_docstring(tree) or "").splitlines()
    assert line == "=" * len(title)
    assert any(each.strip() for each in rest), "no text under the title"
    assert re.search(r"manual_seed\(|random_state=|default_rng\(\d", path.read_text()), "no seed"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".fit", ".fit_to_density", ".learn")):
            keywords = {keyword.arg for keyword in node.keywords}
            by_sklearn = "flowstone" not in ast.unparse(node.func)
            assert by_sklearn or {"seed", "progress", "steps"} <= keywords, f"line {node.lineno}"


@pytest.mark.parametrize("name", ["inverse_transform_sampling", "torch_distributions"])
def test_the_quickest_examples_run(name, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    runpy.run_path(str(ROOT / "examples" / "gallery" / f"{name}.py"))
    assert plt.get_fignums()
    plt.close("all")
