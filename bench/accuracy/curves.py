"""One plot of several models over shots, phases or domains, with the bar to reach."""

import math
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
    """An SVG at `path`: `values` of each model at each of `places`, the learner in colour, the bar dashed.

    Places named `GROUP @ANYTHING` are joined within their group alone.
    """
    sign = 1 if lower_is_better else -1
    ranked = sorted(values, key=lambda model: (model != learner, sign * sum(values[model])))[:SHOWN]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        at = range(len(places))
        for rank, model in enumerate(ranked):
            mine = model == learner
            axes.plot(
                *in_groups(places, values[model]),
                label=model,
                color=LEARNER if mine else PLAIN,
                linewidth=2.4 if mine else 1.2,
                marker="o" if mine else "osD^vx"[rank],
                markersize=4,
            )
        if bar is not None:
            axes.plot(*in_groups(places, bar), label=bar_label, color=BAR, linestyle="--", linewidth=1.4)
        crowded = len(places) > CROWDED
        axes.set_xticks(list(at), list(places), rotation=90 if crowded else 0)
        axes.set_ylabel(label)
        axes.grid(color="#e9ecef")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        FigureCanvasSVG(figure)
        figure.savefig(path, format="svg", metadata={"Date": None})


def in_groups(places: Sequence[str], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where to draw the values, and the values, with nothing between one group of places and the next."""
    at: list[float] = []
    drawn: list[float] = []
    for number, (place, value) in enumerate(zip(places, values, strict=True)):
        if number and place.rpartition(" @")[0] != places[number - 1].rpartition(" @")[0]:
            at.append(number - 0.5)
            drawn.append(math.nan)
        at.append(float(number))
        drawn.append(value)
    return at, drawn
