"""The plot of `metarec advise`: what every training reached after how many seconds, with the best plain baseline as a line."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.evaluation.plots import LEARNER, PLAIN, SETTINGS

Curve = Sequence[tuple[float, float]]
"""Points (seconds of training, metric) of one training."""

COLOURS = PLAIN[2:]
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def save_curves(
    curves: Mapping[str, Sequence[Curve]], metric: str, *, chosen: str, floor: tuple[str, float] | None, path: Path
) -> None:
    """Draw the curves of each candidate, one for each of its trainings, into a file; its ending says the format (png, svg, pdf).

    The legend has their order; the one named `chosen` is drawn boldly. A dot ends each training.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.0, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        others = [name for name in curves if name != chosen]
        for name, trainings in curves.items():
            place = -1 if name == chosen else others.index(name)
            colour = LEARNER if place < 0 else COLOURS[place % len(COLOURS)]
            style = "-" if place < 0 else DASHES[place // len(COLOURS) % len(DASHES)]
            for number, points in enumerate(sorted(trainings, key=lambda points: points[-1][0])):
                seconds, values = zip(*points, strict=True)
                last = number == len(trainings) - 1
                axes.plot(
                    seconds,
                    values,
                    color=colour,
                    linestyle=style,
                    linewidth=2.6 if place < 0 else 1.3,
                    alpha=1.0 if last else 0.45,
                    zorder=3 if place < 0 else 2,
                    label=name if last else None,
                )
                axes.plot(seconds[-1], values[-1], "o", color=colour, markersize=5, alpha=1.0 if last else 0.45, zorder=4)
        if floor is not None:
            axes.axhline(floor[1], color="#212529", linestyle="--", linewidth=1.2, label=f"plain: {floor[0]}", zorder=1)
        axes.set_ylim(*_frame(curves, metric, floor))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        axes.set_xlabel("seconds of training on one core; one curve per rung, the last one bold")
        axes.set_ylabel(f"{metric} on held-out users ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.savefig(path, dpi=144, metadata={"Date": None} if path.suffix == ".svg" else None)


def _frame(curves: Mapping[str, Sequence[Curve]], metric: str, floor: tuple[str, float] | None) -> tuple[float, float]:
    """Ends of the axis: where trainings end counts, where they begin may leave the frame."""
    ends = [points[-1][1] for trainings in curves.values() for points in trainings] + ([floor[1]] if floor else [])
    ends = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    room = 0.25 * (high - low) + 1e-3
    return low - room, high + room
