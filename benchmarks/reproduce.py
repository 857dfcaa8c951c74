"""Run the 2-D experiments of five tutorials on normalizing flows again: docs/reproductions.md and its pictures.

Every figure in that page comes from one run of this script, on one thread, seed 0:

    python benchmarks/reproduce.py [--data-dir FOLDER] [--quick]

``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``tables/power-plant.parquet`` and
``tables/wine-quality-red.parquet`` (UCI); without it the two tables are left out and the page says so. ``--quick``
takes a twentieth of the steps and writes to a temporary folder: it shows that everything runs.
"""

import argparse
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import flowstone
from flowstone import plot
from flowstone.data import TOYS, open_source
from flowstone.flow import Flow
from flowstone.recipes import DEFAULT, build
from flowstone.train.history import History
from measure import machine

TEST = 30_000
DOCS = Path(__file__).parents[1] / "docs"


@dataclass
class Experiment:
    """One training: the document's setting, or our default on the same data."""

    document: str
    label: str
    toy: str
    recipe: str = DEFAULT
    arguments: dict[str, Any] = field(default_factory=dict)
    points: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass
class Outcome:
    """The trained flow, how its training went, and its figures on the test points."""

    experiment: Experiment
    flow: Flow
    history: History
    figures: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.history.records[-1].seconds

    @property
    def steps(self) -> int:
        return self.history.records[-1].step


PLAIN = {"schedule": "constant", "warmup": 0.0, "ema": 0.0, "clip": 1e9, "patience": None}  # as tutorials train


def experiments() -> list[Experiment]:
    """All trainings, in the order of the page."""
    nets = {"couplings": 6, "separate_nets": True}
    result = [
        Experiment(
            "000", "RealNVP, 6 couplings, s and t nets of 5 layers, 256 wide", "moons", "realnvp",
            nets | {"hidden": (256,) * 4}, training=PLAIN | {"steps": 500, "lr": 1e-3},
            note="fresh points, batch 512; 500 of the document's 3000 steps",
        ),
        Experiment(
            "003", "RealNVP, 6 couplings, s and t nets 128 wide", "moons", "realnvp",
            nets | {"hidden": (128, 128)}, 3000, PLAIN | {"steps": 600, "lr": 1e-3, "batch_size": 3000},
            "fixed 3000 points, full batch; 600 of the document's 10,000 steps",
        ),
        Experiment("003", f"{DEFAULT} (default)", "moons", points=3000, note="fixed 3000 points"),
    ]  # fmt: skip
    for toy in ("circles", "moons", "spirals"):
        for title, recipe in (("NICE", "nice"), ("RealNVP", "realnvp")):
            result.append(
                Experiment(
                    "002", title, toy, recipe, {"couplings": 6}, training={"steps": 1000},
                    note="the document gives no sizes: our recipe, 6 couplings of 128 x 128, 1000 steps",
                )
            )  # fmt: skip
    result += [
        Experiment(
            "001", "RealNVP, learned scale, rate 5e-4", toy, "realnvp", nets | {"hidden": (64, 64)},
            training=PLAIN | {"steps": 1000, "lr": 5e-4},
            note="the document gives no sizes: 6 couplings of 64 x 64, 1000 steps",
        )
        for toy in ("moons", "circles", "blobs", "uniform")
    ]  # fmt: skip
    leaky = {"couplings": 4, "hidden": (32,), "activation": "tanh", "leaky_relu": True}
    result += [
        Experiment(
            "004", "coupling + LeakyReLU, tanh nets of one layer", "banana", "realnvp", leaky, 1024,
            {"steps": 3000, "lr": 3e-3, "batch_size": 1024, "schedule": "constant", "patience": 8,
             "validate_every": 50},
            "fixed 1024 points, full batch, patience; the document trains 50,000 steps at rate 1e-4",
        ),
        Experiment("004", f"{DEFAULT} (default)", "banana", points=1024, note="fixed 1024 points"),
    ]  # fmt: skip
    toys = ("moons", "circles", "spirals", "blobs", "uniform", "banana")
    result += [Experiment("default", f"{DEFAULT} (default)", toy, note="fresh points, all defaults") for toy in toys]
    return result


@cache
def true_nll(toy: str) -> float:
    """The NLL of the true density on the test points."""
    return -TOYS[toy].log_prob(open_source(toy).test.x[:TEST]).mean().item()


