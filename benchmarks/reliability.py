"""How exact every bijection of tests/cases.py is, in float64 and float32, untrained and trained: docs/reliability.md.

    PYTHONPATH=tests python -m mutation --out FILE
    python benchmarks/reliability.py --mutants FILE

Without ``--mutants`` the page has no table of mutants. Both run on one thread.
"""

import argparse
import copy
import importlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowstone.bijections import Bijection
from flowstone.testing import LAWS, Case, jacobian

ROOT = Path(__file__).parents[1]
SEED, STEPS, BATCH = 0, 300, 256
SEEDS, SPREADS = range(3), (0.1, 1.0, 3.0)
ROWS, JACOBIANS = 128, 16

Rows = tuple[Tensor, Tensor, Tensor | None]


class Figures(NamedTuple):
    """The largest errors: of a round trip, in parts of its largest number; of a log-det, in nats or parts of it."""

    round_trip: float = math.nan
    log_det: float = math.nan

    def worse(self, other: "Figures") -> "Figures":
        return Figures(*(b if math.isnan(a) else max(a, b) for a, b in zip(self, other, strict=True)))


def cast(rows: Rows, dtype: torch.dtype) -> Rows:
    x, z, context = rows
    return x.to(dtype), z.to(dtype), None if context is None else context.to(dtype)


def off(got: Tensor, wanted: Tensor, *scale: Tensor) -> float:
    return (got - wanted).abs().max().item() / max(1.0, *(part.abs().max().item() for part in scale))


def errors(bijection: Bijection, rows: Rows) -> Figures:
    """In the precision of ``rows``; what log-dets should be is computed in float64, from the same rows."""
    exact = copy.deepcopy(bijection).double()
    x, z, context = rows
    there, back = bijection.forward, bijection.inverse
    y = there(x, context)[0]
    worst = Figures(off(back(y, context)[0], x, x, y))
    if any(getattr(part, "stochastic", False) for part in bijection.modules()):
        return worst  # noise: no Jacobian, and only the way back is exact
    y = back(z, context)[0]
    worst = worst.worse(Figures(off(there(y, context)[0], z, z, y)))
    for name, value in (("forward", x), ("inverse", z)):
        few, given = value[:JACOBIANS], None if context is None else context[:JACOBIANS]
        slopes = jacobian(getattr(exact, name), few.double(), None if given is None else given.double())
        expected = torch.linalg.slogdet(slopes)[1]
        log_det = getattr(bijection, name)(few, given)[1].double()
        worst = worst.worse(Figures(log_det=off(log_det, expected, expected)))
    return worst


def in_both_precisions(bijection: Bijection, many: Iterable[Rows]) -> list[Figures]:
    """``bijection`` is in float32; the same weights and rows in float64 come first."""
    double, worst = copy.deepcopy(bijection).double(), [Figures(), Figures()]
    with torch.no_grad():
        for rows in many:
            # Both see the float32 numbers.
            single = cast(rows, torch.float32)
            worst[0] = worst[0].worse(errors(double, cast(single, torch.float64)))
            worst[1] = worst[1].worse(errors(bijection, single))
    return worst


def mixture(features: int, generator: torch.Generator) -> Callable[[int], Tensor]:
    """Two correlated normals in ``features`` dimensions."""
    centres = 2 * torch.randn(2, features, generator=generator) / features**0.5
    mixes = 0.3 * torch.eye(features) + torch.randn(2, features, features, generator=generator) / (2 * features**0.5)

    def draw(n: int) -> Tensor:
        which = torch.randint(2, (n,), generator=generator)
        noise = torch.randn(n, 1, features, generator=generator)
        return centres[which] + (noise @ mixes[which]).squeeze(1)

    return draw


