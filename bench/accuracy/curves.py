"""One plot of several models over shots, phases or domains, with the bar to reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

LEARNER, PLAIN, BAR = "#0b5fff", "#868e96", "#d9480f"
SHOWN = 6
"""Models in a plot at most: the learner and the best others; the tables hold all."""

CROWDED = 8
"""Places from which on their names stand upright."""

SETTINGS = {
    "svg.hashsalt": "metarec",
    "svg.fonttype": "none",  # letters as letters: a tenth of the size of outlines
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save_curve(
    path: Path,
    places: Sequence[str],
    values: Mapping[str, Sequence[float]],
    *,
    learner: str,
    bar: Sequence[float] | None,
    label: str,
    lower_is_better: bool = False,
    bar_label: str = "bar",
) -> None:
    """An SVG at `path`: `values` of each model at each of `places`, the learner in colour, the bar dashed."""
    sign = 1 if lower_is_better else -1
    ranked = sorted(values, key=lambda model: (model != learner, sign * sum(values[model])))[:SHOWN]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        at = range(len(places))
        for rank, model in enumerate(ranked):
            mine = model == learner
            axes.plot(
                at,
                values[model],
                label=model,
                color=LEARNER if mine else PLAIN,
                linewidth=2.4 if mine else 1.2,
                marker="o" if mine else "osD^vx"[rank],
                markersize=4,
            )
        if bar is not None:
            axes.plot(at, bar, label=bar_label, color=BAR, linestyle="--", linewidth=1.4)
        crowded = len(places) > CROWDED
        axes.set_xticks(list(at), list(places), rotation=90 if crowded else 0)
        axes.set_ylabel(label)
        axes.grid(color="#e9ecef")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        FigureCanvasSVG(figure)
        figure.savefig(path, format="svg", metadata={"Date": None})
