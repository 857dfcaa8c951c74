import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowstone
from cases import disturb
from flowstone.errors import CheckpointError, OutputError, SettingError
from flowstone.evaluation.metrics import log_prob
from flowstone.files import atomic_path, write_atomically
from flowstone.recipes import RECIPES, build
from flowstone.train.state import TrainingState, load_state, save_state


@pytest.fixture
def saved(tmp_path):
    flow = flowstone.realnvp(5, couplings=3, hidden=(8,))
    disturb(flow)
    flowstone.save(flow, tmp_path / "run")
    return tmp_path / "run", flow


@pytest.mark.parametrize("name", [n for n, make in RECIPES.items() if "features" in inspect.signature(make).parameters])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flow_comes_back_with_the_same_numbers(tmp_path, name, dtype):
    width = 0 if name in ("gaussian_mixture", "blend") else 2
    small = {"mixed": {"width": 8}, "gaussian_mixture": {"components": 3}, "blend": {}, "embedded": {}}.get(
        name, {"hidden": (8,)}
    )
    flow = build(name, {"features": 4, "context_features": width, **small}).to(dtype)
    disturb(flow)
    x, context = torch.randn(20, 4, dtype=dtype), torch.randn(20, width, dtype=dtype) if width else None
    flow.initialize(3 * x + 1, context)
    flowstone.save(flow, tmp_path)
    again = flowstone.load(tmp_path)
    assert not again.training
    assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))
    assert torch.equal(again.sample(5, context, seed=0), flow.sample(5, context, seed=0))
    assert again.spec == json.loads(json.dumps(flow.spec))


@pytest.mark.parametrize("settings", [{}, {"preset": "faithful", "alpha": None}])
def test_a_flow_of_images_comes_back_with_the_same_numbers(tmp_path, settings):
    flow = flowstone.realnvp_image((1, 5, 4), channels=4, blocks=1, context_features=2, **settings)
    x, context = torch.randint(256, (20, 1, 5, 4), dtype=torch.uint8), torch.randn(20, 2)
    flow.initialize(x, context)
    flow.log_prob(x, context)  # in training: running averages move
    flowstone.save(flow.eval(), tmp_path)
    again = flowstone.load(tmp_path)
    assert torch.equal(log_prob(again, x, context), log_prob(flow, x, context))
    assert torch.equal(again.sample(5, context, seed=0), flow.sample(5, context, seed=0))
    assert again.spec == json.loads(json.dumps(flow.spec))


def test_initialisation_does_not_run_again_after_loading(saved):
    folder, flow = saved
    flow.initialize(torch.randn(50, 5) + 7)
    flowstone.save(flow, folder)
    again = flowstone.load(folder)
    again.initialize(torch.randn(50, 5) - 100)
    x = torch.randn(3, 5)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))


def test_nothing_in_it_is_a_pickle(saved):
    folder, _ = saved
    assert sorted(p.name for p in folder.iterdir()) == ["flow.json", "flow.safetensors"]
    record = json.loads((folder / "flow.json").read_text())
    assert record["format_version"] == 1
    assert record["recipe"] == "realnvp"
    load_file(folder / "flow.safetensors")


def test_a_flow_put_together_by_hand_says_what_it_lacks(tmp_path):
    made = flowstone.nice(2)
    by_hand = flowstone.Flow(made.bijection, made.prior)
    with pytest.raises(SettingError, match="has no spec"):
        flowstone.save(by_hand, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def edit(folder, **changes):
    record = json.loads((folder / "flow.json").read_text()) | changes
    (folder / "flow.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "flow.json").unlink(), "is not a run folder"),
        (lambda f: (f / "flow.json").write_text("{"), "not a record that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text("[1]"), "not a record that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text('{"a": 1}'), "not a record that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text('{"format_version": 1}'), "recipe is None"),
        (lambda f: edit(f, format_version="1"), "not a record that Flowstone wrote"),
        (lambda f: edit(f, dtype="float31"), "dtype is 'float31'; known: float32, float64"),
        (lambda f: edit(f, dtype="nn"), "dtype is 'nn'"),
        (lambda f: edit(f, arguments=[]), "arguments is []"),
        (lambda f: edit(f, recipe=["a"]), "recipe is ['a']"),
        (lambda f: edit(f, format_version=99), "format 99 is newer"),
        (lambda f: edit(f, recipe="realnvq"), "did you mean 'realnvp'"),
        (lambda f: edit(f, arguments={"features": 5, "widths": 3}), "'widths'"),
        (lambda f: edit(f, arguments={"features": 6}), "does not fit flow.json"),
        (lambda f: (f / "flow.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "flow.safetensors").write_bytes(b"\x80\x04K\x01."), "cannot be read"),
        (lambda f: os.truncate(f / "flow.safetensors", 300), "cannot be read"),
        (lambda f: save_file({"other": torch.zeros(2)}, f / "flow.safetensors"), "does not fit flow.json"),
    ],
)
def test_damaged_and_foreign_folders_are_named(saved, damage, message):
    folder, _ = saved
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        flowstone.load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, b"old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "missing" / "file.txt", b"")


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_kill_while_saving_never_leaves_half_a_file(tmp_path):
    script = (
        "import sys, torch, flowstone; from pathlib import Path\n"
        "flow = flowstone.nice(2, hidden=(400, 400))\n"
        "flowstone.save(flow, sys.argv[1]); print('go', flush=True)\n"
        "while True: flowstone.save(flow, sys.argv[1])"
    )
    for pause in (0.05, 0.11, 0.23):
        process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(pause)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        flowstone.load(tmp_path)


def test_a_training_state_comes_back(tmp_path):
    tensors = {"raw": [torch.randn(3), torch.randn(2, 2)], "average": [torch.randn(1)] * 12}
    state = TrainingState(7, 1.5, [1.0, 2.0, 3.0], {k: [t.clone() for t in v] for k, v in tensors.items()})
    assert load_state(tmp_path) is None
    save_state(tmp_path, state)
    again = load_state(tmp_path)
    assert again is not None
    assert (again.step, again.seconds, again.sums) == (7, 1.5, [1.0, 2.0, 3.0])
    for name, group in tensors.items():
        assert all(torch.equal(a, b) for a, b in zip(group, again.tensors[name], strict=True))
    (tmp_path / "state.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path)
