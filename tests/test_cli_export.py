"""flowstone export and export_onnx: files that give the density's own numbers, and what cannot be exported."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flowstone
from commands import flowstone as command
from commands import refused
from flowstone import export
from flowstone.errors import NonFiniteError, OutputError, SettingError, UnknownNameError
from flowstone.recipes import build

onnx = pytest.importorskip("onnx", reason="needs onnx, which writes ONNX files")
pytest.importorskip("onnxscript", reason="needs onnxscript, which writes ONNX files")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which runs ONNX files")

SMALL = {"couplings": 1, "hidden": (4,)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_images_take_their_noise_from_outside():
    flow = build("nice_image", {"event_shape": (1, 2, 2), **SMALL})
    flow.initialize(torch.randint(256, (50, 1, 2, 2)))
    inputs = export._inputs(flow.eval(), "log_prob", 6)
    assert {name: (tuple(x.shape), x.dtype) for name, x in inputs.items()} == {"x": ((6, 1, 2, 2), torch.float32)}
    x = torch.randint(256, (5, 1, 2, 2))
    torch.manual_seed(0)
    expected = flow.log_prob(x)
    torch.manual_seed(0)
    dequantized = flow.bijection.sublayers()[0](x)[0]
    torch.testing.assert_close(export._module(flow, "log_prob")(dequantized), expected)


class Different:
    """An onnxruntime whose numbers are off."""

    SessionOptions = onnxruntime.SessionOptions
    __spec__ = onnxruntime.__spec__

    def __init__(self, by: float, shape: tuple[int, ...] | None = None) -> None:
        self.by, self.shape = by, shape
        vars(self)["InferenceSession"] = self.open

    def open(self, content, options, providers):
        self.inner = onnxruntime.InferenceSession(content, options, providers=providers)
        return self

    def run(self, names, inputs):
        (output,) = self.inner.run(names, inputs)
        return [output + np.float32(self.by) if self.shape is None else np.zeros(self.shape, np.float32)]


@pytest.fixture
def written(monkeypatch):
    """A density whose samples are its latents, and a file of that in place of the exporter (see test_export.py)."""
    flow = build("gaussian_mixture", {"features": 2}).eval()
    shapes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in "zx"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["z"], ["x"])], "sampler", shapes[:1], shapes[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr(export, "_onnx", lambda *_: model.SerializeToString())
    return flow


def test_the_command_says_what_it_wrote_and_how_far_off_it_is(written, tmp_path, capsys):
    flowstone.save(written, tmp_path / "R")
    command("export", "R", "--out", "flow.onnx", "--part", "sample")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["input z: (batch, 2), float32", "output: x"]
    found = re.fullmatch(r"onnxruntime differs from the density by at most (\S+)", lines[2])
    assert found
    assert float(found[1]) < 1e-4
    z = np.ones((5, 2), np.float32)
    session = onnxruntime.InferenceSession("flow.onnx", providers=["CPUExecutionProvider"])
    assert (session.run(None, {"z": z})[0] == z).all()


@pytest.mark.parametrize(("by", "shape"), [(0.01, None), (float("nan"), None), (0.0, (4, 2))])
def test_a_file_that_says_something_else_is_not_left(written, tmp_path, monkeypatch, by, shape):
    monkeypatch.setitem(sys.modules, "onnxruntime", Different(by, shape))
    with pytest.raises(
        NonFiniteError, match=r"gaussian_mixture: onnxruntime differs from the density by .*: no file is written"
    ):
        flowstone.export_onnx(written, tmp_path / "x.onnx", part="sample")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_onnxruntime_cannot_run_is_said_in_a_line(written, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no implementation of Atan\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    said = r"^gaussian_mixture: onnxruntime cannot run it: no file is written \(no implementation of Atan\)$"
    with pytest.raises(SettingError, match=said):
        flowstone.export_onnx(written, tmp_path / "x.onnx", part="sample")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("part", ["log_prob", "sample"])
def test_a_spline_in_float64_has_a_form_in_onnx(part, tmp_path):
    flow = build("spline", {"features": 2, **SMALL}).double()
    flow.initialize(torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    exported = flowstone.export_onnx(flow, tmp_path / "x.onnx", part=part)
    assert exported.difference is not None
    assert exported.difference < 1e-6


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_functions_that_onnxruntime_lacks_in_float64_are_written_by_others():
    class Both(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.softplus(x), x.atan()

    x = torch.cat((torch.zeros(1), torch.logspace(-12, 12, 60))).double()
    x = torch.cat((-x, x))
    program = export.onnx_program(flowstone.nice(2, **SMALL).double(), Both(), {"x": x[:4]}, ["softplus", "atan"])
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    softplus, atan = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(softplus, np.logaddexp(0, x.numpy()), rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(atan, np.arctan(x.numpy()), rtol=1e-15)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_logarithm_of_the_gamma_function_of_students_t_has_a_form(dtype, exact):
    class LogGamma(torch.nn.Module):
        def forward(self, x):
            return torch.lgamma(x)

    x = torch.logspace(-2, 4, 60).to(dtype)
    program = export.onnx_program(flowstone.nice(2, **SMALL).to(dtype), LogGamma(), {"x": x[:4]}, ["y"])
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(found, x.lgamma(), rtol=exact, atol=exact)


def test_a_flow_with_students_t_as_its_prior_is_exported(tmp_path):
    flow = build("nice", {"features": 2, "prior": "student", **SMALL})
    exported = flowstone.export_onnx(flow, tmp_path / "x.onnx")
    assert exported.difference is not None
    assert exported.difference < 1e-4


def test_without_onnxruntime_the_file_is_written_and_not_compared(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else SimpleNamespace())
    flowstone.save(written, tmp_path / "R")
    command("export", "R", "--out", "x.onnx", "--part", "sample")
    assert "not compared with the density: onnxruntime is not installed" in capsys.readouterr().out
    assert (tmp_path / "x.onnx").exists()


def test_without_onnx_one_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"export needs onnx and onnxscript, .*: pip install 'flowstone\[export\]'"):
        flowstone.export_onnx(flowstone.nice(2), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("recipe", "arguments", "part", "said"),
    [
        ("blend", {"features": 2}, "sample", "blend draws samples in several steps: only its log_prob can be exported"),
        ("realnvp_image", {"event_shape": (1, 3, 3)}, "log_prob", "realnvp_image draws noise inside, so that its"),
        ("realnvp_image", {"event_shape": (1, 4, 4), "noise": "variational"}, "log_prob", "only sample can be"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(recipe, arguments, part, said, tmp_path):
    small = {} if recipe == "blend" else {"scales": 1, "couplings": 1, "channels": 2, "blocks": 1}
    with pytest.raises(SettingError, match=re.escape(said)):
        flowstone.export_onnx(build(recipe, arguments | small), tmp_path / "x.onnx", part=part)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["log_prob", "sample"])
def test_a_density_of_mixed_columns_is_refused_before_the_exporter_is_asked(part, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("the exporter was asked"))
    density = build("mixed", {"features": 2, "columns": None, "width": 4, "blocks": 1})
    with pytest.raises(SettingError, match=r"mixed has no form in ONNX: .*searchsorted"):
        flowstone.export_onnx(density, tmp_path / "x.onnx", part=part)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_a_density_of_mixed_columns_in_one_line(written, tmp_path, capsys, monkeypatch):
    flowstone.save(build("mixed", {"features": 2, "columns": None, "width": 4, "blocks": 1}), tmp_path / "M")
    said = refused(capsys, monkeypatch, "export", "M", "--out", "m.onnx")
    assert re.fullmatch(r"flowstone: mixed has no form in ONNX: .*", said)
    assert not (tmp_path / "m.onnx").exists()


def test_what_the_exporter_cannot_do_is_said_in_a_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("outer\nwith advice") from ValueError("no operator for searchsorted\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(SettingError) as raised:
        flowstone.export_onnx(flowstone.nice(2, **SMALL), tmp_path / "x.onnx")
    assert str(raised.value) == "nice has no form in ONNX (no operator for searchsorted)"
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_and_places_are_refused_before_anything_is_exported(written, tmp_path, capsys, monkeypatch):
    flowstone.save(written, tmp_path / "R")
    before = sorted(tmp_path.iterdir())
    assert "the name of an ONNX file ends in .onnx" in refused(capsys, monkeypatch, "export", "R", "--out", "x.pt")
    assert "X is not a run folder" in refused(capsys, monkeypatch, "export", "X", "--out", "x.onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'sample'"):
        flowstone.export_onnx(written, "x.onnx", part="samples")
    with pytest.raises(OutputError, match=r"cannot write gone.x\.onnx"):
        flowstone.export_onnx(written, "gone/x.onnx")
    assert sorted(tmp_path.iterdir()) == before