def trained(case: Case) -> tuple[Bijection, list[Rows]] | None:
    """The case's bijection after some steps of maximum likelihood, and fresh rows; None: nothing to learn."""
    bijection = case.bijection()
    parameters = list(bijection.parameters())
    if not parameters:
        return None
    generator = torch.Generator().manual_seed(SEED)
    vectors = mixture(case.shape.numel(), generator)

    def draw(n: int) -> Tensor:
        return vectors(n).unflatten(1, case.shape) if case.data is None else case.data(n, generator, 1.0)

    def latents(n: int) -> Tensor:
        if case.latents is not None:
            return case.latents(n, generator, 1.0)
        return torch.randn(n, *bijection.latent_shape(case.shape), generator=generator)

    def given(n: int) -> Tensor | None:
        return torch.randn(n, case.context_features, generator=generator) if case.context_features else None

    adam = torch.optim.Adam(parameters, lr=3e-3)
    bijection.train()
    for _ in range(STEPS):
        z, log_det = bijection(draw(BATCH), given(BATCH))
        adam.zero_grad()
        (0.5 * z.flatten(1).square().sum(-1) - log_det).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        adam.step()
    rows = [(draw(ROWS), latents(ROWS), given(ROWS)) for _ in SEEDS]
    return bijection.eval(), rows


def line(name: str, case: Case) -> str:
    untrained = in_both_precisions(case.bijection(), (case.rows(ROWS, s, spread) for s in SEEDS for spread in SPREADS))
    after = trained(case)
    learned = in_both_precisions(*after) if after else [Figures(), Figures()]
    return f"| {name} | " + " | ".join(written(number) for each in (*untrained, *learned) for number in each) + " |"


def written(number: float) -> str:
    return "–" if math.isnan(number) else "0" if number == 0 else f"{number:.0e}"


def cases() -> list[str]:
    sys.path.insert(0, str(ROOT / "tests"))
    lines = []
    for name, case in importlib.import_module("cases").CASES.items():
        lines.append(line(name, case))
        print(lines[-1], flush=True)
    return lines


# --- the page ---------------------------------------------------------------------------------------------------------

MUTANTS = """
## Are the laws strict enough?

`make mutants` breaks the code on purpose, one small change at a time: a sign, a factor, a term, a comparison, an axis,
a bound of a slice, a clamp, a buffer that is not saved; what `forward` and `inverse` return is shifted by 1e-4, their
log-dets are multiplied by 1.01, by 0 and by −1. Each mutant is run by the quick laws over the cases that execute the
changed line, by checks of what docstrings promise (in `tests/mutation/`: formulas, bounds, starts, states, and a few
more cases) and by the examples in docstrings, until one fails. Left out are `traces_as_one_graph`, `measure_is_kept`
and `grid_sums_to_one`, which are slow. A mutant counts for the first check that notices it, and the order is fixed: a
law with a small count may notice many more.

{total} mutants, {caught} noticed, {equivalent} equivalent, {survivors} others; {seconds} s, torch {torch}.

| class, or module of helper functions | mutants | noticed | equivalent | others | first noticed by |
|---|---|---|---|---|---|
{classes}

Of those noticed, {by_laws} broke a law, {raised} raised an error in one of the checks, and {added} were first noticed
by an example or by what `tests/mutation/` adds to the laws: mostly changes after which forward, inverse and log-det
still agree with each other, but not with the docstring. Over all classes, the first checks to notice were: {laws}.

Equivalent means that the mutated code computes the same map, or that no user can notice the change. Each equivalent
mutant was looked at, and is listed in `tests/mutation/equivalent.py` with its reason; any other survivor makes
`make mutants` fail.

| where | original | mutated | why no check can tell |
|---|---|---|---|
{reasons}
"""


def counted(laws: dict[str, int]) -> str:
    return ", ".join(f"{law} {count}" for law, count in laws.items())


