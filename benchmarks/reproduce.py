"""Run the 2-D experiments of five tutorials on normalizing flows again: docs/reproductions.md and its pictures.

Every figure in that page comes from one run of this script, on one thread, seed 0:

    python benchmarks/reproduce.py [--data-dir FOLDER] [--runs FOLDER] [--quick]

``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``tables/power-plant.parquet`` and
``tables/wine-quality-red.parquet`` (UCI); without it the two tables are left out and the page says so. What was trained
is kept in ``--runs``, so that an interrupted run goes on where it was. Seconds are of processor time. ``--quick``
takes a twentieth of the steps and writes to a temporary folder: it shows that everything runs.
"""

import argparse
import json
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
    """One training: a tutorial's setting, or our default on the same data."""

    subject: str
    label: str
    toy: str
    recipe: str = DEFAULT
    arguments: dict[str, Any] = field(default_factory=dict)
    points: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.subject}-{self.toy}-{self.recipe}"


@dataclass
class Outcome:
    """The flow with the weights that were best on held-out points, and with those of the last step; how its training
    went, and its figures on the test points.
    """

    experiment: Experiment
    flow: Flow
    last: Flow
    history: History
    figures: dict[str, Any]

    @property
    def steps(self) -> int:
        return self.history.records[-1].step

    @property
    def cost(self) -> str:
        """Steps and seconds, for the titles of panels."""
        return f"{self.steps:,} steps, {self.figures['seconds']:.0f} s"


PLAIN = {"schedule": "constant", "warmup": 0.0, "ema": 0.0, "clip": 1e9, "patience": None}  # as tutorials train


def experiments() -> list[Experiment]:
    """All trainings, in the order of the page."""
    nets = {"couplings": 6, "separate_nets": True}
    result = [
        Experiment(
            "fresh-moons", "RealNVP, 6 couplings, s and t nets of 5 layers, 256 wide", "moons", "realnvp",
            nets | {"hidden": (256,) * 4}, training=PLAIN | {"steps": 3000, "lr": 1e-3},
            note="fresh points, batch 512, as in the tutorial",
        ),
        Experiment(
            "fixed-moons", "RealNVP, 6 couplings, s and t nets 128 wide", "moons", "realnvp",
            nets | {"hidden": (128, 128)}, 3000, PLAIN | {"steps": 10_000, "lr": 1e-3, "batch_size": 3000},
            "fixed 3000 points, full batch, as in the tutorial",
        ),
        Experiment("fixed-moons", f"{DEFAULT} (default)", "moons", points=3000, note="fixed 3000 points"),
    ]  # fmt: skip
    for toy in ("circles", "moons", "spirals"):
        for title, recipe in (("NICE", "nice"), ("RealNVP", "realnvp")):
            result.append(
                Experiment(
                    "nice-realnvp", title, toy, recipe, {"couplings": 6}, training={"steps": 1000},
                    note="the tutorial gives no sizes: our recipe, 6 couplings of 128 x 128, 1000 steps",
                )
            )  # fmt: skip
    result += [
        Experiment(
            "toys", "RealNVP, learned scale, rate 5e-4", toy, "realnvp", nets | {"hidden": (64, 64)},
            training=PLAIN | {"steps": 1000, "lr": 5e-4},
            note="the tutorial gives no sizes: 6 couplings of 64 x 64, 1000 steps",
        )
        for toy in ("moons", "circles", "blobs", "uniform")
    ]  # fmt: skip
    tanh = {"couplings": 4, "hidden": (32,), "activation": "tanh", "leaky_relu": True, "shift_first": True}
    result += [
        Experiment(
            "banana", "(x + t)·exp(s) couplings + LeakyReLU, tanh nets of one layer", "banana", "realnvp", tanh, 1024,
            PLAIN | {"steps": 50_000, "lr": 1e-4, "batch_size": 1024, "optimizer": "adamw", "weight_decay": 1e-4,
                     "patience": 50, "validate_every": 100},
            "fixed 1024 points, full batch, at most the 50,000 steps of the tutorial",
        ),
        Experiment("banana", f"{DEFAULT} (default)", "banana", points=1024, note="fixed 1024 points"),
    ]  # fmt: skip
    toys = ("moons", "circles", "spirals", "blobs", "uniform", "banana")
    result += [Experiment("default", f"{DEFAULT} (default)", toy, note="fresh points, all defaults") for toy in toys]
    return result


@cache
def true_nll(toy: str) -> float:
    """The NLL of the true density on the test points."""
    return -TOYS[toy].log_prob(open_source(toy).test.x[:TEST]).mean().item()


