"""Flags follow from the options of Settings and DataRequest, and live in the command alone."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowstone as package
from commands import flowstone
from flowstone.cli import COMMANDS, main
from flowstone.cli.flags import flag_of, message_of, select
from flowstone.data import DataRequest
from flowstone.errors import DataError, DataWarning, SettingError
from flowstone.options import options_of
from flowstone.train import Settings

SOURCE = Path(package.__file__).parent
FIXED = """
    --flow --set --steps --epochs --minutes --batch-size --lr --seed --device --precision --context --columns --out
    --resume --quiet --patience --memory --compile --flip --points --drop-missing --no-dequantize --size --gray
    --skip-bad --data-dir --download --no-plots --no-report --tensorboard --live --log-every --exclude --kinds --na
    --encoding
"""


def help_of(capsys, *words: str) -> str:
    flowstone(*words, "--help")
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_every_option_is_a_flag_with_its_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = help_of(capsys, "train")
    for flag in FIXED.split():
        assert f"{flag} " in text
    for each in (*options_of(DataRequest), *options_of(Settings)):
        assert f"--{each.name.replace('_', '-')}" in text
        assert " ".join(each.help.split()) in text
    assert " ".join(next(o.help for o in options_of(DataRequest) if o.name == "skip_bad").split()) in help_of(
        capsys, "score"
    )


def test_the_help_of_a_command_is_its_whole_docstring(capsys):
    text = help_of(capsys, "score")
    assert "OUT.parts" in text
    assert "exit status is 1" in text
    assert COMMANDS["score"] in help_of(capsys)


def test_the_help_of_a_command_needs_no_torch():
    code = (
        "import sys\n"
        "from flowstone.cli import app\n"
        "app(['train', '--help'], result_action='return_value')\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'train --help imports {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_library_names_no_flag():
    for path in SOURCE.rglob("*.py"):
        if "cli" not in path.relative_to(SOURCE).parts:
            named = re.findall(r"(?<![\w-])--[a-z][a-z-]*(?![\w:-])", path.read_text())  # --name: is a variable of CSS
            assert not named, f"{path.relative_to(SOURCE)} names {named}"


def test_a_remedy_is_a_keyword_in_the_library_and_a_flag_in_the_command():
    error = DataError("t.csv: row 2 is missing;\nto leave it out", remedy={"drop_missing": True, "size": 32})
    assert str(error).endswith("to leave it out: drop_missing=True, size=32")
    assert message_of(error) == "t.csv: row 2 is missing; to leave it out: --drop-missing --size 32"
    assert flag_of("resume", "R/resume") == "--resume"
    assert flag_of("exclude", ["a", "b,c"]) == "--exclude 'a,\"b,c\"'"


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(["positive", "circular(0,360)", "ordinal(S,M,a=b)"])))
def test_kinds_come_back_from_their_flag(kinds):
    words = shlex.split(flag_of("kinds", kinds))
    assert select(DataRequest, {"kinds": words[1:]}) == {"kinds": kinds}


@pytest.mark.parametrize(("words", "message"), [(["a"], "expected column=kind"), (["a=b", "a=c"], "given twice")])
def test_kinds_are_pairs(words, message):
    with pytest.raises(SettingError, match=message):
        select(DataRequest, {"kinds": words})


def test_a_doubt_is_one_line_with_its_flag():
    doubt = DataWarning("t.csv: -999 may stand for a gap; to read it as one", remedy={"na": ["-999"]})
    assert message_of(doubt).endswith("to read it as one: --na=-999")
    assert str(doubt).endswith("na=['-999']")


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_names_of_columns_come_back_from_their_flag(names):
    words = shlex.split(flag_of("columns", names))
    text = words[1] if len(words) == 2 else words[0].removeprefix("--columns=")
    assert select(DataRequest, {"columns": text}) == {"columns": names}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "moons", "--stepz", "3"],
        ["trian"],
        ["sample", "R"],
        ["train", "moons", "--lr", "x"],
        *(["train", "moons", flag, "1.5"] for flag in ("--steps", "--devices", "--seed", "--batch-size")),
        ["sample", "R", "-n", "2.0", "--out", "s.csv"],
    ],
)
def test_a_wrong_flag_exits_with_2(capsys, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["flowstone", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2


@pytest.mark.parametrize("words", [["train"], ["columns"], ["score", "R", "--out", "s.csv"]])
def test_a_pattern_that_the_shell_has_resolved_is_a_line_that_says_how_to_quote(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "c.csv"):
        Path(name).write_text("x\n1\n")
    monkeypatch.setattr(sys, "argv", ["flowstone", *words, "a.csv", "b.csv", "c.csv"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "b.csv, c.csv" in line
    assert "'data/*.csv'" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv", "c.csv"]


def test_version(capsys):
    flowstone("--version")
    assert capsys.readouterr().out.strip() == package.__version__


def test_output_that_nobody_reads_on_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flowstone", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
