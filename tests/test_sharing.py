"""Model cards, and run folders that go to the hub and come back; no test leaves this machine."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

import flowstone
from commands import flowstone as command
from commands import make_run, make_table, refused
from flowstone.errors import CheckpointError, DataError, FlowstoneError, OutputError, SettingError
from flowstone.files import to_json
from flowstone.recipes import build
from flowstone.runs import Run, model_card
from hub_server import served

hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, the client of the hub")
errors, constants = (pytest.importorskip(f"huggingface_hub.{name}") for name in ("errors", "constants"))

METRICS = {
    "nll_nats": 3.25, "nll_stderr": 0.125, "nll_median": 3.0, "bits_per_dim": 1.5, "n_test": 1234, "n_not_finite": 0,
    "baselines_nll_nats": {"one Gaussian": 3.75}, "steps": 60, "best_step": 40, "seconds": 2.5, "parameters": 5678,
}  # fmt: skip
SECRET = "a-folder-of-mine"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run folder with all that a run may hold, of a table in a folder of a name that nobody should read."""
    monkeypatch.chdir(tmp_path)
    Path(SECRET).mkdir()
    make_run("R", make_table(tmp_path / SECRET / "walks.csv"))
    folder = tmp_path / "R"
    (folder / "metrics.json").write_text(to_json(METRICS))
    (folder / "history.csv").write_text("step,seconds,train_nll,val_nll,learning_rate,grad_norm\n0,0.1,4,4,0.1,0\n")
    (folder / "README.md").write_text(model_card(Run(folder).record, METRICS))
    (folder / "plots" / "training").mkdir(parents=True)
    (folder / "resume").mkdir()
    for name in ("plots/pairs.png", "plots/training/step-1.png", "plots/notes.txt", "report.html", "live.html",
                 "resume/state.safetensors", "detector.safetensors", "data.csv", "evil.pkl"):  # fmt: skip
        (folder / name).write_bytes(b"content of " + name.encode())
    return folder


PLAIN = {"README.md", "flow.json", "flow.safetensors", "history.csv", "metrics.json"}
SHOWN = {"plots/pairs.png", "report.html"}


class FakeHub:
    """The hub's client, but for the network: what is sent goes into a folder."""

    def __init__(self, folder: Path, *, public: bool = False, error: Exception | None = None) -> None:
        self.folder, self.public, self.error = folder, public, error
        self.private: bool | None = None

    def create_repo(self, name: str, *, repo_type: str, private: bool, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        assert (repo_type, exist_ok) == ("model", True)
        self.private = private and not self.public
        return f"https://hub.example/{name}"

    def model_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.folder / repo_id)


@pytest.fixture
def fake(tmp_path, monkeypatch) -> FakeHub:
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: made)
    return made


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("plots", [False, True])
def test_only_the_density_its_figures_and_its_card_are_sent(run, fake, plots):
    pushed = flowstone.push(run, "me/walks", plots=plots)
    there = fake.folder / "me" / "walks"
    assert files_in(there) == PLAIN | (SHOWN if plots else set())
    assert set(pushed.sent) == files_in(there)
    assert set(pushed.sent) | set(pushed.left) == files_in(run)
    assert fake.private
    assert pushed.address == "https://hub.example/me/walks"
    assert all((there / name).stat().st_size == size for name, size in pushed.sent.items())


def test_what_is_sent_names_no_folder_and_is_the_same_density(run, fake):
    flowstone.push(run, "me/walks")
    there = fake.folder / "me" / "walks"
    for name in PLAIN:
        assert SECRET.encode() not in (there / name).read_bytes(), name
        assert str(run.parent).encode() not in (there / name).read_bytes(), name
    record, before = Run(there).record, Run(run).record
    assert record["data"]["source"] == "walks.csv"
    assert "sha256" not in record["data"]
    assert "request" not in record
    assert record["columns"] == before["columns"]
    x = torch.randn(20, 3)
    assert torch.equal(flowstone.load(there).log_prob(x), flowstone.load(run).log_prob(x))
    assert 'flowstone.pull("me/walks", "RUN")' in (there / "README.md").read_text()


def test_a_public_model_is_not_written_by_accident(run, fake, capsys, monkeypatch):
    fake.public = True
    line = refused(capsys, monkeypatch, "push", run, "me/walks")
    assert line == "flowstone: me/walks is public already; to send it there: --public"
    assert not fake.folder.exists()
    flowstone.push(run, "me/walks", public=True)
    assert not fake.private


