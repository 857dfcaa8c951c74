"""``flowstone report``: a page of a run, whole, escaped and accessible, of every kind of density."""

import csv
import itertools
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import flowstone.report
from browser import barriers, browsing, opened
from commands import flowstone as command
from commands import refused
from flowstone.cli.again import commands_again
from flowstone.cli.values import settings_of
from flowstone.data import Rows
from flowstone.errors import SettingError
from flowstone.evaluation import log_prob
from flowstone.report import Subject, report_page
from flowstone.report.markup import join, paragraph, table
from flowstone.report.sections import SECTIONS
from flowstone.runs import Run

VOID = {"meta", "img", "input", "br", "link"}
EVIL = "<script>alert('a&b')</script>"
SMALL = ["--steps", "2", "--batch-size", "32", "--quiet"]
TINY = ["--set", "couplings=1", "hidden=4"]


def write_csv(path: Path, **columns) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def mixed_table(path: Path) -> Path:
    draw = np.random.default_rng(0)
    level = draw.choice(["<b>Bern</b>", "Oslo", ""], 250)
    days = [f"2024-0{1 + n % 9}-{1 + n % 27:02}" for n in range(250)]
    income = np.where(draw.random(250) < 0.4, 0.0, draw.exponential(500, 250).round(2))
    return write_csv(
        path, **{EVIL: level, "income": income, "day": days, "is_new": draw.choice(["true", "false"], 250)}
    )


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Pictures of a third of the size are drawn much faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowstone.plot.figures.DPI", 50)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind, without its pictures, by name."""
    folder = tmp_path_factory.mktemp("runs")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 3)).cumsum(1)
    wide = write_csv(folder / "wide.csv", **{"a": x[:, 0], EVIL: x[:, 1], "c": x[:, 2]})
    mixed = mixed_table(folder / "mixed.csv")
    for index in range(60):
        label = folder / "images" / ("cat", "<b>alert<b>")[index % 2]
        label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(4, 4), dtype=np.uint8)).save(label / f"{index}.png")
    layers = ["--set", "width=8", "blocks=1", "bins=4"]
    kinds = {
        "plane": [wide, "--exclude", EVIL, *TINY],
        "table": [wide, *TINY],
        "context": [wide, "--context", EVIL, *TINY],
        "one": [wide, "--columns", "a", *TINY],
        "mixed": [mixed, *layers],
        "images": [folder / "images", "--context", "label", "--set", "channels=4", "couplings=1"],
    }
    made = {}
    for name, words in kinds.items():
        command("train", *words, *SMALL, "--no-plots", "--out", f"{folder / name}-run")
        made[name] = Run(f"{folder / name}-run")
    return made


@pytest.fixture(scope="module")
def pages(runs):
    return {
        name: report_page(Subject.of(run, commands=commands_again(run.record, run.folder)))
        for name, run in runs.items()
    }


