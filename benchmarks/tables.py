"""Density of real tables: the default recipe against Gaussian mixtures, nflows and zuko: docs/results.md.

    python benchmarks/tables.py [--data-dir FOLDER] [--seconds 20] [--splits 3] [--sets NAME,NAME] [--results FILE]

Every model gets the same rows (80/10/10 split by seed, the same dequantization, standardised by the training rows), the
same seconds on one thread, set-up included, and ``flowstone.fit`` as its training loop; the best on validation counts,
and the test part is used once. ``--data-dir`` (or FLOWSTONE_DATA) names a folder that holds ``tables/*.parquet``.
Outcomes are stored in ``--results``, one line each, so that an interrupted run continues where it stopped; the page is
written when no outcome is missing.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import flowstone
from flowstone.data import open_source, read_table
from flowstone.density import Density
from flowstone.recipes import DEFAULT, build
from measure import data_folder, machine, measured, write_section

MODELS = ("flowstone", "mixed", "nflows", "zuko", "mixture", "gaussian")
TRAINED = 4  # of them, by gradients
LEARNING_RATE = 5e-3  # the best for all flows of 1e-3, 3e-3 and 5e-3, on rows that are in no test part


@dataclass(frozen=True)
class Split:
    """One split of one table, standardised by its training rows; float64."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Outcome:
    """The result of one model on one split: nats a row in standardised units."""

    table: str
    split: int
    model: str
    rows: int
    columns: int
    mean: float
    median: float
    stderr: float
    validation: float
    steps: int
    parameters: int
    seconds: float
    settings: str = ""


def read_split(path: Path, seed: int) -> Split:
    """Columns that vary, dequantized and split as ``flowstone train`` does."""
    table = read_table(path)
    _, values = table.finite(table.columns, drop_missing=False)
    varying = [name for name, column in zip(table.columns, values.T, strict=True) if (column != column[0]).any()]
    data = open_source(str(path), seed=seed, columns=varying)
    assert not callable(data.train)
    mean, std = data.train.x.mean(0), data.train.x.std(0, correction=0)
    return Split(*((rows.x - mean) / std for rows in (data.train, data.validation, data.test)))


# --- models: each returns log p of the test rows, validation NLL, steps, parameters -----------------------------------

Result = tuple[Tensor, float, int, int]