def run(experiment: Experiment, runs: Path, shrink: float) -> Outcome:
    """Train the flow and evaluate it on the test points, unless ``runs`` has it."""
    folder = runs / experiment.name
    if not (folder / "figures.json").exists():
        train(experiment, folder, shrink)
    best, last = flowstone.load(folder / "best"), flowstone.load(folder / "last")
    assert isinstance(best, Flow)
    assert isinstance(last, Flow)
    figures = json.loads((folder / "figures.json").read_text())
    return Outcome(experiment, best.eval(), last.eval(), History.load(folder / "history.csv"), figures)


def train(experiment: Experiment, folder: Path, shrink: float) -> None:
    """Train and evaluate, and write all of it to ``folder``."""
    dataset = open_source(experiment.toy, points=experiment.points)
    torch.manual_seed(0)
    flow = build(experiment.recipe, {"features": 2, **experiment.arguments})
    last = build(experiment.recipe, {"features": 2, **experiment.arguments})
    training = dict(experiment.training)
    training["steps"] = max(20, int(training.get("steps", 3000) * shrink))
    data = dataset.train if callable(dataset.train) else dataset.train.x

    clock = folder / "seconds.txt"
    spent, started = float(clock.read_text()) if clock.exists() else 0.0, time.process_time()

    def keep(density: flowstone.Density, _: History) -> None:
        last.load_state_dict(density.state_dict())
        clock.write_text(str(spent + time.process_time() - started))

    folder.mkdir(parents=True, exist_ok=True)
    settings = {"validation": dataset.validation.x, "resume": folder / "state", "progress": False, "watch": keep}
    history = flowstone.fit(flow, data, **settings, **training)
    if history.stopped in ("interrupted", "terminated"):
        raise SystemExit(f"{experiment.name} was stopped at step {history.records[-1].step}; the next run continues it")
    test = dataset.test.x[:TEST]
    figures = flowstone.evaluate(flow.eval(), test)
    figures["nll_last"] = flowstone.evaluate(last.eval(), test)["nll_nats"]
    figures["floor"], figures["seconds"] = true_nll(experiment.toy), float(clock.read_text())
    around = torch.cat((test, flow.sample(TEST, seed=0)))  # a bad fit has mass where there are no data
    low, high = (tuple(edge.tolist()) for edge in (around.amin(0) - 0.5, around.amax(0) + 0.5))
    figures["integral"] = flowstone.grid_integral(flow, low, high, points=600)
    flowstone.save(flow, folder / "best")
    flowstone.save(last, folder / "last")
    history.save(folder / "history.csv")
    (folder / "figures.json").write_text(json.dumps(figures))
    print(
        f"{experiment.name}: {figures['nll_nats']:.4f} nats, {history.records[-1].step} steps, "
        f"{figures['seconds']:.1f} s, integral {figures['integral']:.4f}",
        flush=True,
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_points(toy: str) -> Tensor:
    return TOYS[toy](6000, torch.Generator().manual_seed(1234))


def grid_of_flows(rows: dict[str, dict[str, tuple[Outcome, Flow]]], *, density: bool) -> Figure:
    """A row a toy; the data, then each flow: samples, or density with samples."""
    columns = len(next(iter(rows.values())))
    figure, axes = plot.new_figure(len(rows), 1 + columns, (3.3 * (1 + columns), 3.5 * len(rows)))
    for (toy, outcomes), line in zip(rows.items(), axes, strict=True):
        x = test_points(toy)
        limits = plot.limits_of(x)
        peak = TOYS[toy].log_prob(x[:3000]).exp().quantile(0.98).item()
        plot.points(x, line[0], color=plot.DATA, title=f"{toy} (entropy {TOYS[toy].entropy:.3f} nats)", limits=limits)
        for (label, (outcome, flow)), ax in zip(outcomes.items(), line[1:], strict=True):
            samples = flow.sample(4000, seed=0)
            nll = outcome.figures["nll_nats" if flow is outcome.flow else "nll_last"]
            if density:
                plot.density(flow, ax, limits=limits, samples=samples[:300], peak=peak, grid=200)
            else:
                plot.points(samples, ax, color=plot.SAMPLES, limits=limits)
            ax.set_title(f"{label}: {nll:.3f} nats\n{outcome.cost}")
    return figure


def with_cost(figure: Figure, outcome: Outcome) -> Figure:
    """Add steps and seconds to the titles of the panels that are not of the data alone."""
    for ax in figure.axes:
        if ax.get_title() and not ax.get_title().startswith("data"):
            ax.set_title(f"{ax.get_title()}\n{outcome.cost}", fontsize=ax.title.get_fontsize())
    return figure


def pictures(outcomes: dict[str, Outcome], images: Path) -> None:
    """All pictures of the page."""

    def one(subject: str, toy: str, label: str = "realnvp") -> Outcome:
        return outcomes[f"{subject}-{toy}-{label}"]

    def best(outcome: Outcome) -> tuple[Outcome, Flow]:
        return outcome, outcome.flow

    def default(toy: str) -> tuple[Outcome, Flow]:
        return best(one("default", toy, DEFAULT))

    moons = test_points("moons")
    for name, outcome in (("realnvp", one("fresh-moons", "moons")), ("default", default("moons")[0])):
        figure = plot.data_latent_samples(outcome.flow, moons)
        plot.save_figure(with_cost(figure, outcome), images / f"moons-{name}.png")
    fixed = one("fixed-moons", "moons")
    flows = {
        f"RealNVP, step {fixed.history.best.step:,}": best(fixed),
        "RealNVP, at the end": (fixed, fixed.last),
        "default": best(one("fixed-moons", "moons", DEFAULT)),
    }
    plot.save_figure(grid_of_flows({"moons": flows}, density=True), images / "moons-fixed.png")
    rows = {
        toy: {
            "NICE": best(one("nice-realnvp", toy, "nice")),
            "RealNVP": best(one("nice-realnvp", toy)),
            "default": default(toy),
        }
        for toy in ("circles", "moons", "spirals")
    }
    plot.save_figure(grid_of_flows(rows, density=True), images / "nice-realnvp.png")
    rows = {
        toy: {"as in the tutorial": best(one("toys", toy)), "default": default(toy)}
        for toy in ("moons", "circles", "blobs", "uniform")
    }
    plot.save_figure(grid_of_flows(rows, density=False), images / "toys.png")
    banana = one("banana", "banana")
    figure = plot.layers(banana.flow, test_points("banana"), most=7)
    plot.save_figure(with_cost(figure, banana), images / "banana-layers.png")
    figure, axes = plot.new_figure(1, 1, (6.4, 4.4))
    plot.loss_curve(banana.history, axes[0, 0], entropy=TOYS["banana"].entropy)
    plot.save_figure(with_cost(figure, banana), images / "banana-loss.png")


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


def compare(path: Path, runs: Path, images: Path, shrink: float) -> dict[str, Any]:
    """Our default against the best mixture: the same split, the same noise; the mixture sees standardised columns."""
    kept = runs / f"{path.stem}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    dataset = open_source(str(path), mixed=False)
    assert not callable(dataset.train)
    torch.manual_seed(0)
    flow = build(DEFAULT, {"features": len(dataset.columns)})
    started = time.process_time()
    history = flowstone.fit(
        flow, dataset.train.x, validation=dataset.validation.x, progress=False, steps=max(20, int(3000 * shrink))
    )
    flow_seconds = time.process_time() - started
    figures = flowstone.evaluate(flow.eval(), dataset.test.x)
    train, validation, test = (part.x.numpy() for part in (dataset.train, dataset.validation, dataset.test))
    mean, std = train.mean(0), train.std(0)
    started = time.process_time()
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
        "flow_seconds": flow_seconds,
        "steps": f"{history.best.step} of {history.records[-1].step}",
        "mixture": scores.mean(),
        "mixture_error": scores.std() / np.sqrt(len(scores)),
        "gain": gain.mean(),
        "gain_error": gain.std() / np.sqrt(len(gain)),
        "components": mixture.n_components,
        "mixture_seconds": time.process_time() - started,
        "noise": dataset.description["noise"],
    }
    kept.write_text(json.dumps(row, default=float))
    print(f"{path.stem}: flow {row['flow']:.4f}, mixture {row['mixture']:.4f} ({mixture.n_components})", flush=True)
    return row


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
Five tutorials on the web train small flows on points in the plane. Here their trainings are done again with Flowstone,
with the sizes, learning rates and numbers of steps that each tutorial gives, and with Flowstone's default beside them.
[The tutorials](tutorials/index.md) of this project explain the same subjects. `make reproduce` makes this page.
Machine: {machine}; one thread; seed 0. Seconds are processor time of the training with its validations. Other work ran
on the two cores: a quiet machine takes less time, and the other figures do not depend on it.