def code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def about_mutants(result: dict[str, Any]) -> str:
    classes = [
        f"| {owner} | {row['mutants']} | {row['caught']} | {row['equivalent']} | {len(row['survivors'])} "
        f"| {counted(row['laws'])} |"
        for owner, row in result["classes"].items()
    ]
    reasons = [
        f"| {owner}.{function} | {code(before)} | {code(after)} | {why} |"
        for owner, function, before, after, why in result["equivalent"]
    ]
    by_laws = sum(count for law, count in result["laws"].items() if law in LAWS)
    raised = result["laws"].get("an exception", 0)
    return MUTANTS.format(
        total=result["mutants"],
        caught=sum(row["caught"] for row in result["classes"].values()),
        equivalent=len(reasons),
        survivors=sum(len(row["survivors"]) for row in result["classes"].values()),
        seconds=result["seconds"],
        torch=result["torch"],
        classes="\n".join(classes),
        laws=counted(result["laws"]),
        by_laws=by_laws,
        raised=raised,
        added=sum(result["laws"].values()) - by_laws - raised,
        reasons="\n".join(reasons),
    )


PAGE = """\
# Reliability

Every bijection obeys the same laws, `flowstone.testing.LAWS`: its two directions undo each other, its log-dets cancel
and are those of the Jacobian that automatic differentiation finds, rows do not mix, gradients are finite near and far,
a saved bijection loads as it was, its parameters and results follow a change of precision or device, and the density
that it makes integrates to one. They run on generated inputs, in float64, over every case in `tests/cases.py`;
`make laws` runs them, and `flowstone.testing.check` runs them over a bijection of your own.
{mutants}
## How exact it is

The table has the largest errors that were found in each case. *Round trip*: x → z → x and z → x → z, relative to the
largest number on the way. *Log-det*: against the Jacobian by automatic differentiation, in nats, or relative to the
largest log-det where that is above 1. *As it is*: with random weights far from where a training starts, as in the
tests, on {rows} rows for each of {seeds} seeds and for each of the spreads {spreads} of the rows (Jacobians on
{jacobians} rows each); for a bounded domain the rows are drawn from that domain. *Trained*: after {steps} steps of Adam
from these weights, by the likelihood of a mixture of two correlated normals under a standard normal prior, on fresh
rows of the mixture and of the prior; only where there is something to learn and x can be any vector.

The errors in float64 are rounding alone. Those in float32 come from the same weights and the same rows, and their
log-dets are compared with those in float64. They are rounding, too, multiplied by how much the map stretches: numbers
that are pressed together a thousandfold on their way lose three digits. The same holds for bounded domains (*Logit*,
*Interval*, *Positive*): the image of a latent far out is so near to the border that float32 hardly tells the two apart.
The figures say what was lost on these rows, not what a map that stretches more could lose; where that matters,
`flow.double()` is the remedy. A round trip of noise (*Dequantize*) is exact in one direction and means nothing in the
other.

| case | as it is, float64: round trip | log-det | float32: round trip | log-det | trained, float64: round trip | log-det | float32: round trip | log-det |
|---|---|---|---|---|---|---|---|---|
{cases}

`make mutants` made this page: `python benchmarks/reliability.py --mutants FILE`, with what
`PYTHONPATH=tests python -m mutation --out FILE` wrote; seed {seed}; {seconds} s; {machine}; one thread.
"""  # noqa: E501 (a row of a table is one line)

OWN_SECTIONS = ("Are the laws strict enough?", "How exact it is")


def other_sections(page: str) -> str:
    """The sections of a page that are not made here."""
    _, *sections = page.split("\n## ")
    return "".join(f"\n## {each.rstrip()}\n" for each in sections if not each.startswith(OWN_SECTIONS))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=Path, metavar="FILE", help="what python -m mutation --out wrote")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    lines = cases()
    page = PAGE.format(
        mutants=about_mutants(json.loads(options.mutants.read_text())) if options.mutants else "",
        rows=ROWS,
        seeds=len(SEEDS),
        spreads=", ".join(map(str, SPREADS)),
        jacobians=JACOBIANS,
        steps=STEPS,
        cases="\n".join(lines),
        seed=SEED,
        seconds=round(time.perf_counter() - started),
        machine=f"{os.cpu_count()} cores, CPU, torch {torch.__version__.split('+')[0]}",
    )
    path = ROOT / "docs" / "reliability.md"
    path.write_text(page + other_sections(path.read_text()))


if __name__ == "__main__":
    main()
