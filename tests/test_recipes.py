import importlib
import inspect
import itertools
import json
import math
import sys
import textwrap
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

import flowstone
from cases import disturb
from flowstone.bijections import Affine, BatchNorm, Chain, Coupling, Partial, Rescale, walk
from flowstone.errors import SettingError, UnknownNameError
from flowstone.evaluation import check
from flowstone.nets import ResConvNet
from flowstone.nets.resconv import NORMS
from flowstone.recipes import DEFAULT, RECIPES, build, recipe
from flowstone.recipes import __all__ as names
from flowstone.recipes.registry import RECIPES as REGISTRY
from flowstone.recipes.registry import all_recipes

EXACT = 1e-12
TAKES = {name: list(inspect.signature(function).parameters) for name, function in RECIPES.items()}
every_recipe = pytest.mark.parametrize(
    "name",
    [name for name in RECIPES if {"features", "hidden"} <= set(TAKES[name])],  # not those of other densities
)
every_image_recipe = pytest.mark.parametrize("name", [name for name in RECIPES if "event_shape" in TAKES[name]])
SMALL = {
    "glow": {"channels": 4, "couplings": 2, "scales": 2},
    "nice_image": {"hidden": (8,)},
    "realnvp_image": {"channels": 4, "blocks": 1},
}


def test_the_default_is_a_recipe():
    assert DEFAULT in RECIPES
    own = {name for name, made in RECIPES.items() if str(getattr(made, "__module__", "")).startswith("flowstone.")}
    assert own <= set(names)


@every_recipe
@pytest.mark.parametrize("features", [1, 2, 3, 11])
@pytest.mark.parametrize("context_features", [0, 2])
def test_a_flow_of_any_size_begins_near_the_identity(float64, name, features, context_features):
    """Spline flows begin exactly there; affine and additive couplings a little away, or they would stay for ever."""
    flow = build(name, {"features": features, "context_features": context_features, "hidden": (8,)})
    x = torch.randn(10, features)
    context = torch.randn(10, context_features) if context_features else None
    z, log_det = flow.to_latent(x, context)
    near = EXACT if name in ("spline", "maf_spline") else 10.0
    torch.testing.assert_close(z, x, atol=near, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(10), atol=near, rtol=0)
    if near > EXACT:
        assert not torch.equal(z, x)


@every_recipe
def test_shared_arguments_have_the_same_names(name):
    parameters = inspect.signature(RECIPES[name]).parameters
    assert list(parameters)[:2] == ["features", "context_features"]
    assert {"hidden", "prior"} <= set(parameters)
    assert ("couplings" in parameters) != ("layers" in parameters)  # layers where they are no couplings
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[1:])


@every_recipe
def test_spec_is_plain_and_builds_the_same_flow(name):
    flow = build(name, {"features": 4, "hidden": (8, 8)})
    assert flow.spec is not None
    spec = json.loads(json.dumps(flow.spec))
    again = build(spec["recipe"], spec["arguments"])
    assert [p.shape for p in again.parameters()] == [p.shape for p in flow.parameters()]


@every_recipe
@pytest.mark.parametrize("seed", range(4))  # whatever the permutations
def test_every_feature_comes_to_depend_on_every_other(float64, name, seed):
    torch.manual_seed(seed)
    count = {key: 4 for key in ("couplings", "layers") if key in inspect.signature(RECIPES[name]).parameters}
    flow = build(name, {"features": 5, "hidden": (16,), **count})
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    jacobian = vmap(jacrev(lambda v: flow.to_latent(v[None])[0][0]))(torch.randn(16, 5))
    assert (jacobian != 0).any(0).all()  # at one point alone a ReLU may be off


def of_images(name: str, shape: tuple[int, ...], **settings) -> flowstone.Flow:
    return build(name, {"event_shape": shape, **SMALL[name], **settings})