Toys are standardised by their exact moments. *Test NLL* is the mean over {test:,} test points ± its standard error,
with the weights that were best on held-out points; *last* is the NLL with the weights of the last step, which the
tutorials keep. *Entropy* is that of the toy, in nats. All flows on a toy are evaluated on the same points, and so is
the *true density*, whose NLL on them is the lowest that a flow can be expected to reach. *Integral* is the density
summed over a grid of 600 x 600 points, which covers test points and samples. *Round trip* is the largest |x −
f⁻¹(f(x))|, in float32."""

TABLES_INTRODUCTION = """\
## Real tables: the default flow against the best Gaussian mixture

Flow and mixture have the same split (80/10/10, seed 0) and the same noise: columns with repeated values get uniform
noise as wide as the smallest difference between two values, and at most 5% of the standard deviation. The mixture is
scikit-learn's, with full covariances and 1 to 20 components chosen on validation, fitted to standardised columns. The
NLL is in nats, in the units of the table; lower is better. *s*: seconds of processor time. *Gain* is the mean over test
rows of the difference of the NLLs, mixture minus flow, ± its standard error.
"""

SECTIONS: dict[str, tuple[str, str]] = {
    "fresh-moons": (
        "RealNVP on two moons: data, latent, samples",
        "As in the tutorial:\n\n![Two moons, their latent and samples, by RealNVP](images/moons-realnvp.png)\n\n"
        "The default:\n\n![Two moons, their latent and samples, by the default flow](images/moons-default.png)",
    ),
    "fixed-moons": (
        "RealNVP on 3000 fixed points: round trip, and overfitting",
        "![Densities of the best weights, of the last ones, and of the default](images/moons-fixed.png)\n\nA long "
        "training overfits a fixed set. The tutorial takes the weights of the last step; the best are those that were "
        "best on held-out points.",
    ),
    "nice-realnvp": (
        "NICE and RealNVP on circles, moons and spirals",
        "![Densities](images/nice-realnvp.png)\n\nNICE changes volumes only by its last layer, a scaling; its prior is "
        "logistic.",
    ),
    "toys": ("RealNVP on moons, circles, blobs and a uniform square", "![Samples](images/toys.png)"),
    "banana": (
        "Couplings with LeakyReLU on the banana, layer by layer",
        "![The banana after each layer, and samples on their way back](images/banana-layers.png)\n\nTraining stops "
        "when the held-out likelihood no longer improves:\n\n![Loss](images/banana-loss.png)",
    ),
}


def table_of(outcomes: list[Outcome]) -> str:
    names = ("data", "flow", "test NLL (nats)", "last", "entropy", "true density", "steps", "seconds", "round trip")
    header = f"| {' | '.join(names)} | integral |"
    return "\n".join([header, "|---" * (len(names) + 1) + "|", *map(line_of, outcomes)])


def line_of(outcome: Outcome) -> str:
    what, figures, best = outcome.experiment, outcome.figures, outcome.history.best.step
    cells = (
        f"{what.toy}: {what.note}",
        what.label,
        f"{figures['nll_nats']:.4f} ± {figures['nll_stderr']:.4f}",
        f"{figures['nll_last']:.4f}",
        f"{TOYS[what.toy].entropy:.4f}",
        f"{figures['floor']:.4f}",
        f"{outcome.steps}" + (f" (best {best})" if best != outcome.steps else ""),
        f"{figures['seconds']:.1f}",
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


def page(outcomes: dict[str, Outcome], tables: list[dict[str, Any]]) -> str:
    parts = ["# Reproductions", "", INTRODUCTION.format(machine=machine(), test=TEST), ""]
    default = [outcome for outcome in outcomes.values() if outcome.experiment.subject == "default"]
    for subject, (title, images) in SECTIONS.items():
        mine = [outcome for outcome in outcomes.values() if outcome.experiment.subject == subject]
        toys = {outcome.experiment.toy for outcome in mine}
        has_default = any(outcome.experiment.recipe == DEFAULT for outcome in mine)
        beside = [] if has_default else [outcome for outcome in default if outcome.experiment.toy in toys]
        parts += [f"## {title}", "", table_of(mine + beside), "", images, ""]
    parts += [TABLES_INTRODUCTION, table_of_tables(tables), "", "## All toys with the default", "", table_of(default)]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FLOWSTONE_DATA"))
    parser.add_argument("--runs", type=Path, default=Path("runs/reproductions"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    docs = Path(tempfile.mkdtemp()) if options.quick else DOCS
    runs = docs / "runs" if options.quick else options.runs
    shrink = 0.05 if options.quick else 1.0
    for folder in (docs / "images", runs):
        folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    todo = experiments()
    done = {each.name: run(each, runs, shrink) for each in reversed(todo)}  # the longest are the first of the page
    outcomes = {each.name: done[each.name] for each in todo}
    folder = Path(options.data_dir or DOCS.parents[1] / "shared" / "data") / "tables"
    paths = [folder / f"{name}.parquet" for name in TABLES if (folder / f"{name}.parquet").exists()]
    tables = [compare(path, runs, docs / "images", shrink) for path in paths]
    pictures(outcomes, docs / "images")
    (docs / "reproductions.md").write_text(page(outcomes, tables))
    print(f"wrote {docs / 'reproductions.md'} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
