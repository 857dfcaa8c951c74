"""Try every mutant: see the package's docstring."""

# ruff: noqa: T201 (a script prints)

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mutation.checks import Check, all_checks
from mutation.equivalent import EQUIVALENT
from mutation.mutants import MODULES, Mutant, alive, mutants, unchanged


@dataclass
class Tally:
    """The mutants of one class: how each was noticed, or that it was not."""

    caught: Counter[str] = field(default_factory=Counter)
    equivalent: list[Mutant] = field(default_factory=list)
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.caught.total() + len(self.equivalent) + len(self.survivors)


def noticed(mutant: Mutant, checks: list[Check]) -> str | None:
    with alive(mutant):
        return next((law for check in checks if check.touches(mutant) and (law := check.fails())), None)


def nothing_fails_unchanged(checks: list[Check]) -> None:
    with ExitStack() as stack:
        for module in MODULES:
            for each in unchanged(module):
                stack.enter_context(alive(each))
        nothing_fails(checks, "without any change")


def nothing_fails(checks: list[Check], when: str) -> None:
    broken = {law for check in checks if (law := check.fails())}
    if broken:
        sys.exit(f"{when} these fail: {', '.join(sorted(broken))}")


def is_chosen(only: list[str], owner: str, file: str = "") -> bool:
    return not only or owner in only or Path(file).stem in only


def run(only: list[str]) -> tuple[dict[str, Tally], list[str]]:
    """The tally of each class, and what is wrong with the table of equivalents."""
    chosen = [mutant for module in MODULES for mutant in mutants(module) if is_chosen(only, mutant.owner, mutant.file)]
    if not chosen:
        sys.exit(f"nothing to mutate in {only}")
    checks = all_checks()
    nothing_fails_unchanged(checks)
    tallies: dict[str, Tally] = {}
    wrong: list[str] = []
    left = {key for key in EQUIVALENT if is_chosen(only, key[0])}
    for mutant in chosen:
        tally = tallies.setdefault(mutant.owner, Tally())
        law = noticed(mutant, checks)
        if law:
            tally.caught[law] += 1
        elif mutant.key in EQUIVALENT:
            tally.equivalent.append(mutant)
        else:
            tally.survivors.append(mutant)
            print(f"SURVIVES {mutant}\n    {mutant.text}", flush=True)
        if law and mutant.key in EQUIVALENT:
            wrong.append(f"called equivalent, but noticed by {law}: {mutant}")
        left.discard(mutant.key)
    nothing_fails(checks, "after the last mutant, which has left something behind,")
    return tallies, wrong + [f"called equivalent, but does not occur: {key}" for key in sorted(left)]


def summary(tallies: dict[str, Tally], seconds: float) -> dict[str, Any]:
    """The result as plain values for JSON."""
    laws = sum((tally.caught for tally in tallies.values()), Counter())
    everyone = [mutant for tally in tallies.values() for mutant in tally.equivalent]
    return {
        "torch": torch.__version__.split("+")[0],
        "seconds": round(seconds),
        "mutants": sum(tally.total for tally in tallies.values()),
        "laws": dict(laws.most_common()),
        "classes": {
            owner: {
                "mutants": tally.total,
                "caught": tally.caught.total(),
                "equivalent": len(tally.equivalent),
                "survivors": [f"{mutant}" for mutant in tally.survivors],
                "laws": dict(tally.caught.most_common()),
            }
            for owner, tally in tallies.items()
        },
        "equivalent": [[*mutant.key, EQUIVALENT[mutant.key]] for mutant in everyone],
    }


def show(result: dict[str, Any]) -> None:
    print(f"{'class':20} mutants caught equivalent survive  caught by")
    for owner, row in result["classes"].items():
        laws = ", ".join(f"{law} {count}" for law, count in row["laws"].items())
        counts = f"{row['mutants']:7} {row['caught']:6} {row['equivalent']:10} {len(row['survivors']):7}"
        print(f"{owner:20} {counts}  {laws}")
    caught = sum(result["laws"].values())
    print(f"{result['mutants']} mutants, {caught} caught, in {result['seconds']} s: {result['laws']}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="*",
        default=[],
        help="mutate these classes or files of flowstone.bijections alone",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    tallies, wrong = run(options.only)
    result = summary(tallies, time.perf_counter() - started)
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for line in wrong:
        print(line)
    return 1 if wrong or any(tally.survivors for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