@every_image_recipe
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 6)])
@pytest.mark.parametrize("context_features", [0, 2])
def test_images_of_any_size_come_back_exactly(float64, name, shape, context_features):
    torch.manual_seed(0)
    flow = of_images(name, shape, context_features=context_features)
    disturb(flow, 0.1)
    x = torch.randint(256, (7, *shape), dtype=torch.uint8)
    context = torch.randn(7, context_features) if context_features else None
    flow.initialize(x, context)
    flow.eval()
    z, log_det = flow.to_latent(x, context)
    assert torch.equal(flow.from_latent(z, context)[0].to(torch.uint8), x)
    assert log_det.isfinite().all()
    samples = flow.sample(3, context, seed=0)
    assert samples.shape[-3:] == shape
    assert bool(((samples >= 0) & (samples <= 255) & (samples == samples.round())).all())


@every_image_recipe
def test_pixels_that_no_image_has_have_no_density(name):
    flow = of_images(name, (1, 4, 4)).eval()
    x = torch.zeros(5, 1, 4, 4)
    x[1:, 0, 0, 0] = torch.tensor([-1.0, 256.0, math.inf, -math.inf])
    assert flow.log_prob(x).isfinite().tolist() == [True, False, False, False, False]
    assert flow.log_prob(x)[1:].tolist() == [-math.inf] * 4
    assert flow.log_prob(x[:0]).shape == (0,)
    x[0, 0, 1, 2] = math.nan
    assert flow.log_prob(x)[0].isnan()


@pytest.mark.filterwarnings("ignore:var_mean.*degrees of freedom")  # torch's, of no images
@pytest.mark.parametrize("norm", NORMS)
def test_nets_of_every_norm_take_images_of_one_pixel_and_no_images(float64, norm):
    net = ResConvNet(2, 3, hidden=8, blocks=1, norm=norm)
    disturb(net)
    pixel, wide = torch.randn(6, 2, 1, 1), torch.randn(6, 2, 2, 2)
    for x in (pixel, wide):
        net.train()(x).sum().backward()
        assert net.eval()(x[:0]).shape == (0, 3, *x.shape[2:])
    if norm == "instance":
        torch.testing.assert_close(net(pixel), net(pixel + 1))  # the norm takes the mean away


