"""What each group of features contributes: the learner's figures with the group, and without it.

Two ways to leave a group out. `retrain`: the recipe is trained anew on an encoding without the group's columns; what the other
fields can say in its place they then do, so this is the figure of record. `blank`: one trained learner predicts with the group's
values missing; fast, but it also charges the group for what others could have said, and a model that never saw a value missing
may be worse off than one without the field.

What new items are asked for is where content matters, so without a file of episodes a share of the items is hidden: the learner
is trained on the others and asked for the hidden ones, from the support of each user on known items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from metarec.evaluation.bootstrap import Interval, Resampler, interval
from metarec.evaluation.entities import Entities, entities
from metarec.evaluation.episodes import Episodes
from metarec.evaluation.metrics import LOWER_IS_BETTER, Floats, episode_metrics, leading, summarise
from metarec.evaluation.rating_run import label_scale, learner_predictor
from metarec.features.encoder import FeatureEncoder
from metarec.features.groups import FeatureGroup
from metarec.meta.prior import Prior
from metarec.tasks.batch import EntityTable

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Mode = Literal["retrain", "blank"]
EVERYTHING = "everything"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Episodes to be predicted: who and what is in them, and how they lie on the tables of an evaluation."""

    user_ids: tuple[str, ...]
    item_ids: Sequence[str]
    resolve: Callable[[Entities], Episodes]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric without a group: its mean, how much better it is with the group, the interval of that over users, and its
    deviation over training seeds (None for one seed)."""

    without: float
    gain: float
    interval: Interval
    seed_sd: float | None

    def to_dict(self) -> dict[str, object]:
        """JSON-able; None where nothing is defined, which JSON has no other word for."""
        interval = [_plain(end) for end in self.interval]
        return {"without": _plain(self.without), "gain": _plain(self.gain), "interval": interval, "seed_sd": self.seed_sd}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One protocol: the metrics with all features, the leading two first, and the effect of leaving each group out."""

    protocol: str
    mode: Mode
    seeds: tuple[int, ...]
    episodes: int
    users: int
    whole: Mapping[str, float]
    columns: int
    groups: Mapping[str, Mapping[str, Effect]]
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """The metrics that people are shown: the leading two."""
        return list(self.whole)[:2]

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        effects = {name: {metric: effect.to_dict() for metric, effect in by.items()} for name, by in self.groups.items()}
        return {
            "mode": self.mode,
            "seeds": list(self.seeds),
            "episodes": self.episodes,
            "users": self.users,
            "metrics": {metric: _plain(value) for metric, value in self.whole.items()},
            "columns": self.columns,
            "groups": {name: {"columns": self.widths[name], **by} for name, by in effects.items()},
        }


def ablate(
    dataset: "Dataset",
    asked: Asked,
    encoder: FeatureEncoder,
    groups: Sequence[FeatureGroup],
    *,
    mode: Mode,
    trained: Callable[[FeatureEncoder, int], Prior],
    seeds: Sequence[int],
    watch: Callable[[str], None] = lambda _: None,
) -> list[Ablation]:
    """Every protocol of `asked`. `trained` gives the learner for an encoder and a seed; mode `blank` only asks for `encoder`."""
    measured: dict[str, list[dict[str, Floats]]] = {}
    episodes: Episodes | None = None
    for seed in seeds:
        watch(_step(EVERYTHING, seed, seeds))
        whole = trained(encoder, seed)
        episodes, values = _measure(whole, dataset, asked)
        measured.setdefault(EVERYTHING, []).append(values)
        for group in groups:
            watch(_step(f"without {group.name}", seed, seeds))
            if mode == "retrain":
                without = trained(encoder.without(items=group.items, users=group.users), seed)
                _, values = _measure(without, dataset, asked)
            else:
                _, values = _measure(whole, dataset, asked, blank=group)
            measured.setdefault(group.name, []).append(values)
    assert episodes is not None
    widths = {group.name: group.columns for group in groups}
    columns = sum(block.width for block in (*encoder.item_encoders, *encoder.user_encoders))
    protocols = dict.fromkeys(str(name) for name in episodes.protocol_T)
    return [_effects(name, episodes, measured, widths, columns, mode, tuple(seeds)) for name in protocols]


def _step(what: str, seed: int, seeds: Sequence[int]) -> str:
    return what if len(seeds) == 1 else f"{what}, seed {seed}"


def _measure(
    prior: Prior, dataset: "Dataset", asked: Asked, blank: FeatureGroup | None = None
) -> tuple[Episodes, dict[str, Floats]]:
    """Values (T,) of each metric."""
    tables = entities(prior, dataset, asked.user_ids, asked.item_ids)
    episodes = asked.resolve(tables)
    if blank is not None:
        tables = replace(tables, users=blanked(tables.users, blank.users), items=blanked(tables.items, blank.items))
    scale = label_scale(dataset, episodes.tasks.query_label_Q)
    predictions = learner_predictor(prior, tables, scale)(episodes)
    values = episode_metrics(episodes.tasks.query_start_T1, episodes.tasks.query_label_Q, predictions, scale)
    means = {name: summarise(value_T, episodes.seed_T).mean for name, value_T in values.items()}
    # Those of grades are part of the JSON whatever the labels are.
    names = [leading(means, binary=binary, steep=scale.steep) for binary in (scale.binary, False)]
    return episodes, {name: values[name] for name in dict.fromkeys((*names[0], *names[1]))}


def blanked(table: EntityTable, names: frozenset[str]) -> EntityTable:
    """The table with the values of these fields missing: all columns of their blocks 0 but the indicator, which is the last."""
    dense_NP = table.dense_NP.clone()
    for name, start, stop in table.blocks:
        if name in names:
            dense_NP[:, start:stop] = 0.0
            dense_NP[:, stop - 1] = 1.0
    return replace(table, dense_NP=dense_NP)


def _effects(
    protocol: str,
    episodes: Episodes,
    measured: Mapping[str, Sequence[Mapping[str, Floats]]],
    widths: Mapping[str, int],
    columns: int,
    mode: Mode,
    seeds: tuple[int, ...],
) -> Ablation:
    mine_T = episodes.protocol_T == protocol
    seed_T, user_T = episodes.seed_T[mine_T], episodes.tasks.user_T[mine_T]
    resampler = Resampler.of(seed_T, user_T)
    whole = measured[EVERYTHING]
    found: dict[str, dict[str, Effect]] = {}
    for name in widths:
        found[name] = {}
        for metric in whole[0]:
            sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
            # Seed by seed: both sides of a difference come from the same split into training and validation users.
            gain_KT = np.stack(
                [sign * (b[metric][mine_T] - a[metric][mine_T]) for a, b in zip(whole, measured[name], strict=True)]
            )
            gain_K = [summarise(gain_T, seed_T).mean for gain_T in gain_KT]
            without_K = [summarise(values[metric][mine_T], seed_T).mean for values in measured[name]]
            drawn_R = resampler.means({"gain": gain_KT.mean(0)})["gain"]
            found[name][metric] = Effect(
                without=float(np.mean(without_K)),
                gain=float(np.mean(gain_K)),
                interval=interval(drawn_R),
                seed_sd=float(np.std(gain_K, ddof=1)) if len(seeds) > 1 else None,
            )
    means = {metric: float(np.mean([summarise(v[metric][mine_T], seed_T).mean for v in whole])) for metric in whole[0]}
    return Ablation(
        protocol=protocol,
        mode=mode,
        seeds=seeds,
        episodes=int(mine_T.sum()),
        users=len(np.unique(user_T)),
        whole=means,
        columns=columns,
        groups=found,
        widths=dict(widths),
    )


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
