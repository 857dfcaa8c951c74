"""What surrounds the source: the version, the citation, types, and what runs before a commit and in CI."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import flowstone

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def recipe_of(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lines, f"the Makefile has no target {target}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines[1].splitlines()]


def test_the_version_is_written_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE) == [flowstone.__version__]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == flowstone.__version__


def test_the_version_is_printed_without_torch():
    code = (
        "import sys\n"
        "from flowstone.cli import app\n"
        "app(['--version'], result_action='return_value')\n"
        "sys.exit('--version imports torch' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == flowstone.__version__


def test_the_wheel_tells_type_checkers_that_it_is_typed():
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/flowstone"]
    assert (ROOT / "src" / "flowstone" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_the_citation_agrees_with_the_project():
    citation, project = read_yaml("CITATION.cff"), PROJECT["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"] == "Flowstone"
    assert citation["type"] == "software"
    assert citation["abstract"]
    assert citation["version"] == flowstone.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert citation["repository-code"] == project["urls"]["Repository"]


def test_pre_commit_runs_what_make_lint_runs():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == recipe_of("lint")
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False


def test_the_workflow_runs_make_test_on_every_supported_python():
    workflow = read_yaml(".github/workflows/test.yml")
    (job,) = workflow["jobs"].values()
    assert "make test PYTHON=python" in [step.get("run") for step in job["steps"]]
    versions = job["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    named = {line.removeprefix(prefix) for line in PROJECT["project"]["classifiers"] if line.startswith(prefix)}
    assert set(versions) == named - {"3"}
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"


def test_issue_forms_ask_with_labels_and_unique_ids():
    for name in ("bug_report", "feature_request"):
        form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
        assert form["name"]
        assert form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        assert all(field["attributes"]["label"] for field in form["body"])
        assert any(field.get("validations", {}).get("required") for field in form["body"])
