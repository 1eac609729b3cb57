"""The values that cross module borders: plain, immutable, without transport and without numerics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FeatureValue = str | float | tuple[str, ...] | tuple[float, ...] | None
"""Value of one field: categorical or text, numeric, multi-categorical, vector, or None when missing."""

Features = Mapping[str, FeatureValue]
"""Values by field name, as named in the dataset schema."""

TaskKind = Literal["user", "item"]
"""What a task is: a user whose rows are items, or an item whose rows are users."""

GRADES_STD = 1.117
"""Deviation of the grades of MovieLens-1M: the scale of labels that settings of recipes and plain baselines are meant for."""

AdaptedKind = Literal["user", "item", "scenario", "user_in_scenario"]
"""What can be adapted to: a task, or a scenario that users share, or a user within one."""

Target = Literal["explicit", "implicit"]
"""What is predicted: the label of an interaction, or whether there is one (DESIGN 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """One thing a user did with an item.

    `label` is in the schema's range; `timestamp` is seconds since the epoch (UTC); `event_id` makes recording idempotent.
    `labels` are those of the schema's further targets that are known, by column.
    """

    user_id: str
    item_id: str
    label: float
    timestamp: float = 0.0
    scenario: str = ""
    event_id: str = ""
    labels: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item of the catalogue; `revision` grows with each upsert and is 0 for items known from training alone."""

    item_id: str
    features: Features
    revision: int = 0


@dataclass(frozen=True, kw_only=True)
class User:
    """A user and their profile."""

    user_id: str
    features: Features


CandidateSourceName = Literal["personal", "popular", "content", "fresh", "caller", "rule"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An item proposed by recall; scores compare within one source only."""

    item_id: str
    score: float
    source: CandidateSourceName
    revision: int = 0


ContributionKindName = Literal["global", "item", "profile", "support", "rule", "scenario"]


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One term of an exact explanation, in units of the score.

    `item_id` and `label` are for kind `support` only, `rule`, a rule's name, for kind `rule`.
    """

    kind: ContributionKindName
    value: float
    item_id: str = ""
    label: float = 0.0
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdict on a checkpoint.

    `delta` is (loss of the best plain baseline - loss of the learner) / loss of the best plain baseline on validation tasks
    (DESIGN 4.3); `passed` says whether it may be promoted without force. `metrics` holds the figures behind it.
    """

    delta: float
    passed: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
