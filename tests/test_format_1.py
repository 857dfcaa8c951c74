"""Run folders of format 1, written by an earlier version: they load, score and sample to the recorded numbers."""

import json
from pathlib import Path

import pytest
import torch

import flowstone

FOLDER = Path(__file__).parent / "fixtures" / "format-1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_old_run_folders_give_the_same_numbers(name):
    flow, wanted = flowstone.load(FOLDER / name), EXPECTED[name]
    x = torch.tensor(wanted["x"], dtype=torch.float64)
    context = None if wanted["context"] is None else torch.tensor(wanted["context"])
    log_prob = flow.log_prob(x, context)
    torch.testing.assert_close(log_prob, torch.tensor(wanted["log_prob"]), atol=1e-5, rtol=1e-5)
    samples = torch.tensor(wanted["samples"])
    drawn = flow.sample(len(samples), None if context is None else context[:1], seed=1)
    torch.testing.assert_close(drawn.to(samples).reshape(samples.shape), samples, atol=1e-5, rtol=1e-5)
