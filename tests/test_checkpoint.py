import inspect
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowstone
from cases import disturb
from damage import Damage
from flowstone.bijections import InvertibleConv1x1
from flowstone.errors import CheckpointError, NonFiniteError, OutputError, SettingError
from flowstone.evaluation.metrics import log_prob
from flowstone.files import atomic_path, read_tensors, tensors_to_bytes, write_atomically
from flowstone.recipes import RECIPES, build
from flowstone.runs.checkpoint import FORMAT_VERSION, write_record
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


def test_recipes_are_built_on_meta_without_torchs_compiler():
    """The file of a run is held against such a density before any is made; the compiler takes as long as torch."""
    code = """
import sys, torch
from flowstone.recipes import build
cases = {name: {"features": 3} for name in ("nice", "realnvp", "spline", "mixed", "gaussian_mixture")}
cases["blend"] = {"features": 3, "parts": [{"recipe": "spline"}, {"recipe": "nice"}]}
cases["embedded"] = {"features": 3, "context_features": 4}
cases["realnvp_image"] = {"event_shape": [1, 8, 8]}
for name, arguments in cases.items():
    with torch.device("meta"):
        assert next(build(name, arguments).parameters()).is_meta
    assert "torch._dynamo" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
    assert record["format_version"] == FORMAT_VERSION
    assert record["recipe"] == "realnvp"
    load_file(folder / "flow.safetensors")


def test_a_flow_put_together_by_hand_says_what_it_lacks(tmp_path):
    made = flowstone.nice(2)
    by_hand = flowstone.Flow(made.bijection, made.prior)
    with pytest.raises(SettingError, match="has no spec"):
        flowstone.save(by_hand, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def edit(folder, **changes):
    """Change ``flow.json`` as an adversary would, who computes its digest anew."""
    write_record(folder, json.loads((folder / "flow.json").read_text()) | changes)


def rewrite(folder, change):
    """Change tensors in the weights and keep their digest."""
    path = folder / "flow.safetensors"
    tensors, metadata = read_tensors(path)
    path.write_bytes(tensors_to_bytes(change(dict(tensors)), metadata))


def nested(depth):
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "flow.json").unlink(), "is not a run folder"),
        (lambda f: (f / "flow.json").write_text("{"), "not JSON that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text(nested(100_000)), "not JSON that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_bytes(b"\xff\xfe{}"), "not JSON that Flowstone wrote"),
        (lambda f: os.truncate(f / "flow.json", 1 << 30), "1073741824 bytes are more than a record can have"),
        (lambda f: (f / "flow.json").write_text("[1]"), "not a record that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text('{"a": 1}'), "not a record that Flowstone wrote"),
        (lambda f: (f / "flow.json").write_text('{"format_version": 1}'), "missing required field `recipe`"),
        (lambda f: edit(f, format_version="1"), "not a record that Flowstone wrote"),
        (lambda f: edit(f, dtype="float31"), "dtype: invalid enum value 'float31'"),
        (lambda f: edit(f, dtype="nn"), "dtype: invalid enum value 'nn'"),
        (lambda f: edit(f, arguments=[]), "arguments: expected `object`, got `array`"),
        (lambda f: edit(f, recipe=["a"]), "recipe: expected `str`, got `array`"),
        (lambda f: edit(f, event_shape=[0]), "event_shape[0]: expected `int` >= 1"),
        (lambda f: edit(f, columns=["a", 3]), "columns[1]: expected `str`, got `int`"),
        (lambda f: edit(f, data={"kind": "tables"}), "data.kind: invalid enum value 'tables'"),
        (lambda f: edit(f, format_version=99), "format 99 is newer"),
        (lambda f: edit(f, recipe="realnvq"), "did you mean 'realnvp'"),
        (lambda f: edit(f, recipe="mine"), "a recipe of your own is known once its module is imported"),
        (lambda f: edit(f, arguments={"features": 5, "widths": 3}), "'widths'"),
        (lambda f: edit(f, arguments={"features": 5, "hidden": "wide"}), "cannot be used"),
        (lambda f: edit(f, arguments={"features": 6}), "does not fit flow.json"),
        (lambda f: edit(f, arguments={"features": 10**8}), "are too few for the 100000000 features in flow.json"),
        (lambda f: edit(f, arguments={"features": 5, "hidden": [10**9]}), "does not fit flow.json"),
        (lambda f: edit(f, arguments={"features": 5, "couplings": 10**6}), "are far too few for the layers"),
        (lambda f: edit(f, dtype="float64"), "expected float64"),
        (lambda f: edit(f, extra=1), "of another flow.json"),
        (lambda f: (f / "flow.safetensors").unlink(), "cannot be read (No such file or directory)"),
        (lambda f: (f / "flow.safetensors").write_bytes(b"\x80\x04K\x01."), "cannot be read"),
        (lambda f: os.truncate(f / "flow.safetensors", 300), "cannot be read"),
        (lambda f: save_file({"other": torch.zeros(9)}, f / "flow.safetensors"), "does not fit flow.json"),
        (lambda f: rewrite(f, lambda t: {k: v.double() for k, v in t.items()}), "does not fit flow.json"),
        (lambda f: rewrite(f, lambda t: {k: v.flip(0) if v.ndim else v for k, v in t.items()}), "of another flow.json"),
    ],
)
def test_damaged_and_foreign_folders_are_named(saved, damage, message):
    folder, _ = saved
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        flowstone.load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["flow.json", "flow.safetensors"])
def test_pipes_and_links_out_of_the_folder_are_refused(saved, tmp_path, name):
    folder, flow = saved
    (tmp_path / "elsewhere").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link out of its folder"):
        flowstone.load(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="no regular file"):
        flowstone.load(folder)
    (folder / name).unlink()
    (tmp_path / "elsewhere").rename(folder / "within")
    (folder / name).symlink_to("within")
    (tmp_path / "linked").symlink_to(folder)
    x = torch.randn(3, 5)
    assert torch.equal(flowstone.load(tmp_path / "linked").log_prob(x), flow.log_prob(x))


def old(folder):
    """Make it of format 1, which has no digests."""
    record = json.loads((folder / "flow.json").read_text()) | {"format_version": 1}
    del record["digest"]
    (folder / "flow.json").write_text(json.dumps(record))
    tensors, _ = read_tensors(folder / "flow.safetensors")
    (folder / "flow.safetensors").write_bytes(tensors_to_bytes(tensors, {}))


@pytest.mark.parametrize(
    ("end", "value", "message"),
    [
        ("order", torch.tensor([0, 0, 1, 2, 3]), "is not a permutation of 0 … 4"),
        ("order", torch.tensor([0, 1, 2, 3, 7]), "is not a permutation of 0 … 4"),
        ("order", torch.tensor([0.0, 1, 2, 3, 4]), "does not fit flow.json"),
        ("mean", torch.tensor([0.0, 1, 2, torch.nan, 4]), "holds NaN or infinity"),
        ("bias", torch.full((8,), -torch.inf), "holds NaN or infinity"),
    ],
)
def test_weights_without_a_digest_are_looked_at_too(saved, end, value, message):
    folder, flow = saved
    old(folder)
    x = torch.randn(3, 5)
    assert torch.equal(flowstone.load(folder).log_prob(x), flow.log_prob(x))

    def change(tensors):
        name = next(name for name in tensors if name.endswith(f".{end}") and tensors[name].shape == value.shape)
        return tensors | {name: value}

    rewrite(folder, change)
    with pytest.raises(CheckpointError) as caught:
        flowstone.load(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_order_of_channels_that_is_none_is_not_loaded():
    convolution = InvertibleConv1x1(3)
    state = convolution.state_dict() | {"order": torch.tensor([0, 0, 2])}
    with pytest.raises(SettingError, match=r"order=\[0, 0, 2\] is not a permutation"):
        convolution.load_state_dict(state)


def test_a_turned_order_is_undone_by_its_own_inverse(saved):
    """Of two buffers that belong together, the second follows from the first."""
    folder, flow = saved
    old(folder)
    rewrite(folder, lambda tensors: {k: v.flip(0) if k.endswith("undo") else v for k, v in tensors.items()})
    x = torch.randn(3, 5)
    again = flowstone.load(folder)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))
    assert torch.equal(again.sample(3, seed=0), flow.sample(3, seed=0))


def test_weights_that_are_not_finite_are_not_saved(saved):
    folder, flow = saved
    x, before = torch.randn(3, 5), (folder / "flow.json").read_bytes()
    with torch.no_grad():
        next(flow.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"holds NaN or infinity: nothing is written"):
        flowstone.save(flow, folder)
    assert (folder / "flow.json").read_bytes() == before
    assert flowstone.load(folder).log_prob(x).isfinite().all()


@pytest.mark.parametrize("kill", range(1, 4))
def test_between_two_densities_a_folder_is_always_one_of_them(saved, monkeypatch, kill):
    folder, flow = saved
    other, x, renamed = flowstone.nice(5, hidden=(8,)), torch.randn(3, 5), 0
    disturb(other)

    def count(*args):
        nonlocal renamed
        renamed += 1
        if renamed == kill:
            raise KeyboardInterrupt
        return replace(*args)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", count)
    with pytest.raises(KeyboardInterrupt):
        flowstone.save(other, folder)
    assert torch.equal(flowstone.load(folder).log_prob(x), (flow, flow, other)[kill - 1].log_prob(x))


def test_any_damage_is_one_line_or_changes_nothing(tmp_path):
    damage = Damage(tmp_path, random.Random(1))
    outcomes = Counter(damage.once()[1] for _ in range(200))
    assert set(outcomes) == {"refused", "same"}
    assert outcomes["refused"] > 150


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


def test_of_two_states_the_one_before_stays(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, TrainingState(step, tensors={"raw": [torch.full((2,), float(step))]}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous.safetensors", "state.safetensors"]
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 3
    content = bytearray((tmp_path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "state.safetensors").write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=r"damaged: its digest .* goes on from .*previous.safetensors, step 2"):
        state = load_state(tmp_path)
    assert state is not None
    assert state.step == 2
    (tmp_path / "state.safetensors").unlink()  # killed between the two renamings
    state = load_state(tmp_path)
    assert state is not None
    assert (state.step, state.tensors["raw"][0].tolist()) == (2, [2.0, 2.0])