def run(experiment: Experiment, shrink: float) -> Outcome:
    """Train the flow and evaluate it on the test points."""
    dataset = open_source(experiment.toy, points=experiment.points)
    torch.manual_seed(0)
    flow = build(experiment.recipe, {"features": 2, **experiment.arguments})
    training = dict(experiment.training)
    training["steps"] = max(20, int(training.get("steps", 3000) * shrink))
    data = dataset.train if callable(dataset.train) else dataset.train.x
    history = flowstone.fit(flow, data, validation=dataset.validation.x, progress=False, **training)
    figures = flowstone.evaluate(flow.eval(), dataset.test.x[:TEST])
    figures["floor"] = true_nll(experiment.toy)
    around = torch.cat((dataset.test.x[:TEST], flow.sample(TEST, seed=0)))  # a bad fit has mass where there are no data
    low, high = (tuple(edge.tolist()) for edge in (around.amin(0) - 0.5, around.amax(0) + 0.5))
    figures["integral"] = flowstone.grid_integral(flow, low, high, points=600)
    print(
        f"{experiment.document} {experiment.toy} {experiment.label}: {figures['nll_nats']:.4f} nats, "
        f"{history.records[-1].step} steps, {history.records[-1].seconds:.1f} s, integral {figures['integral']:.4f}",
        flush=True,
    )
    return Outcome(experiment, flow, history, figures)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_points(toy: str) -> Tensor:
    return TOYS[toy](6000, torch.Generator().manual_seed(1234))


def grid_of_flows(rows: dict[str, dict[str, Outcome]], *, density: bool) -> Figure:
    """A row a toy; the data, then each flow: samples, or density with samples."""
    columns = len(next(iter(rows.values())))
    figure, axes = plot.new_figure(len(rows), 1 + columns, (3.1 * (1 + columns), 3.2 * len(rows)))
    for (toy, outcomes), line in zip(rows.items(), axes, strict=True):
        x = test_points(toy)
        limits = plot.limits_of(x)
        peak = TOYS[toy].log_prob(x[:3000]).exp().quantile(0.98).item()
        plot.points(x, line[0], color=plot.DATA, title=f"{toy} (entropy {TOYS[toy].entropy:.3f})", limits=limits)
        for (label, outcome), ax in zip(outcomes.items(), line[1:], strict=True):
            samples = outcome.flow.sample(4000, seed=0)
            title = f"{label}: {outcome.figures['nll_nats']:.3f} nats"
            if density:
                plot.density(outcome.flow, ax, limits=limits, samples=samples[:300], peak=peak, grid=200)
                ax.set_title(title)
            else:
                plot.points(samples, ax, color=plot.SAMPLES, title=title, limits=limits)
    return figure


def pictures(outcomes: dict[tuple[str, str, str], Outcome], images: Path) -> None:
    """All pictures of the page."""

    def one(document: str, toy: str, start: str = "") -> Outcome:
        return next(o for (d, t, label), o in outcomes.items() if (d, t) == (document, toy) and label.startswith(start))

    moons = test_points("moons")
    for name, outcome in (("000-realnvp", one("000", "moons")), ("000-default", one("default", "moons"))):
        plot.save_figure(plot.data_latent_samples(outcome.flow, moons), images / f"{name}.png")
    fixed = {"as in the document": one("003", "moons", "RealNVP"), "default": one("003", "moons", DEFAULT)}
    plot.save_figure(grid_of_flows({"moons": fixed}, density=False), images / "003.png")
    rows = {
        toy: {"NICE": one("002", toy, "NICE"), "RealNVP": one("002", toy, "RealNVP"), "default": one("default", toy)}
        for toy in ("circles", "moons", "spirals")
    }
    plot.save_figure(grid_of_flows(rows, density=True), images / "002.png")
    rows = {
        toy: {"as in the document": one("001", toy), "default": one("default", toy)}
        for toy in ("moons", "circles", "blobs", "uniform")
    }
    plot.save_figure(grid_of_flows(rows, density=False), images / "001.png")
    banana = one("004", "banana", "coupling")
    plot.save_figure(plot.layers(banana.flow, test_points("banana"), most=7), images / "004-layers.png")
    figure, axes = plot.new_figure(1, 1, (6.4, 4.0))
    plot.loss_curve(banana.history, axes[0, 0], entropy=TOYS["banana"].entropy)
    plot.save_figure(figure, images / "004-loss.png")