def test_push_says_what_it_sends_and_what_stays(run, fake, capsys):
    command("push", run, "me/walks", "--plots", "--public")
    lines = capsys.readouterr().out.splitlines()
    sent = [line.split()[1] for line in lines if line.startswith("sent ")]
    assert set(sent) == PLAIN | SHOWN
    assert "flow.json holds the names of columns and levels, the range of each column and values with mass" in lines
    (left,) = [line for line in lines if line.startswith("not sent: ")]
    assert "resume/state.safetensors" in left
    assert lines[-1] == "https://hub.example/me/walks"


def test_a_density_that_was_saved_by_the_library_is_sent_with_a_card(tmp_path, fake):
    flowstone.save(build("nice", {"features": 2, "couplings": 1, "hidden": 4}), tmp_path / "saved")
    flowstone.push(tmp_path / "saved", "me/saved")
    there = fake.folder / "me" / "saved"
    assert files_in(there) == {"README.md", "flow.json", "flow.safetensors"}
    card = (there / "README.md").read_text()
    assert "It was not evaluated on held-out rows." in card
    assert "**It was not trained.**" in card


def answered(status: int, words: str = "x") -> Exception:
    """The client's error for an answer of the hub."""
    return errors.HfHubHTTPError(words, response=SimpleNamespace(status_code=status, headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (errors.LocalTokenNotFoundError("x"), SettingError, "nobody is signed in at the hub: run hf auth login"),
        (answered(401), SettingError, "nobody is signed in at the hub"),
        (
            answered(403),
            SettingError,
            "me/walks: your account may not do that",
        ),
        (answered(500, "a\nb"), DataError, "me/walks: the hub refuses (a b"),
        (
            OSError(28, "No space left"),
            OutputError,
            "cannot write what me/walks holds: No space left",
        ),
        (ConnectionError("x"), DataError, "me/walks: the hub was not reached (ConnectionError): is there a network?"),
    ],
)
def test_errors_of_the_hub_are_one_line(run, fake, error, kind, said):
    fake.error = error
    with pytest.raises(kind) as raised:
        flowstone.push(run, "me/walks")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["walks", "me/", "/walks", "me/a b", "me/../x", "a/b/c", "me/a--b", "-a/b", "x/" + 99 * "y"]
)
def test_names_that_cannot_be_are_refused(run, fake, name, tmp_path):
    for action in (lambda: flowstone.push(run, name), lambda: flowstone.pull(name, tmp_path / "P")):
        with pytest.raises(SettingError, match=r"is no name on the hub: it is NAMESPACE/NAME"):
            action()
    assert not fake.folder.exists()