class Page(HTMLParser):
    """A page whose tags must nest; what it holds is kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    def said(self) -> str:
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


KINDS = ["plane", "table", "context", "one", "mixed", "images"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_and_loads_nothing(pages, kind):
    text = pages[kind]
    assert len(text.encode()) < 5_000_000
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    without_data = re.sub(r'<script type="application/json".*?</script>', "", without_pictures)  # base64 may hold //
    for word in ("http:", "https:", "@import", "url("):
        assert word not in without_pictures, word
    assert not re.search(r"""["'(=]//""", without_data)  # an address of the same protocol; // also begins comments
    page = Page(text)
    for attributes in page.all("img", "script", "link", "iframe", "object", "embed", "source", "image"):
        assert not {"href", "srcset", "data"} & attributes.keys()
        assert (attributes.get("src") or "data:").startswith("data:")
    assert not page.all("link")
    assert "default-src 'none'" in (page.all("meta")[1]["content"] or "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_read_by_all(pages, kind):
    page = Page(pages[kind])
    assert page.all("html") == [{"lang": "en"}]
    for name in ("main", "header", "nav", "footer", "title", "h1"):
        assert len(page.all(name)) == 1, name
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    images = page.all("img")
    assert images
    assert all(len(image["alt"] or "") > 15 for image in images)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in names
    for attributes in page.all("section"):
        assert attributes["aria-labelledby"] in names
    for attributes in page.all("th"):
        assert attributes["scope"] in ("row", "col")


@pytest.mark.parametrize("kind", ["table", "context", "mixed", "images"])
def test_what_comes_from_data_is_escaped(pages, kind):
    assert EVIL not in pages[kind]
    page = Page(pages[kind])
    assert "alert" in page.said()
    assert not [data for tag, data in page.texts if tag == "script" and data.startswith("alert")]
    assert not page.all("b")


@pytest.mark.parametrize(
    ("kind", "wanted", "unwanted"),
    [
        ("plane", ["Brighter is denser", "Layer by layer", "Latents and prior"], ["Pairs of columns"]),
        ("table", ["Gaussian", "Pairs of columns", "Synthetic rows", "column to blame", "Check"], ["Layer by layer"]),
        ("context", ["given ", "Latents and prior", "Check"], ["Synthetic rows"]),
        ("one", ["The curve is the learned density"], ["Pairs of columns", "Layer by layer"]),
        ("mixed", ["independent columns", "Privacy", "Bits of each value", "2024-0", "true"], ["Check", "Latents"]),
        ("images", ["test images", "nearest", "Samples given each label", "Latents and prior"], ["Calibration"]),
    ],
)
def test_a_page_has_the_sections_that_suit_its_density(pages, kind, wanted, unwanted):
    said = Page(pages[kind]).said()
    for words in wanted:
        assert words in said, words
    for words in unwanted:
        assert words not in said, words
    for words in ("Figures", "Training", "Settings and machine", "How to do it again", "flowstone train ", "torch"):
        assert words in said, words


def test_figures_are_those_of_the_run(runs, pages):
    metrics, page = runs["table"].metrics(), Page(pages["table"])
    assert f"{metrics['nll_nats']:.4f}" in page.said()
    assert f"{metrics['nll_stderr']:.4f}" in page.said()
    for value in metrics["baselines_nll_nats"].values():
        assert f"{value - metrics['nll_nats']:+.4f}" in page.said()


def test_figures_speak_of_what_there_is(pages):
    assert "minus this density" in pages["table"]
    assert "minus this density" not in pages["context"]  # nothing to compare with
    assert "bits a dimension, a bound" in pages["images"]
    assert "test rows" not in pages["images"].partition("How to do it again")[0]


def test_the_least_likely_rows_come_first_with_their_values_and_blame(runs):
    subject = Subject.of(runs["table"])
    assert subject.test is not None
    scores = log_prob(subject.density, subject.test.x).sort()
    section = str(SECTIONS["Least likely"](subject))
    rows = re.findall("<tr>(.*?)</tr>", section)
    head, *lines = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    assert [line[0] for line in lines] == [str(rank) for rank in range(1, 11)]
    assert [float(line[2]) for line in lines] == pytest.approx(scores.values[:10].tolist(), abs=0.006)
    written = subject.written(subject.test.take(scores.indices[:10]))
    plain = [[re.sub("</?strong>", "", value) for value in line[4:]] for line in lines]
    assert [sorted(line) for line in plain] == [sorted(row) for row in written]
    for line in lines:
        (bold,) = [name for name, value in zip(head, line, strict=True) if "<strong>" in value]
        assert line[1] == bold


def test_a_row_without_a_likelihood_is_the_least_likely(runs):
    subject = Subject.of(runs["table"])
    assert subject.dataset is not None
    x = subject.dataset.test.x.clone()
    x[3] = 1e300
    lost = replace(subject, dataset=replace(subject.dataset, test=Rows(x)))
    first = str(SECTIONS["Least likely"](lost)).partition("<tbody>")[2].partition("</tr>")[0]
    assert first.count("not finite") == 2  # likelihood and p-value
    assert first.count("1e+300") == 3


def test_entropy_is_shown_where_it_is_known(runs):
    subject = Subject.of(runs["plane"])
    known = replace(subject, metrics={**subject.metrics, "nll_nats": 2.5, "entropy": 2.25})
    said = Page(str(SECTIONS["Figures"](known))).said()
    assert "entropy of the data" in said
    assert "-0.2500" in said


def test_the_pair_that_is_shown_first_depends_most(runs, monkeypatch):
    room = import_module("flowstone.report.sections.rows")
    monkeypatch.setattr(room, "most_dependent", lambda x, count=4: [1, 3][:count])
    said = str(SECTIONS["Data and samples"](Subject.of(runs["mixed"])))
    (held,) = re.findall(r'<script type="application/json" id="rows-held">(.*?)</script>', said)
    assert json.loads(held)["first"] == [1, 3]


def test_rows_to_choose_from_are_those_of_data_and_samples(runs, pages):
    (held,) = re.findall(r'<script type="application/json" id="rows-held">(.*?)</script>', pages["mixed"])
    columns, first = json.loads(held).values()
    assert len({*first}) == 2
    assert {*first} < {*range(4)}  # the pair that the page begins with
    assert [column["name"] for column in columns] == [EVIL, "income", "day", "is_new"]
    assert columns[3]["levels"] == ["false", "true"]  # no value is among others
    train = runs["mixed"].dataset().train.x
    for index, column in enumerate(columns):
        known = [None if value != value else float(f"{value:.6g}") for value in train[:, index].tolist()]
        assert column["data"] == known[: len(column["data"])]
    assert None in columns[0]["data"]  # gaps are nulls
    write = runs["mixed"].dataset().formats["day"]
    assert columns[2]["texts"]["data"] == [write(value) for value in train[: len(columns[2]["data"]), 2].tolist()]


def test_numbers_far_from_zero_stay_different():
    """Seconds since 1970 would be one point, if only their first digits were kept."""
    seconds = 1.7e9 + torch.arange(0.0, 3000, 10, dtype=torch.float64)
    numbers = import_module("flowstone.report.sections.rows")._plain(seconds, None, 3000.0)
    assert numbers == seconds.tolist()


def test_levels_without_a_name_of_their_own_are_others():
    room = import_module("flowstone.report.sections.rows")
    assert room._with_others(["a"], [torch.tensor([0.0, torch.nan])]) == ["a"]
    assert room._with_others(["a"], [torch.tensor([0.0]), torch.tensor([1.0])]) == ["a", "(others)"]


def test_columns_of_words_are_aligned_as_texts(pages):
    body = re.findall("<tr>(.*?)</tr>", pages["mixed"].partition("least likely test rows</caption>")[2])
    words = [re.search(rf"<th[^>]*>{name}</th>", body[0]) for name in ("day", "income")]
    assert ["number" in found.group() for found in words if found] == [False, True]


def test_a_run_whose_data_are_gone_still_has_a_page(tmp_path, runs):
    write_csv(tmp_path / "t.csv", **dict(zip("ab", np.random.default_rng(0).normal(size=(2, 40)), strict=True)))
    command("train", tmp_path / "t.csv", *TINY, *SMALL, "--no-plots", "--out", tmp_path / "R")
    (tmp_path / "t.csv").unlink()
    page = Page(report_page(Subject.of(Run(tmp_path / "R"))))
    assert "The data cannot be read again" in page.said()
    assert "t.csv" in page.said()
    assert "nats a row" in page.said()
    assert len(page.all("img")) == 2  # the loss, and samples alone


def test_a_training_writes_its_report_and_metrics_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", a=np.random.default_rng(0).normal(size=60))
    words = ["train", "t.csv", *TINY, *SMALL]
    command(*words, "--out", "R")
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "R").iterdir()}
    assert (
        written["report.html"]
        <= written["metrics.json"]
        == max(
            written[name] for name in ("flow.json", "flow.safetensors", "history.csv", "metrics.json", "report.html")
        )
    )
    assert Page((tmp_path / "R" / "report.html").read_text()).all("img")
    for name, switches in {"S": ["--no-report"], "T": ["--no-plots"], "U": ["--no-plots", "--report"]}.items():
        command(*words, *switches, "--out", name)
        assert (tmp_path / name / "report.html").exists() == (name == "U")
    assert "has not ended" not in (tmp_path / "U" / "report.html").read_text()
    (tmp_path / "U" / "metrics.json").unlink()
    assert "has not ended" in report_page(Subject.of(Run("U")))


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyError("a"), KeyboardInterrupt()])
def test_a_report_that_cannot_be_written_fails_no_training(tmp_path, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flowstone.report, "write_report", fail)
    command("train", "moons", *TINY, *SMALL, "--no-plots", "--report", "--out", "R")
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("flowstone: R: no report (")
    assert line.endswith("flowstone report R")
    assert Run("R").finished
    assert not (tmp_path / "R" / "report.html").exists()


