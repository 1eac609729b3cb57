"""The plots of a report, as SVG text to stand inside a page. Colours mark roles: learner, joint model, plain baselines."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from metarec.evaluation.results import MEDIAN, ProtocolResult
from metarec.evaluation.tables import order

if TYPE_CHECKING:
    from metarec.evaluation.ablation import Ablation

LEARNER, JOINT = "#0b5fff", "#d9480f"
PLAIN = ("#495057", "#868e96", "#2b8a3e", "#9c36b5", "#c2255c", "#e67700", "#1098ad", "#5f3dc4")
MAX_PLAIN = 8
"""Plain baselines in one plot: the best ones; all of them stand in the tables."""
FRAMED = 4
"""The axis of a curve fits the learner and so many of the best others; a hopeless baseline may leave the frame."""

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "metarec",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "axes.axisbelow": True,
}


def curve(points: Sequence[ProtocolResult], metric: str) -> str:
    """A metric over the number of shots, with the learner's confidence interval."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        # Shots are spaced evenly: the step from 0 to 1 matters as much as that from 5 to 10.
        place = np.arange(len(points))
        seen: list[float] = []
        for rank, (model, style) in enumerate(_styles(points[-1], metric)):
            mean = [point.mean(model, metric) for point in points]
            axes.plot(place, mean, label=model, **style)
            seen += mean if rank <= FRAMED else []
            if model == points[-1].learner:
                ends = np.array([point.intervals[model][metric] for point in points])
                axes.fill_between(place, ends[:, 0], ends[:, 1], color=LEARNER, alpha=0.12, linewidth=0)
        room = 0.25 * (max(seen) - min(seen)) + 1e-3
        axes.set_ylim(min(seen) - room, max(seen) + room)
        axes.set_xticks(place, [str(point.shots) for point in points])
        axes.set_xlabel("interactions shown (k)")
        axes.set_ylabel(metric)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return _svg(figure)


def groups(protocols: Sequence[ProtocolResult], metric: str) -> str:
    """A metric of the models side by side in several protocols: cold against warm."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        axes = figure.subplots()
        styles = _styles(protocols[0], metric)
        width = 0.8 / len(styles)
        for k, (model, style) in enumerate(styles):
            place = np.arange(len(protocols)) + (k - (len(styles) - 1) / 2) * width
            mean = np.array([protocol.mean(model, metric) for protocol in protocols])
            ends = np.array([protocol.intervals.get(model, {}).get(metric, (np.nan, np.nan)) for protocol in protocols])
            axes.bar(place, mean, width * 0.92, color=style["color"], label=model)
            axes.vlines(place, ends[:, 0], ends[:, 1], color="#212529", linewidth=1)
        lowest = np.nanmin(
            [protocol.intervals[m][metric][0] for protocol in protocols for m, _ in styles if m in protocol.values]
        )
        if metric == "mae":
            axes.set_ylim(bottom=0.85 * lowest)
        axes.set_xticks(np.arange(len(protocols)), [protocol.name for protocol in protocols])
        axes.set_ylabel(metric + (" (axis does not start at 0)" if metric == "mae" else ""))
        axes.grid(axis="x", visible=False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return _svg(figure)


def reliability(protocol: ProtocolResult) -> str:
    """Expected against observed shares; on the diagonal a model is as sure as it should be."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#adb5bd", linestyle="--", linewidth=1, label="perfect")
        for model, style in _styles(protocol, ""):
            table = protocol.calibration.get(model)
            if table is not None:
                axes.plot(table.expected, table.observed, label=f"{model} ({table.error:.3f})", **style)
        kind = next(iter(protocol.calibration.values())).kind
        axes.set_xlabel("nominal level of the interval" if kind == "intervals" else "predicted probability")
        axes.set_ylabel("share of labels inside" if kind == "intervals" else "observed share")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="expected calibration error")
        return _svg(figure)


def contributions(found: "Ablation") -> str:
    """The gain of each group of features in each metric, with its interval."""
    with matplotlib.rc_context(SETTINGS):
        names, metrics = list(found.groups), found.shown
        figure = Figure(figsize=(4.2 * len(metrics) + 1.2, 0.9 + 0.32 * len(names)), layout="constrained")
        place = np.arange(len(names))[::-1]
        for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
            effects = [found.groups[name][metric] for name in names]
            ends = np.array([effect.interval for effect in effects])
            axes.hlines(place, ends[:, 0], ends[:, 1], color=LEARNER, alpha=0.4, linewidth=3)
            axes.plot([effect.gain for effect in effects], place, "o", color=LEARNER, markersize=5)
            axes.axvline(0, color="#495057", linewidth=1)
            axes.set_xlabel(f"gain in {metric}")
            axes.locator_params(axis="x", nbins=5)
            axes.set_yticks(place, names)
        return _svg(figure)


def _styles(protocol: ProtocolResult, metric: str) -> list[tuple[str, dict[str, Any]]]:
    """Models with the metric and how they are drawn: the learner, the joint model and the best plain baselines."""
    found: list[tuple[str, dict[str, Any]]] = []
    # A baseline keeps its colour in all plots of a report, whatever its rank.
    colour = {model: PLAIN[k % len(PLAIN)] for k, model in enumerate(sorted(protocol.plain()))}
    plain = 0
    for model in order(protocol, metric):
        if model.endswith(MEDIAN) or (metric and metric not in protocol.values[model]):
            continue
        if model == protocol.learner:
            found.append((model, {"color": LEARNER, "linewidth": 2.6, "marker": "o", "zorder": 3}))
        elif model == protocol.joint:
            found.append((model, {"color": JOINT, "linewidth": 2.0, "marker": "s", "zorder": 2}))
        elif plain < MAX_PLAIN:
            found.append((model, {"color": colour[model], "linewidth": 1.3, "marker": ".", "zorder": 1}))
            plain += 1
    return found


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    # Inside a page there is no place for an XML declaration and a DTD.
    return svg[svg.index("<svg") :]