@pytest.fixture
def address(run, tmp_path, monkeypatch):
    """A hub on this machine that has the run as me/walks, and something else as me/other; yields what was asked."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.pkl").write_bytes(b"x")
    asked: list[str] = []
    with served({"me/walks": run, "me/other": other}, asked) as place:
        monkeypatch.setattr(constants, "ENDPOINT", place)
        template = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked


@pytest.mark.parametrize("plots", [False, True])
def test_what_is_pulled_is_a_run_folder_of_the_files_that_are_allowed(run, address, tmp_path, plots, capsys):
    command("pull", "me/walks", "--out", "deep/P", *(["--plots"] if plots else []))
    pulled = tmp_path / "deep" / "P"
    wanted = PLAIN | (SHOWN if plots else set())
    assert files_in(pulled) == wanted
    assert capsys.readouterr().out.split() == sorted(f"deep/P/{name}" for name in wanted)
    asked = {path.split("/resolve/")[1].partition("/")[2] for path in address if "/resolve/" in path}
    assert asked == wanted
    assert all((pulled / name).read_bytes() == (run / name).read_bytes() for name in wanted)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["P"]
    command("sample", pulled, "-n", 3, "--out", "s.csv")
    command("score", pulled, f"{SECRET}/walks.csv", "--out", "scored.csv")


def test_what_cannot_be_pulled_leaves_nothing(run, address, tmp_path, capsys, monkeypatch):
    def said(*words: object) -> str:
        return refused(capsys, monkeypatch, "pull", *words)

    before = sorted(tmp_path.iterdir())
    assert "R exists: choose another folder" in said("me/walks", "--out", "R")
    assert "me/nothing: no such model is on the hub, or you may not see it" in said("me/nothing", "--out", "P")
    assert "me/other: it holds no density of Flowstone: there is no flow.json" in said("me/other", "--out", "P")
    assert "me/walks: there is no revision 'v9'" in said("me/walks", "--out", "P", "--revision", "v9")
    assert said("me/walks", "--out", "R/flow.json/P") == "flowstone: cannot write R/flow.json: File exists"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["flow.json", "flow.safetensors", "history.csv", "metrics.json"])
def test_what_is_damaged_is_refused(run, address, tmp_path, name):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 0x55
    if name in ("history.csv", "metrics.json"):
        content = bytearray(b"[1,2]\n3\n")
    (run / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^me/walks: {re.escape(name)}: ") as raised:
        flowstone.pull("me/walks", tmp_path / "P")
    assert str(tmp_path) not in str(raised.value)
    assert not (tmp_path / "P").exists()


def test_without_the_client_one_line_says_what_is_missing(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for action in (lambda: flowstone.push(run, "me/x"), lambda: flowstone.pull("me/x", tmp_path / "P")):
        with pytest.raises(SettingError, match=r"pip install 'flowstone\[hub\]'"):
            action()


def test_a_folder_that_is_no_run_is_not_pushed(tmp_path, fake):
    with pytest.raises(CheckpointError, match="is not a run folder"):
        flowstone.push(tmp_path, "me/x")


@pytest.mark.parametrize(
    "name", ["README.md", "history.csv", "metrics.json", "report.html", "plots", "plots/pairs.png"]
)
def test_what_a_link_names_outside_the_folder_is_not_sent(run, fake, tmp_path, name):
    shutil.copytree(run / "plots", tmp_path / "outside")
    (tmp_path / "outside" / "secret").write_text("precious")
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "outside" / ("" if name == "plots" else "secret"))
    with pytest.raises(CheckpointError, match="it is a link out of its folder"):
        flowstone.push(run, "me/x", plots=True)
    assert not fake.folder.exists()


def test_a_damaged_history_is_not_sent(run, fake):
    (run / "history.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"R/history.csv: "):
        flowstone.push(run, "me/x")


# --- the card ---------------------------------------------------------------------------------------------------------


def header_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_holds_the_figures_with_their_errors(run):
    card = (run / "README.md").read_text()
    for words in ("3.2500 ± 0.1250", "| held-out rows | 1,234 |", "| one Gaussian | 3.7500 |", "| parameters | 5,678 |",
                  "walks.csv", "| a | continuous |", "torch ", "Flowstone "):  # fmt: skip
        assert words in card
    assert SECRET not in card


def test_the_hub_reads_the_header(run):
    content = (run / "README.md").read_text()
    card = hub.ModelCard(content)
    assert card.data.library_name == "flowstone"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"nll_nats": 3.25, "bits_per_dim": 1.5}
    assert header_of(content)["tags"] == ["density-estimation", "normalizing-flow", "realnvp", "table"]


def test_figures_that_are_not_finite_are_no_figures():
    record = {"recipe": "nice", "arguments": {"features": 2}, "event_shape": [2], "dtype": "float32"}
    card = model_card(record, METRICS | {"nll_nats": float("nan"), "bits_per_dim": float("inf")})
    assert "model-index" not in header_of(card)
    assert "It was not evaluated on held-out rows." in card


def test_names_in_a_card_are_shown_as_they_are():
    name = "a|b `x` <script>\n# c"
    data = {"kind": "table", "source": f"/x/{name}.csv", "rows": 5}
    record = {"recipe": "nice", "arguments": {"features": 1}, "event_shape": [1], "dtype": "float32"}
    card = model_card(record | {"columns": [name], "data": data}, METRICS)
    assert "<script>" not in card.split("---\n")[2]
    (row,) = [line for line in card.splitlines() if line.startswith("| a")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert header_of(card)["model-index"][0]["results"][0]["dataset"]["name"] == f"{name}.csv"


@pytest.mark.filterwarnings("ignore:validation has not moved")
@pytest.mark.parametrize("kind", ["toy", "given", "mixed", "images"])
def test_what_a_card_says_to_do_works(kind, tmp_path, monkeypatch):
    """The Python of the card of a training, where the hub's part is done already."""
    monkeypatch.chdir(tmp_path)
    words = ["--flow", "nice", "--set", "couplings=1", "hidden=4"]
    if kind == "toy":
        source = "moons"
    elif kind == "images":
        import numpy as np

        source = "images.npy"
        np.save(source, np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8))
        words[1] = "nice_image"
    elif kind == "mixed":
        source = "t.csv"
        Path(source).write_text("age,sex\n" + "".join(f"{20 + i % 30},{'fm'[i % 2]}\n" for i in range(120)))
        words = ["--set", "width=8"]
    else:
        source = str(make_table(tmp_path / "t.csv"))
        words += ["--context", "a"]
    command("train", source, *words, "--steps", 2, "--batch-size", 32, "--no-plots", "--quiet", "--out", "RUN")
    card = (tmp_path / "RUN" / "README.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'flowstone.pull("NAMESPACE/NAME", "RUN")\n' in python
    monkeypatch.setattr(flowstone, "pull", lambda name, folder: None)
    exec(python, {})
    assert (header_of(card)["tags"][-1] == "images") == (kind == "images")


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_the_card_of_a_table_that_the_library_learned_says_what_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = {"age": [20 + i % 30 for i in range(60)], "sex": ["f", "m"] * 30}
    flowstone.learn(table, steps=2, arguments={"width": 4, "blocks": 1}, progress=False).save("RUN")
    card = model_card(Run("RUN").record)
    assert "A table; its name and the number of its rows are not recorded." in card
    assert "\n# a density by the recipe mixed\n" in card
    assert "unknown" not in card
    assert "| sex |" in card


def test_a_table_that_is_not_recorded_is_not_guessed(tmp_path, monkeypatch, capsys):
    """That of a density that the library learned, and one that only has the name of that of a run from the hub."""
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "t.csv")
    learned = {"recipe": "gaussian_mixture", "arguments": {"components": 1}, "steps": 1, "progress": False}
    flowstone.learn("t.csv", **learned).save("L")
    command("train", "t.csv", "--flow", "gaussian_mixture", "--steps", 2, "--no-plots", "--quiet", "--out", "R")
    record = Run("R").record
    data = {name: value for name, value in record["data"].items() if name != "sha256"} | {"source": "t.csv"}
    flowstone.save(flowstone.load("R"), "P", extra={"columns": record["columns"], "data": data})
    for folder, said in (("L", "it is not recorded where the table is"), ("P", "nothing recorded tells whether t.csv")):
        for words in (["evaluate", folder], ["plot", folder], ["check", folder]):
            line = refused(capsys, monkeypatch, *words)
            assert line.startswith(f"flowstone: {said}")
            assert line.endswith("learned from: check and evaluate take data after RUN")
        command("evaluate", folder, "t.csv", "--json")
        assert "n_also_in_training" not in json.loads(capsys.readouterr().out)
    (Path("L") / "history.csv").write_bytes((Path("R") / "history.csv").read_bytes())
    command("report", "L")
    assert "flowstone train" not in (Path("L") / "report.html").read_text()