def test_the_command_writes_the_page_and_says_where(runs, capsys):
    folder = runs["one"].folder
    command("report", folder)
    assert capsys.readouterr().out.split() == [str(folder / "report.html")]
    first = (folder / "report.html").read_text()
    command("report", folder)
    assert (folder / "report.html").read_text() == first  # the same page again


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "flow.json").unlink(), "no flow.json"),
        (lambda run: (run / "flow.safetensors").write_bytes(b"nothing"), "flow.safetensors"),
        (lambda run: (run / "history.csv").write_text("step,seconds\nx,y\n"), "history.csv"),
        (lambda run: (run / "metrics.json").write_text("[1"), "metrics.json"),
    ],
    ids=["no run", "weights", "history", "metrics"],
)
def test_a_damaged_folder_is_one_line(tmp_path, runs, capsys, monkeypatch, damage, said):
    run = tmp_path / "R"
    run.mkdir()
    for name in ("flow.json", "flow.safetensors", "history.csv", "metrics.json"):
        (run / name).write_bytes((runs["one"].folder / name).read_bytes())
    damage(run)
    assert said in refused(capsys, monkeypatch, "report", run)
    assert not (run / "report.html").exists()


def test_a_section_that_cannot_be_computed_says_why(runs, monkeypatch):
    def fail(_subject):
        raise SettingError("the moon is in the way")

    monkeypatch.setitem(SECTIONS, "Check", fail)
    assert "Left out: the moon is in the way." in Page(report_page(Subject.of(runs["one"]))).said()


