"""Run folders of every format, written by earlier versions: they load, score and sample to the recorded numbers."""

import json
from pathlib import Path

import pytest
import torch

import flowstone
from flowstone.runs import FORMAT_VERSION
from flowstone.train.state import load_state

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = {path.parent: json.loads(path.read_text()) for path in sorted(FIXTURES.glob("format-*/expected.json"))}
RUNS = [folder / name for folder, runs in EXPECTED.items() for name in runs]


def test_there_are_runs_of_every_format():
    assert [folder.name for folder in EXPECTED] == [f"format-{number + 1}" for number in range(FORMAT_VERSION)]
    for folder in RUNS:
        record = json.loads((folder / "flow.json").read_text())
        assert record["format_version"] == int(folder.parent.name.removeprefix("format-"))


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: f"{folder.parent.name} {folder.name}")
def test_old_run_folders_give_the_same_numbers(folder):
    flow, wanted = flowstone.load(folder), EXPECTED[folder.parent][folder.name]
    x = torch.tensor(wanted["x"], dtype=torch.float64)
    context = None if wanted["context"] is None else torch.tensor(wanted["context"])
    log_prob = flow.log_prob(x, context)
    expected = torch.tensor(wanted["log_prob"], dtype=log_prob.dtype)
    torch.testing.assert_close(log_prob, expected, atol=1e-5, rtol=1e-5)
    samples = torch.tensor(wanted["samples"])
    drawn = flow.sample(len(samples), None if context is None else context[:1], seed=1)
    torch.testing.assert_close(drawn.to(samples).reshape(samples.shape), samples, atol=1e-5, rtol=1e-5)
    assert load_state(folder / "resume") is not None
