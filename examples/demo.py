"""The main job on two moons, three ways side by side: learn the density, score held-out points, sample, look.

Writes demo/moons.png and a run folder for each flow. About a minute on two cores.
"""

import argparse
from pathlib import Path

import torch

import flowstone
from flowstone import plot
from flowstone.data import TOYS
from flowstone.recipes import DEFAULT

FLOWS = {"NICE": "nice", "RealNVP": "realnvp", f"{DEFAULT} (default)": DEFAULT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each flow (default 2000)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default demo)")
    options = parser.parse_args()
    out = options.out
    moons = TOYS["moons"]
    test = moons(50_000, torch.Generator().manual_seed(1))

    trained = {}
    for title, recipe in FLOWS.items():
        print(f"\n{title}: learning two moons, {options.steps} steps of 512 fresh points")
        torch.manual_seed(0)
        flow = flowstone.recipes.build(recipe, {"features": 2})
        history = flowstone.fit(flow, moons, steps=options.steps)
        flowstone.save(flow, out / recipe)
        history.save(out / recipe / "history.csv")
        trained[title] = flow, flowstone.evaluate(flow, test), history.records[-1].seconds

    plot.save_figure(picture(moons, test, trained), out / "moons.png")
    print(f"\n{'flow':<18} {'test NLL (nats)':>18} {'round trip':>12} {'seconds':>8}")
    for title, (_, figures, seconds) in trained.items():
        nll = f"{figures['nll_nats']:.4f} ± {figures['nll_stderr']:.4f}"
        print(f"{title:<18} {nll:>18} {figures['round_trip_max']:>12.1e} {seconds:>8.1f}")
    print(f"{'entropy':<18} {moons.entropy:>9.4f}           (no model gets below it)")
    print(f"\nlook at {out / 'moons.png'}")


def picture(moons, test, trained):
    """Points above, densities on one scale below; the first column shows the true density."""
    limits = plot.limits_of(test)
    peak = moons.log_prob(test[:5000]).exp().quantile(0.98).item()
    figure, axes = plot.new_figure(2, 1 + len(trained), (13.2, 6.8))
    plot.points(test, axes[0, 0], color=plot.DATA, title=f"data (entropy {moons.entropy:.4f} nats)", limits=limits)
    plot.density(moons.log_prob, axes[1, 0], limits=limits, peak=peak, grid=160).set_title("true density")
    for (title, (flow, figures, _)), (above, below) in zip(trained.items(), axes.T[1:], strict=True):
        samples = flow.sample(4000, seed=0)
        caption = f"{title}: NLL {figures['nll_nats']:.4f}"
        plot.points(samples, above, color=plot.SAMPLES, title=caption, limits=limits)
        plot.density(flow, below, limits=limits, peak=peak).set_title("learned density")
    return figure


if __name__ == "__main__":
    main()