def test_without_scikit_learn_the_page_says_how_to_get_it(runs, monkeypatch):
    monkeypatch.setattr(Subject, "has_judges", False)
    said = Page(report_page(Subject.of(runs["one"]))).said()
    assert said.count("pip install flowstone[evaluation]") == 2
    assert "nats a row on 20 test rows" in said
    assert "Privacy" in said  # nearest rows need no classifier


def test_a_training_can_be_repeated_by_the_commands_of_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "b, or not"
    write_csv(tmp_path / "my table.csv", a=np.random.default_rng(0).normal(size=60), **{name: range(60)})
    words = ["my table.csv", "--context", f'"{name}"', "--lr", "0.01", "--no-dequantize", "--flow", "realnvp", *TINY]
    command("train", *words, *SMALL, "--no-plots", "--out", "R")
    first = commands_again(Run("R").record, Path("R"))[0]
    line = shlex.split(first)
    assert line[0] == "flowstone"
    command(*line[1:], "--quiet", "--no-plots")
    assert (tmp_path / "R-again" / "flow.safetensors").read_bytes() == (
        tmp_path / "R" / "flow.safetensors"
    ).read_bytes()


VALUES = st.one_of(
    st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.none(),
    st.lists(st.integers(), min_size=2), st.sampled_from(["logistic", "any", "a-b"]),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["couplings", "hidden", "prior", "alpha"]), VALUES, min_size=1))
def test_arguments_come_back_from_their_words(arguments):
    request = {"source": "moons", "set": arguments, "training": {}, "data": {}}
    line = commands_again({"data": {"source": "moons"}, "request": request}, Path("R"))[0]
    words = shlex.split(line)
    assert settings_of(words[words.index("--set") + 1 : words.index("--out")]) == arguments


