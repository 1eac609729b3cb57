"""The gate's verdict in words: the figures that decided. Everything else that was measured stays with the checkpoint.

A gate names its figures `METRIC` (the learner's), `BASELINE_METRIC` and `delta_METRIC`, with `_low` and `_high` for the interval
of a delta over users (metarec/evaluation/gate.py); other figures are left to the list of all.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarec.training.registry import CheckpointInfo

WORDS = {
    "ndcg@20": "lists of new users",
    "mae": "estimated labels of held-out users",
    "mse": "estimated probabilities of held-out users",
}
"""What a metric of the gate judges."""
HIGHER_IS_BETTER = frozenset({"ndcg@20"})


def decisive(metrics: Mapping[str, float], delta: float) -> str:
    """The comparison that `delta` is of, in words; without the figures of one only delta."""
    said = f"delta {delta:+.4f}"
    for metric, judged in WORDS.items():
        if metrics.get(f"delta_{metric}") != delta or metric not in metrics:
            continue
        low, high = (metrics.get(f"delta_{metric}_{end}") for end in ("low", "high"))
        interval = "" if low is None or high is None else f", 95 % interval {low:+.4f} to {high:+.4f}"
        counts = ("cold_users", "list_users", "users") if metric == "ndcg@20" else ("users",)
        users = next((metrics[name] for name in counts if name in metrics), None)
        count = "" if users is None else f"; {int(users)} user{'s' if users != 1 else ''}"
        return f"{judged}: {metric} {metrics[metric]:.4f}{_best_plain(metrics, metric)} ({said}{interval}{count})"
    return said


def promotion(info: "CheckpointInfo", registry: Path) -> str:
    """The command that makes a checkpoint live; where that takes force, why."""
    command = f"metarec checkpoints promote {info.id} --registry {shlex.quote(str(registry))}"
    if info.gate_passed:
        return command
    why = "it is not better than the plain baselines" if info.judged else "its gate never judged it"
    return f"{command} --force (refused without --force, for {why})"


def _best_plain(metrics: Mapping[str, float], metric: str) -> str:
    ends = f"_{metric}"
    others = {name.removesuffix(ends): value for name, value in metrics.items() if name.endswith(ends)}
    others.pop("delta", None)
    if not others:
        return ""
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    best = min(others, key=lambda name: sign * others[name])
    return f", the plain baseline {best} {others[best]:.4f}"
