"""What make lowest installs and what make audit says."""

import json

import pytest

import audit
import lowest
from test_packaging import PROJECT


def test_every_dependency_has_its_lowest_version():
    lines, project = set(lowest.constraints()), PROJECT["project"]
    for required in (project["dependencies"], *(project["optional-dependencies"][each] for each in lowest.EXTRAS)):
        assert {lowest.lowest(each) for each in required} <= lines
    assert {*lowest.TOOLS, *lowest.FRAMES, "torch"} <= {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize("requirement", ["numpy", "numpy>1", "numpy>=1,<2", "numpy==1"])
def test_a_requirement_without_a_lowest_version_is_refused(requirement):
    with pytest.raises(ValueError, match="declares no lowest version alone"):
        lowest.lowest(requirement)


def test_versions_are_declared_once():
    names = [line.partition("==")[0] for line in lowest.constraints()]
    assert len(names) == len(set(names))


def answer(*vulnerabilities: dict) -> str:
    audited = {"name": "a", "version": "1.0", "vulns": list(vulnerabilities)}
    return json.dumps({"dependencies": [audited, {"name": "b", "skip_reason": "not found"}], "fixes": []})


def test_no_known_vulnerability_is_0():
    status, lines = audit.verdict(answer(), "")
    assert (status, lines) == (0, ["1 packages, 0 known vulnerabilities; not audited: b"])


def test_a_known_vulnerability_is_1_and_named():
    status, lines = audit.verdict(answer({"id": "PYSEC-1", "fix_versions": ["1.1"]}), "Found 1 known vulnerability")
    assert status == 1
    assert lines[0] == "a 1.0: PYSEC-1, mended in 1.1"


@pytest.mark.parametrize("said", ["", "no JSON", "[]", "{}"])
def test_no_answer_is_one_line_and_2(said):
    status, lines = audit.verdict(said, "Traceback\nConnectionError: no route")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("not audited: ")
    assert "no route" in lines[0]


def test_packages_that_the_service_does_not_know_are_not_called_sound():
    packages = [{"name": name, "skip_reason": "not found"} for name in "abc"]
    status, (line,) = audit.verdict(json.dumps({"dependencies": packages}), "No known vulnerabilities found")
    assert status == 2
    assert line == "not audited: the vulnerability service has no answer about any of the 3 packages"