@given(st.text())
def test_markup_escapes_every_text(text):
    for made in (paragraph(text), table(text, [text, text], [[text, text]]), join([text])):
        page = Page(f"<div>{made}</div>")
        assert {tag for tag, _ in page.tags} <= {"div", "p", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert (
            text.replace("\r\n", "\n").replace("\r", "\n") in page.said().replace("\r\n", "\n").replace("\r", "\n")
            or not text.strip()
        )


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def on_disk(pages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "scheme", "width"),
    [
        ("plane", "dark", 390),
        ("mixed", "light", 390),
        ("mixed", "dark", 1280),
        ("context", "light", 1280),
        ("images", "dark", 390),
    ],
)
def test_a_page_can_be_read_in_light_and_dark_and_on_a_phone(browser, on_disk, kind, scheme, width):
    with opened(browser, on_disk / f"{kind}.html", width=width, dark=scheme == "dark") as page:
        assert barriers(page) == []
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        assert page.evaluate("() => [...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_a_keyboard_reaches_everything_in_the_order_of_the_page(browser, on_disk):
    with opened(browser, on_disk / "mixed.html") as page:
        count = page.evaluate("() => document.querySelectorAll('a, summary, select, input, [tabindex=\"0\"]').length")
        places = []
        for _ in range(count):
            page.keyboard.press("Tab")
            places.append(
                page.evaluate(
                    "() => { const at = document.activeElement; const style = getComputedStyle(at);"
                    " return [at.tagName, [...document.querySelectorAll('*')].indexOf(at), style.outlineStyle]; }"
                )
            )
        assert [place[1] for place in places] == sorted({place[1] for place in places})
        assert all(place[2] != "none" for place in places)  # where the focus is can be seen
        assert {"A", "SELECT", "PRE"} <= {place[0] for place in places}
    with opened(browser, on_disk / "mixed.html") as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("() => document.activeElement.id") == "main"


def test_columns_are_chosen_and_found(browser, on_disk, runs):
    with opened(browser, on_disk / "mixed.html") as page:
        page.select_option("#pair-x", label="income")
        page.select_option("#pair-y", label=EVIL)
        assert "income runs to the right" in page.inner_text("#pair-said")
        tips = page.eval_on_selector_all("#pair-data title", "(all) => all.map((each) => each.textContent)")
        train = runs["mixed"].dataset().train.x
        assert 0 < len(tips) <= int((~train[:, :2].isnan().any(1)).sum())
        assert all(tip.startswith("income ") and EVIL in tip for tip in tips)
        assert page.locator("#pair-samples circle").count() > 0
        page.select_option("#pair-x", label="day")
        assert re.search(r"day runs to the right \(2024-\d\d-\d\d … 2024-\d\d-\d\d\)", page.inner_text("#pair-said"))
        tip = page.eval_on_selector("#pair-samples title", "(first) => first.textContent")
        assert re.match(r"day \d{4}-\d\d-\d\d, ", tip)


def test_names_of_columns_do_not_widen_a_phone(browser, on_disk):
    with opened(browser, on_disk / "mixed.html", width=390) as page:
        page.evaluate("() => { document.querySelector('#pair-x option').textContent = 'a long name '.repeat(9); }")
        assert barriers(page) == []


def test_axes_of_the_chosen_pair_have_marks(browser, on_disk):
    with opened(browser, on_disk / "mixed.html") as page:
        page.select_option("#pair-x", label="is_new")
        page.select_option("#pair-y", label="day")
        marks = page.eval_on_selector_all("#pair-data text", "(all) => all.map((each) => each.textContent)")
        assert marks[:2] == ["false", "true"]
        assert all(re.fullmatch(r"2024-\d\d-\d\d", mark) for mark in marks[2:])
        assert len(marks) == 4


def test_a_page_is_complete_without_javascript(browser, on_disk):
    with opened(browser, on_disk / "mixed.html", java_script_enabled=False) as page:
        assert page.locator("img:visible").count() == page.locator("img").count() > 5
        assert page.locator("form:visible").count() == 0
