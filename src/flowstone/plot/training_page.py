"""The page of a training: an HTML file that reloads itself while the training runs."""

from datetime import UTC, datetime
from html import escape

from flowstone.notebook import html_table
from flowstone.train.history import History

__all__ = ["state_of", "training_page"]

REFRESH = 3  # seconds after which a browser reads the page again
RECORDS = 8  # of the history, in the table


def state_of(history: History) -> str:
    """The last and the best validation in words."""
    last, best = history.records[-1], history.best
    return (
        f"step {last.step}, {last.seconds:.1f} s: train {last.train_nll:.4f}, validation {last.val_nll:.4f} nats; "
        f"best validation {best.val_nll:.4f} at step {best.step}"
    )


def training_page(title: str, history: History, picture: str | None, *, ended: str | None, share: float) -> str:
    """The page; ``ended`` says how the training ended, None while it runs."""
    state, written = state_of(history), datetime.now(UTC).strftime("%H:%M:%S UTC")
    shown = "<p>The first picture comes when there is time for it.</p>"
    if picture is not None:
        about = f"Samples of {title}, and its losses. {state}"
        image = f'<img src="data:image/png;base64,{picture}" alt="{escape(about)}">'
        shown = f'<div class="wide" role="region" aria-label="pictures" tabindex="0">{image}</div>'
    recent = History(history.records[-RECORDS:])
    table = html_table(
        [(r.step, f"{r.seconds:.1f}", f"{r.train_nll:.4f}", f"{r.val_nll:.4f}") for r in reversed(recent.records)],
        header=("step", "seconds", "train (nats)", "validation (nats)"),
        caption="the last validations",
    )
    running = ended is None
    return PAGE.format(
        title=escape(title), style=STYLE, shown=shown, state=escape(state), table=table, written=written,
        reading=READING.format(seconds=REFRESH, milliseconds=1000 * REFRESH) if running else "",
        button=BUTTON if running else "", word="training" if running else escape(f"training {ended}"),
        share=f"{100 * share:.1f}",
    )  # fmt: skip


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {word}</title>
{style}{reading}</head>
<body>
<main>
<h1>{title}</h1>
<p class="state"><strong>{word}</strong> {state}</p>
{shown}
{table}
<p class="note">Written at {written}. Pictures took {share}% of the time of the training.</p>
{button}</main>
</body>
</html>
"""
STYLE = """<style>
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
main { max-width: 1240px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.state strong { border: 1px solid currentColor; border-radius: 4px; padding: 0 .4em; margin-right: .3em; }
.wide { overflow-x: auto; }
img { width: 100%; min-width: 46rem; height: auto; background: white; border-radius: 6px; }
table { border-collapse: collapse; margin-top: 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; }
th, td { text-align: right; padding: .1rem 1rem .1rem 0; }
button { font: inherit; padding: .3em .8em; }
</style>
"""
# Where scripts are off the page reloads itself all the same, and cannot be held.
READING = """<noscript><meta http-equiv="refresh" content="{seconds}"></noscript>
<script>
const held = () => sessionStorage.getItem("held") === "yes";
setInterval(() => {{ if (!held()) location.reload(); }}, {milliseconds});
</script>
"""
BUTTON = """<button type="button" id="hold"></button>
<script>
const button = document.getElementById("hold");
const label = () => { button.textContent = held() ? "Go on" : "Hold this page"; };
button.addEventListener("click", () => { sessionStorage.setItem("held", held() ? "no" : "yes"); label(); });
label();
</script>
"""