@every_image_recipe
def test_spec_of_images_is_plain_and_builds_the_same_flow(name):
    flow = of_images(name, (1, 4, 4))
    spec = json.loads(json.dumps(flow.spec))
    again = build(spec["recipe"], spec["arguments"])
    assert [p.shape for p in again.parameters()] == [p.shape for p in flow.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "faithful"},
        {"preset": "faithful", "alpha": None, "norm": "instance", "flow_norm": "none"},
        {"preset": "faithful", "norm": "group", "weight_norm": False, "flow_norm": "actnorm"},
        {"net": "residual", "norm": "layer", "transform": "mixture", "bins": 3},
        {"masked": True, "transform": "spline", "split_prior": False},
        {"scales": 1, "couplings": 1, "flow_norm": "batch"},
        {"noise": "variational", "couplings": 3},
    ],
)
def test_what_realnvp_image_offers_can_be_chosen(settings):
    torch.manual_seed(0)
    flow = of_images("realnvp_image", (2, 4, 8), **{"couplings": 1} | settings)
    x = torch.randint(256, (12, 2, 4, 8), dtype=torch.uint8)
    flow.initialize(x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    diagnosis = check(flow, x)
    assert diagnosis.ok, diagnosis.findings


@pytest.mark.parametrize(
    "settings",
    [
        {"separate_nets": True},
        {"scale": "soft"},
        {"leaky_relu": True},
        {"shift_first": True},
        {"batch_norm": True},
        {"prior": "logistic"},
        {"couplings": 2, "hidden": (8, 8, 8, 8), "activation": "tanh"},
        {"shuffle": False},
    ],
)
def test_what_the_tutorials_vary_can_be_varied(settings):
    flow = flowstone.realnvp(3, **settings)
    x = torch.randn(6, 3)
    torch.testing.assert_close(flow.from_latent(flow.to_latent(x)[0])[0], x, atol=1e-5, rtol=0)


def test_either_form_of_the_coupling_is_trained_to_the_same_density(float64):
    """(x + t) e^s and x e^s + t are the same maps: t of one is t e^s of the other."""
    s, t = 0.3, -0.7
    x = torch.linspace(-2, 2, 9)[:, None]
    one, other = Affine(1, scale="soft"), Affine(1, scale="soft", shift_first=True)
    raw = torch.full((9, 1), 6 / math.pi * math.tan(math.pi * s / 6))  # the soft clamp of it is s
    moved, log_slope = one(x, torch.stack((raw, torch.full_like(x, t)), -1))
    again, same_slope = other(x, torch.stack((raw, torch.full_like(x, t * math.exp(-s))), -1))
    torch.testing.assert_close(moved, x * math.exp(s) + t)
    torch.testing.assert_close(again, moved)
    torch.testing.assert_close(same_slope, log_slope)


@pytest.mark.parametrize(
    ("flow", "couplings"),
    [
        (flowstone.realnvp(5, couplings=4, hidden=(8,), batch_norm=True), 4),
        (flowstone.realnvp_image((1, 4, 4), preset="faithful", scales=2, couplings=3, channels=4, blocks=1), 10),
    ],
    ids=["realnvp", "realnvp_image"],
)
def test_batch_norm_follows_every_coupling_on_what_it_changed(flow, couplings):
    chains = [module for module in flow.modules() if isinstance(module, Chain)]
    pairs = [
        pair for chain in chains for pair in itertools.pairwise(chain.sublayers()) if isinstance(pair[0], Coupling)
    ]
    for coupling, after in pairs:
        assert isinstance(after, Partial)
        assert after.swap == coupling.swap
        assert isinstance(after.bijection, BatchNorm)
    assert len(pairs) == couplings


@pytest.mark.parametrize("name", ["glow", "realnvp_image"])
@pytest.mark.parametrize("alpha", ["none", None])
def test_images_can_be_learned_without_a_logit(name, alpha, tmp_path):
    """None has always been 0.05 for glow, whose run folders keep it."""
    flow = of_images(name, (1, 4, 4), alpha=alpha)
    scaled = [isinstance(layer, Rescale) for layer in walk(flow.bijection)]
    assert any(scaled) == (name == "realnvp_image" or alpha == "none")
    flowstone.save(flow, tmp_path)
    again, x = flowstone.load(tmp_path), torch.randint(256, (5, 1, 4, 4))
    scores = []
    for each in (flow, again):
        torch.manual_seed(0)  # of the noise
        scores.append(each.log_prob(x))
    assert torch.equal(*scores)


def test_separate_nets_are_two_nets():
    one, two = flowstone.realnvp(2, hidden=(8,)), flowstone.realnvp(2, hidden=(8,), separate_nets=True)
    assert sum(p.numel() for p in two.parameters()) > sum(p.numel() for p in one.parameters())


def test_wrong_names_and_values_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'spline'"):
        build("splin", {"features": 2})
    with pytest.raises(UnknownNameError, match="did you mean 'couplings'"):
        build("nice", {"features": 2, "coupling": 3})
    with pytest.raises(SettingError, match="couplings=0"):
        build("nice", {"features": 2, "couplings": 0})
    for setting, least in (("scales", 1), ("couplings", 1), ("channels", 1), ("blocks", 0)):
        with pytest.raises(SettingError, match=f"{setting}={least - 1} must be a whole number, at least {least}"):
            of_images("realnvp_image", (1, 4, 4), **{setting: least - 1})
    with pytest.raises(SettingError, match="channels=0 must be a whole number, at least 1"):
        of_images("glow", (1, 4, 4), channels=0)
    with pytest.raises(SettingError, match=r"hidden=\(-3,\)"):
        build("nice", {"features": 2, "hidden": -3})
    with pytest.raises(UnknownNameError, match="did you mean 'modern'"):
        of_images("realnvp_image", (1, 4, 4), preset="moder")
    with pytest.raises(SettingError, match="wants an even height and width"):
        of_images("realnvp_image", (1, 5, 4), noise="variational")
    with pytest.raises(SettingError, match=r"alpha='off': wanted a number from 0 to below 0\.5, or none"):
        of_images("realnvp_image", (1, 4, 4), alpha="off")
    for name in ("realnvp_image", "glow"):
        for setting in ({"scales": 1.5}, {"channels": 0}, {"channels": "a"}, {"couplings": 0}):
            ((key, value),) = setting.items()
            with pytest.raises(SettingError, match=f"^{key}={value!r} must be a whole number, at least 1$"):
                build(name, {"event_shape": (1, 4, 4), **setting})
    with pytest.raises(SettingError, match="scales=9: images of 4x4 would be padded to 512x512"):
        of_images("glow", (1, 4, 4), scales=9)
    for name, settings, message in (
        ("maf", {"layers": 1.5}, r"layers=1\.5 must be a whole number, at least 1"),
        ("maf_spline", {"bound": math.nan}, "bound=nan must be a finite number"),
        ("spline", {"whiten": "no"}, "whiten='no' must be a finite number"),
        ("mixed", {"width": 0}, "width=0 must be a whole number, at least 1"),
    ):
        with pytest.raises(SettingError, match=message):
            RECIPES[name](2, **settings)
    with pytest.raises(SettingError, match="blocks=-1 must be a whole number, at least 0"):
        of_images("realnvp_image", (1, 4, 4), blocks=-1)
    with pytest.raises(SettingError, match="channels, height, width"):
        flowstone.nice_image((4, 4))
    with pytest.raises(SettingError, match=r"hidden=.*images has no such setting"):
        flowstone.glow(event_shape=(1, 4, 4), hidden=(8,))
    with pytest.raises(SettingError, match="scales=2: glow for vectors has no such setting"):
        flowstone.glow(3, scales=2)
    with pytest.raises(UnknownNameError, match="'logistic'"):
        flowstone.nice(2, prior="logistc")
    with pytest.raises(UnknownNameError, match="'relu'"):
        flowstone.nice(2, activation="rely")


@every_recipe
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": 0}, "features=0 must be a whole number, at least 1"),
        ({"features": 1.5}, r"features=1\.5 must be"),
        ({"features": True}, "features=True must be"),
        ({"context_features": -1}, "context_features=-1 must be a whole number, at least 0"),
        ({"hidden": (8, 0)}, r"hidden=\(8, 0\) must be whole numbers, at least 1"),
        ({"hidden": (8, 1.5)}, r"hidden=\(8, 1\.5\) must be"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_every_recipe(name, settings, message):
    with pytest.raises(SettingError, match=message):
        RECIPES[name](**{"features": 2, "hidden": (8, 8)} | settings)


def test_what_is_true_or_false_is_nothing_else():
    """A word such as "no" would be true."""
    for name, taken in TAKES.items():
        function = RECIPES[name]
        flags = [key for key, one in inspect.signature(function).parameters.items() if "bool" in str(one.annotation)]
        shape = {"event_shape": (1, 4, 4)} if "event_shape" in taken else {"features": 2}
        for flag in flags:
            with pytest.raises(SettingError, match=f"{flag}='no' must be True or False"):
                function(**shape, **{flag: "no"})


def test_sizes_may_be_any_sequence():
    x = torch.zeros(2, 1, 4, 4)
    for name in ("glow", "realnvp_image"):
        assert of_images(name, x.shape[1:], scales=1).event_shape == (1, 4, 4)
    for hidden in (torch.Size((8, 8)), range(8, 9), np.array([8]), torch.tensor([8, 8]), [8], 8):
        assert build("nice", {"features": 2, "hidden": hidden}).spec["arguments"]["hidden"][0] == 8
    assert flowstone.glow(event_shape=(1, 1, 1)).event_shape == (1, 1, 1)  # padded


def test_arguments_of_recipes_elsewhere_are_theirs_but_for_the_common_ones():
    source = """
from __future__ import annotations
from collections.abc import Sequence
import flowstone

@flowstone.recipe
def elsewhere(
    features: int, *, layers: Sequence[int] = (8, 8), bound: float = float("inf"), couplings: int = 0,
    strides: Sequence[int] = (0,), hidden: Sequence[int] = (8,), swap: bool = False, **more: float,
) -> flowstone.Flow:
    return flowstone.nice(features, hidden=hidden)
"""
    module = types.ModuleType("elsewhere")
    sys.modules["elsewhere"] = module
    try:
        exec(compile(source, "elsewhere", "exec", dont_inherit=True), vars(module))
        make = REGISTRY["elsewhere"]
        arguments = make(2, hidden=16, strides=0, layers=(0, 0)).spec["arguments"]
        assert (arguments["hidden"], arguments["strides"], arguments["layers"]) == ((16,), (0,), (0, 0))
        for wrong in ({"swap": "no"}, {"features": 2.5}, {"hidden": 0}, {"couplings": -1}):
            with pytest.raises(SettingError, match=f"^{next(iter(wrong))}="):
                make(**{"features": 2} | wrong)
    finally:
        del sys.modules["elsewhere"]
        REGISTRY.pop("elsewhere", None)


@every_recipe
def test_numbers_of_numpy_are_numbers(name, tmp_path):
    sizes: dict[str, Any] = {"features": np.int64(3), "context_features": np.int64(2), "hidden": np.array([8, 8])}
    flow = RECIPES[name](**sizes)
    flowstone.save(flow, tmp_path)
    assert flowstone.load(tmp_path).spec == json.loads(json.dumps(flow.spec))
    assert flow.spec["arguments"]["hidden"] == [8, 8]
    assert RECIPES[name](3, hidden=np.int64(8)).spec["arguments"]["hidden"] == (8,)


def test_a_recipe_of_ones_own_is_known_by_name(tmp_path):
    @recipe
    def my_recipe(features: int, *, strength: int = 2) -> flowstone.Flow:
        return flowstone.nice(features, couplings=strength)

    try:
        flow = build("my_recipe", {"features": 3})
        assert flow.spec == {"recipe": "my_recipe", "arguments": {"features": 3, "strength": 2}}
        flowstone.save(flow, tmp_path)
        assert flowstone.load(tmp_path).spec == flow.spec
    finally:
        del REGISTRY["my_recipe"]


def test_a_recipe_of_an_installed_package_is_found(tmp_path, monkeypatch):
    package = tmp_path / "other_flows"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent("""
        import flowstone

        def tiny(features: int, *, context_features: int = 0) -> flowstone.Flow:
            return flowstone.nice(features, context_features=context_features, couplings=2, hidden=(4,))

        def nice(features: int, *, needed: int) -> flowstone.Flow:
            return flowstone.realnvp(features)
        """)
    )
    info = tmp_path / "other_flows-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-flows\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[flowstone.recipes]\nsmall-one = other_flows:tiny\nnice = other_flows:nice\nbroken = other_flows:missing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    all_recipes.cache_clear()
    try:
        ours = RECIPES["nice"]
        with pytest.warns(UserWarning, match="recipe") as warned:
            flow = build("small-one", {"features": 3})
        said = sorted(str(warning.message) for warning in warned)
        assert said[0].startswith("recipe 'broken' of other_flows:missing cannot be loaded")
        assert "recipe 'nice' is already registered" in said[1]
        assert RECIPES["nice"] is ours
        assert flow.spec == {"recipe": "small-one", "arguments": {"features": 3, "context_features": 0}}
        flowstone.save(flow, tmp_path / "run")
        assert flowstone.load(tmp_path / "run").spec == flow.spec
    finally:
        RECIPES.pop("small-one", None)
        sys.modules.pop("other_flows", None)
        all_recipes.cache_clear()


def test_glow_learns_images_and_gives_integers_back():
    torch.manual_seed(0)
    base = torch.randint(40, 200, (1, 1, 4, 4)).float()
    x = (base + 10 * torch.randn(600, 1, 4, 4)).round().clamp(0, 255)
    flow = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=16)
    history = flowstone.fit(flow, x, steps=100, batch_size=128, lr=0.01, progress=False)
    entropy = 16 * (math.log(10) + 0.5 * math.log(2 * math.pi * math.e))  # rounding hardly adds to it
    assert history.best.val_nll == pytest.approx(entropy, abs=1.5)
    back = flow.from_latent(flow.to_latent(x)[0])[0]
    assert (back == x).float().mean() > 0.999
    samples = flow.sample(50, seed=0)
    assert samples.shape == (50, 1, 4, 4)
    assert torch.equal(samples, samples.round())
    again = flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=16)
    flowstone.fit(again, x, steps=5, batch_size=128, progress=False)


def test_a_flow_that_draws_noise_trains_the_same_way_twice():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        flow = flowstone.glow(event_shape=(1, 2, 2), scales=1, couplings=1, channels=4)
        torch.manual_seed(len(results))  # whatever the global state is by then
        flowstone.fit(flow, torch.arange(400.0).reshape(100, 1, 2, 2) % 256, steps=8, progress=False)
        results.append(flow.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