# --- tables -----------------------------------------------------------------------------------------------------------

TABLES = ("power-plant", "wine-quality-red")


def best_mixture(train: np.ndarray, validation: np.ndarray, shrink: float):
    """scikit-learn's full-covariance mixture with 1 to 20 components, chosen on validation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [
            GaussianMixture(count, covariance_type="full", random_state=0).fit(train)
            for count in range(1, max(3, int(20 * min(1, shrink * 2))) + 1)
        ]
    return max(fitted, key=lambda mixture: mixture.score(validation))


def compare(path: Path, images: Path, shrink: float) -> dict[str, Any]:
    """Our default against the best mixture: the same split, the same noise; the mixture sees standardised columns."""
    dataset = open_source(str(path))
    assert not callable(dataset.train)
    torch.manual_seed(0)
    flow = build(DEFAULT, {"features": len(dataset.columns)})
    history = flowstone.fit(
        flow, dataset.train.x, validation=dataset.validation.x, progress=False, steps=max(20, int(3000 * shrink))
    )
    figures = flowstone.evaluate(flow.eval(), dataset.test.x)
    train, validation, test = (part.x.numpy() for part in (dataset.train, dataset.validation, dataset.test))
    mean, std = train.mean(0), train.std(0)
    started = time.monotonic()
    mixture = best_mixture((train - mean) / std, (validation - mean) / std, shrink)
    scores = -mixture.score_samples((test - mean) / std) + np.log(std).sum()
    with torch.no_grad():
        gain = scores + flow.log_prob(dataset.test.x).double().numpy()
    samples = flow.sample(2000, seed=0)
    plot.save_figure(plot.pair_plot(dataset.train.x.float(), samples, dataset.columns), images / f"{path.stem}.png")
    row = {
        "table": path.stem,
        "rows": len(train) + len(validation) + len(test),
        "columns": len(dataset.columns),
        "flow": figures["nll_nats"],
        "flow_error": figures["nll_stderr"],
        "flow_seconds": history.records[-1].seconds,
        "steps": f"{history.best.step} of {history.records[-1].step}",
        "mixture": scores.mean(),
        "mixture_error": scores.std() / np.sqrt(len(scores)),
        "gain": gain.mean(),
        "gain_error": gain.std() / np.sqrt(len(gain)),
        "components": mixture.n_components,
        "mixture_seconds": time.monotonic() - started,
        "noise": dataset.description["noise"],
    }
    print(f"{path.stem}: flow {row['flow']:.4f}, mixture {row['mixture']:.4f} ({mixture.n_components})", flush=True)
    return row


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
Five tutorials train small flows on points in the plane. Here each is trained again with the document's settings, and
with Flowstone's default. `make reproduce` makes this page: {minutes:.0f} minutes, {machine}; one thread; seed 0.

Toys are standardised by their exact moments. NLL is the mean over {test:,} test points ± its standard error. All flows
on a toy are evaluated on the same points, and so is the *true density*: no flow can be expected to have a lower NLL
than it has on them. *Integral* is the density summed over a grid of 600 x 600 points, which covers test points and
samples. *Round trip* is the largest |x − f⁻¹(f(x))|, in float32."""

TABLES_INTRODUCTION = """\
## Real tables: the default flow against the best Gaussian mixture

The same split (80/10/10, seed 0) and the same noise for both: uniform, on columns with repeated values, as wide as the
smallest gap and at most 5% of the deviation. The mixture is scikit-learn's, full covariance, 1 to 20 components chosen
on validation, fitted to standardised columns. Nats, in the units of the table; lower is better. *Gain* is the mean over
test rows of the difference, mixture minus flow, ± its standard error.
"""

SECTIONS: dict[str, tuple[str, str]] = {
    "000": (
        "000: RealNVP on fresh moons, seen as data, latent and samples",
        "As in the document:\n\n![RealNVP](images/000-realnvp.png)\n\n"
        "The default:\n\n![default](images/000-default.png)",
    ),
    "003": (
        "003: RealNVP on 3000 fixed points, with its round trip",
        "![Samples](images/003.png)\n\nA long training overfits a fixed set; the document trains to the end, the "
        "default keeps the weights that were best on held-out points.",
    ),
    "002": (
        "002: NICE and RealNVP on circles, moons and spirals",
        "![Densities](images/002.png)\n\nNICE keeps volume but for one scaling, and its prior is logistic.",
    ),
    "001": ("001: RealNVP on moons, circles, blobs and a uniform square", "![Samples](images/001.png)"),
    "004": (
        "004: couplings with LeakyReLU on the banana, layer by layer",
        "![Layers](images/004-layers.png)\n\nTraining stops when the held-out likelihood no longer improves:\n\n"
        "![Loss](images/004-loss.png)\n\nIts one-dimensional example is a page of its own: "
        "[change of variables](change-of-variables.md).",
    ),
}