@pytest.mark.parametrize("of", ["numbers", "words", "context"])
def test_what_the_card_of_an_estimator_says_to_do_works(of, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="FlowDensity needs scikit-learn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flowstone, "pull", lambda name, folder: None)
    columns = {"age": [20.0 + i % 30 for i in range(60)], "one": [1.0] * 60}
    x = pa.table(columns | ({"sex": ["f", "m"] * 30} if of == "words" else {}))
    context = pa.table({"place": ["a", "b", "c"] * 20}) if of == "context" else None
    models = "independent" if of == "words" else "gaussian"
    flowstone.FlowDensity(models=models, random_state=0).fit(x, context=context).save("RUN")
    (python,) = re.findall(r"```python\n(.*?)```", model_card(Run("RUN").record), re.DOTALL)
    assert 'flowstone.FlowDensity.load("RUN")' in python
    found = {} if context is None else {"context": context}
    exec(python, found)
    assert found["rows"].column_names == x.column_names


def test_the_card_is_written_before_the_last_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken(*_, **__):
        raise OutputError("no")

    monkeypatch.setattr(Run, "write_json", broken)
    with pytest.raises(FlowstoneError):
        command("train", "moons", "--flow", "nice", "--set", "couplings=1", "hidden=4", "--steps", 2, "--no-plots",
                "--quiet", "--out", "RUN")  # fmt: skip
    assert (tmp_path / "RUN" / "README.md").exists()
    assert not (tmp_path / "RUN" / "metrics.json").exists()
    assert json.loads((tmp_path / "RUN" / "flow.json").read_text())["trained"]