class Peer(Density):
    """Another library's flow as a ``Density``, so that ``fit`` trains it as it trains ours; it draws no samples."""

    def __init__(self, features: int, module: nn.Module, log_prob: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(torch.Size((features,)))
        self.module, self.log_prob_of = module, log_prob

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Nothing in it depends on data."""

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        rows = x.float()
        parts = [rows] if torch.is_grad_enabled() else rows.split(2048)
        return torch.cat([self.log_prob_of(self.module, part) for part in parts])

    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        raise NotImplementedError

    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def nflows_rq(features: int) -> Peer:
    """RQ-NSF (C) as in the paper: LU mixing, residual nets, 8 bins, tail bound 3 (its authors' library)."""
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import ResidualNet
    from nflows.transforms import (
        CompositeTransform,
        LULinear,
        PiecewiseRationalQuadraticCouplingTransform,
        RandomPermutation,
    )

    def net(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=64, num_blocks=2)

    layers = []
    for index in range(6):
        mask = torch.tensor([(feature + index) % 2 for feature in range(features)])
        spline = PiecewiseRationalQuadraticCouplingTransform(mask, net, num_bins=8, tails="linear", tail_bound=3.0)
        layers += [RandomPermutation(features), LULinear(features, identity_init=True), spline]
    return Peer(
        features, Flow(CompositeTransform(layers), StandardNormal([features])), lambda flow, x: flow.log_prob(x)
    )  # pyright: ignore


def zuko_nsf(features: int) -> Peer:
    """NSF, autoregressive, as the library makes it: 3 transforms, hidden (64, 64), 8 bins."""
    import zuko

    return Peer(features, zuko.flows.NSF(features), lambda flow, x: flow().log_prob(x))


def trained(
    make: Callable[[int], Density], split: Split, seconds: float, seed: int, lr: float | None = LEARNING_RATE
) -> Result:
    """Trained by ``fit`` for so many seconds."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    flow = make(split.train.shape[1])
    flow.initialize(split.train)  # here, so that its time counts: fit starts its clock after that
    left = seconds - (time.perf_counter() - start)
    history = flowstone.fit(
        flow,
        split.train,
        validation=split.validation,
        steps=None,
        minutes=left / 60,
        lr=lr,
        patience=None,
        seed=seed,
        progress=False,
    )
    with torch.no_grad():
        log_prob = flow.log_prob(split.test)
    return log_prob, history.best.val_nll, history.records[-1].step, sum(p.numel() for p in flow.parameters())


def mixture(split: Split, seed: int) -> Result:
    """Full covariances, 1 to 20 components by validation (scikit-learn)."""
    from sklearn.mixture import GaussianMixture

    best, likeliest = None, -math.inf
    for components in range(1, 21):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not converged in 100 rounds: validation tells whether that matters
                model = GaussianMixture(components, random_state=seed).fit(split.train.numpy())
        except ValueError:  # more components than the rows can carry
            continue
        if (score := float(model.score(split.validation.numpy()))) > likeliest:
            best, likeliest = model, score
    assert best is not None
    features = split.train.shape[1]
    count = best.n_components * (1 + features + features**2)
    return torch.from_numpy(best.score_samples(split.test.numpy())), -likeliest, best.n_components, count


def gaussian(split: Split) -> Result:
    """Mean and covariance, a trace of ridge where it is singular."""
    features = split.train.shape[1]
    covariance = split.train.T.cov(correction=0) + 1e-12 * torch.eye(features)
    density = torch.distributions.MultivariateNormal(split.train.mean(0), covariance)
    return density.log_prob(split.test), -density.log_prob(split.validation).mean().item(), 0, features + features**2


def run(model: str, split: Split, seconds: float, seed: int) -> Result:
    """One model on one split."""
    if model == "mixture":
        return mixture(split, seed)
    if model == "gaussian":
        return gaussian(split)
    if model == "mixed":
        return trained(lambda features: build("mixed", {"features": features}), split, seconds, seed, lr=None)
    makers: dict[str, Callable[[int], Density]] = {
        "flowstone": lambda features: build(DEFAULT, {"features": features}),
        "nflows": nflows_rq,
        "zuko": zuko_nsf,
    }
    return trained(makers[model], split, seconds, seed)


def measure(path: Path, seed: int, model: str, seconds: float) -> Outcome:
    """Train the model and evaluate it on the test part."""
    split = read_split(path, seed)
    start = time.perf_counter()
    log_prob, validation, steps, parameters = run(model, split, seconds, seed)
    nll = -log_prob.double()
    return Outcome(
        table=path.stem,
        split=seed,
        model=model,
        rows=sum(len(part) for part in (split.train, split.validation, split.test)),
        columns=split.train.shape[1],
        mean=nll.mean().item(),
        median=nll.median().item(),
        stderr=(nll.std() / math.sqrt(len(nll))).item(),
        validation=validation,
        steps=steps,
        parameters=parameters,
        seconds=round(time.perf_counter() - start, 2),
        settings=settings(seconds),
    )


def settings(seconds: float) -> str:
    """What an outcome depends on besides model, table and split; outcomes of other settings are measured again."""
    return f"flowstone {flowstone.__version__}, {seconds:g} s, learning rate {LEARNING_RATE:g}"


# --- the page ---------------------------------------------------------------------------------------------------------


def page(outcomes: Sequence[Outcome], seconds: float) -> str:
    """The tables of docs/results.md."""
    tables = sorted({outcome.table for outcome in outcomes})
    by: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        by.setdefault((outcome.table, outcome.model), []).append(outcome)

    def mean(table: str, model: str, key: str = "mean") -> float:
        return float(np.mean([getattr(outcome, key) for outcome in by[table, model]]))

    splits = len(by[tables[0], MODELS[0]])
    head = ["set", "rows x columns", *MODELS]
    means, medians, steps = [], [], []
    for table in tables:
        first = by[table, MODELS[0]][0]
        best = min(MODELS, key=lambda model: mean(table, model))
        size = f"{first.rows} x {first.columns}"
        cells = []
        for model in MODELS:
            spread = float(np.sqrt(np.mean([outcome.stderr**2 for outcome in by[table, model]]) / splits))
            text = f"{_short(mean(table, model))} ± {_short(spread)}"
            cells.append(f"**{text}**" if model == best else text)
        means.append([table, size, *cells])
        medians.append([table, size, *(_short(mean(table, model, "median")) for model in MODELS)])
        steps.append([table, *(f"{mean(table, model, 'steps'):.0f}" for model in MODELS[:TRAINED])])
    wins = {model: sum(mean(table, "flowstone") < mean(table, model) for table in tables) for model in MODELS[1:]}
    ranks = {
        model: np.mean([1 + sum(mean(table, other) < mean(table, model) for other in MODELS) for table in tables])
        for model in MODELS
    }
    won = ", ".join(f"{model} on {count}" for model, count in wins.items())
    ranked = ", ".join(f"{model} {rank:.2f}" for model, rank in ranks.items())
    text = HEAD.format(splits=splits, seconds=seconds, machine=machine(), recipe=DEFAULT, lr=LEARNING_RATE)
    text += f"On the {len(tables)} sets, flowstone has a better mean than {won}.\n"
    text += f"Mean rank among the {len(MODELS)} models: {ranked}.\n"
    text += "\n### Mean\n\n" + _table(head, means)
    text += "\n### Median\n\nThe median over the test rows of a split, then the mean over splits. A row at 20,000 "
    text += "standard deviations has no influence on it.\n\n" + _table(head, medians)
    text += "\n### Steps taken\n\n" + _table(["set", *MODELS[:TRAINED]], steps)
    return text


HEAD = """## Density of real tables

    python benchmarks/tables.py

Each model learns the joint density of all columns, target included, of UCI regression tables. The tables below have the
NLL of the test part in nats a row, in standardised units; lower is better. It is the mean over {splits} seeded 80/10/10
splits ± the standard error over the test rows. Columns with repeated values are dequantized in the same way for all
models; columns that do not vary are left out. All models but *mixture* and *gaussian* train for {seconds:g} seconds,
set-up included, on one thread, in the same loop (`flowstone.fit`: Adam, cosine schedule, averaged weights, the weights
that are best on validation). Two such processes ran at once, each with half of the sets. Machine: {machine}.

- **flowstone**: the default recipe (`{recipe}`), the same settings for all sets.
- **mixed**: the density of mixed columns with its own learning rate; here all columns are numbers on the real line.
- **nflows**: RQ-NSF (C) as its paper has it: 6 couplings with LU mixing, residual nets of width 64, 8 bins.
- **zuko**: NSF as the library makes it: 3 autoregressive transforms, hidden (64, 64), 8 bins.
- **mixture**: scikit-learn's, full covariances, 1 to 20 components chosen on validation (no limit of time).
- **gaussian**: mean and covariance.

The learning rate is {lr:g} for all flows; of 1e-3, 3e-3 and 5e-3 it was the best for all three, on rows that are in no
test part.

"""


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--sets", default="")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/tables.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = data_folder(arguments.data_dir)
    paths = sorted((folder / "tables").glob("*.parquet"))
    if arguments.sets:
        paths = [path for path in paths if path.stem in arguments.sets.split(",")]
    if not paths:
        raise SystemExit(f"no tables/*.parquet in {folder}: give --data-dir")
    runs = {
        (path.stem, seed, model, settings(arguments.seconds)): partial(measure, path, seed, model, arguments.seconds)
        for seed in range(arguments.splits)
        for path in paths
        for model in MODELS
    }
    found = measured(arguments.results, Outcome, runs, lambda each: (each.table, each.split, each.model, each.settings))
    if not arguments.sets:
        write_section("tables", page(found, arguments.seconds))


if __name__ == "__main__":
    main()