def table_of(outcomes: list[Outcome]) -> str:
    header = "| data | flow | test NLL (nats) | entropy | true density | steps | seconds | round trip | integral |"
    return "\n".join([header, "|---|---|---|---|---|---|---|---|---|", *map(line_of, outcomes)])


def line_of(outcome: Outcome) -> str:
    what, figures, best = outcome.experiment, outcome.figures, outcome.history.best.step
    cells = (
        f"{what.toy}: {what.note}",
        what.label,
        f"{figures['nll_nats']:.4f} ± {figures['nll_stderr']:.4f}",
        f"{TOYS[what.toy].entropy:.4f}",
        f"{figures['floor']:.4f}",
        f"{outcome.steps}" + (f" (best {best})" if best != outcome.steps else ""),
        f"{outcome.seconds:.1f}",
        f"{figures['round_trip_max']:.1e}",
        f"{figures['integral']:.4f}",
    )
    return f"| {' | '.join(cells)} |"


def table_of_tables(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Left out: the two tables were not found (`--data-dir`)."
    header = "| table | size | default flow, test NLL | s | best step | best mixture | components | s | gain |"
    lines = [header, "|---|---|---|---|---|---|---|---|---|", *map(line_of_table, rows)]
    for row in rows:
        noise = ", ".join(f"{name} {width:.3g}" for name, width in row["noise"].items())
        lines += ["", f"Noise on {row['table']}, widths: {noise}.", "", f"![pairs](images/{row['table']}.png)"]
    return "\n".join(lines)


def line_of_table(row: dict[str, Any]) -> str:
    cells = (
        row["table"],
        f"{row['rows']} x {row['columns']}",
        f"**{row['flow']:.4f}** ± {row['flow_error']:.4f}",
        f"{row['flow_seconds']:.0f}",
        row["steps"],
        f"{row['mixture']:.4f} ± {row['mixture_error']:.4f}",
        f"{row['components']}",
        f"{row['mixture_seconds']:.0f}",
        f"{row['gain']:.4f} ± {row['gain_error']:.4f}",
    )
    return f"| {' | '.join(cells)} |"


def page(outcomes: dict[tuple[str, str, str], Outcome], tables: list[dict[str, Any]], seconds: float) -> str:
    parts = ["# Reproductions", "", INTRODUCTION.format(minutes=seconds / 60, machine=machine(), test=TEST), ""]
    for document, (title, images) in SECTIONS.items():
        mine = [o for (d, _, _), o in outcomes.items() if d == document]
        toys = {o.experiment.toy for o in mine}
        has_default = any(o.experiment.label.startswith(DEFAULT) for o in mine)
        defaults = [] if has_default else [o for (d, t, _), o in outcomes.items() if d == "default" and t in toys]
        parts += [f"## {title}", "", table_of(mine + defaults), "", images, ""]
    default = [o for (document, _, _), o in outcomes.items() if document == "default"]
    parts += [TABLES_INTRODUCTION, table_of_tables(tables), "", "## All toys with the default", "", table_of(default)]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FLOWSTONE_DATA"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    docs = Path(tempfile.mkdtemp()) if options.quick else DOCS
    shrink = 0.05 if options.quick else 1.0
    (docs / "images").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    outcomes = {(e.document, e.toy, e.label): run(e, shrink) for e in experiments()}
    folder = Path(options.data_dir or DOCS.parents[1] / "shared" / "data") / "tables"
    paths = [folder / f"{name}.parquet" for name in TABLES if (folder / f"{name}.parquet").exists()]
    tables = [compare(path, docs / "images", shrink) for path in paths]
    pictures(outcomes, docs / "images")
    (docs / "reproductions.md").write_text(page(outcomes, tables, time.monotonic() - started))
    print(f"wrote {docs / 'reproductions.md'} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
