"""What the client's calls return, where metarec.types has no word for it. Times are seconds since the epoch (UTC)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from metarec.types import CandidateSourceName, Contribution

T = TypeVar("T")
RuleEffectName = Literal["", "filter", "boost", "pin", "quota"]
LauncherName = Literal["", "local", "ray_jobs", "kuberay"]
JobStateName = Literal["", "pending", "running", "succeeded", "failed", "cancelled"]
FINAL_STATES: frozenset[JobStateName] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What one rule did to an item; `boost` is what it added to the score."""

    rule: str
    effect: RuleEffectName
    boost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RuleReport:
    """What one rule did to a list: items removed, items changed, places that it could not fill as it should."""

    rule: str
    effect: RuleEffectName
    num_removed: int
    num_changed: int
    num_missing: int


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """What diversity changed: mean cosine of two items of the list, and the mean score given up for it."""

    strength: float
    similarity_before: float
    similarity_after: float
    score_traded: float


@dataclass(frozen=True, kw_only=True)
class RecommendedItem:
    """One recommended item; scores, with boosts, compare within one response. `source` is empty when the server did not say.

    `rank_before` is its place by its score alone, before rules, diversity and exploration (0: nothing scored it), `propensity`
    the probability with which it was shown at its place, `explored` whether exploration put it there.
    """

    item_id: str
    score: float
    source: CandidateSourceName | Literal[""]
    rank_before: int = 0
    rules: tuple[RuleEffect, ...] = ()
    propensity: float = 1.0
    explored: bool = False


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """A stage that could not do its part, why, and what was done instead."""

    stage: str
    reason: str
    fallback: str


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """Items, best first, scored by `checkpoint` (empty: by none) from `shots` interactions (0: a cold start).

    `rules` are those of version `rules_version` that did something to the list; `request_id` names the request in logs.
    """

    items: tuple[RecommendedItem, ...]
    degraded: bool
    degradations: tuple[Degradation, ...]
    checkpoint: str
    shots: int
    rules: tuple[RuleReport, ...] = ()
    rules_version: str = ""
    diversity: Diversity | None = None
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What RecordInteractions did; `shots` is the size of each user's support set now. `unknown_item_ids` are recorded and count
    once the items' content arrives."""

    num_recorded: int
    num_duplicates: int
    shots: Mapping[str, int]
    checkpoint: str
    event_ids: tuple[str, ...]
    unknown_item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Terms that add up to the score, largest magnitude first, and the rules that are about the item."""

    item_id: str
    score: float
    contributions: tuple[Contribution, ...]
    checkpoint: str
    shots: int
    rules: tuple[RuleEffect, ...] = ()
    degradations: tuple[Degradation, ...] = ()

    @property
    def residual(self) -> float:
        """How far the terms are from adding up to the score; at most 1e-4."""
        return abs(self.score - sum(part.value for part in self.contributions))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted label of a row, in units of the label; `stddev` is 0 when the learner has none."""

    id: str
    mean: float
    stddev: float


@dataclass(frozen=True, kw_only=True)
class AdaptedScenario:
    """What users of a scenario have in common, learned from `num_rows` interactions of `num_users`: `kappa`, the variance between
    scenarios over that between users, and by how much labels move, as mean and deviation over the catalogue."""

    num_users: int
    num_rows: int
    kappa: float
    mean_shift: float
    stddev_shift: float


@dataclass(frozen=True, kw_only=True)
class AdaptedTask:
    """What an adapted task predicts; `unknown_ids` were left out of the support. `scenario` is None for users and items."""

    shots: int
    checkpoint: str
    predictions: tuple[Prediction, ...]
    unknown_ids: tuple[str, ...]
    scenario: AdaptedScenario | None = None


@dataclass(frozen=True, kw_only=True)
class LikelyValue:
    """A value and its probability. `value` is "" for all that are too rare to be told apart; for a number it names the bucket
    `lower` <= number < `upper` (None: no such end)."""

    value: str
    probability: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, kw_only=True)
class InferredField:
    """A field of a profile: as it was given (`observed`), or with the likeliest value first; probabilities add up to 1 where
    values are `exclusive`. Empty where it is missing and nothing was learned of it."""

    name: str
    observed: bool
    exclusive: bool
    values: tuple[LikelyValue, ...]


@dataclass(frozen=True, kw_only=True)
class InferredProfile:
    """Every field of the user schema, inferred by `checkpoint` from `shots` interactions; `unknown_ids` were left out."""

    fields: tuple[InferredField, ...]
    shots: int
    checkpoint: str
    unknown_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AudienceSegment:
    """What the `num_users` training users who share `value` would think of an item: `mean`, `lift` above all users' mean, and how
    uncertain the lift is (0: not known)."""

    field: str
    value: str
    num_users: int
    mean: float
    lift: float
    lift_stddev: float


@dataclass(frozen=True, kw_only=True)
class ItemPreview:
    """What content alone tells of an item: the mean over all users and how uncertain it is, in units of the label if `labels`,
    else of ranking scores; segments, the largest lift first; nearest known items with their cosine; vector and offset by head."""

    item_id: str
    labels: bool
    mean: float
    stddev: float
    audience: tuple[AudienceSegment, ...]
    neighbours: tuple[tuple[str, float], ...]
    vectors: Mapping[str, tuple[tuple[float, ...], float]]
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list; `next_page_token` is empty on the last. `total_size` is None where the service does not count."""

    items: tuple[T, ...]
    next_page_token: str
    total_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A meta-training job; `ended` is None before its end."""

    id: str
    data: str
    recipe: str
    num_workers: int
    seed: int
    launcher: LauncherName
    state: JobStateName
    checkpoint: str
    error: str
    created: float
    ended: float | None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the registry; `delta` is the gain over the best plain baseline, `gate_metrics` the figures behind it."""

    id: str
    recipe: str
    created: float
    live: bool
    gate_passed: bool
    delta: float
    schema_hash: str
    data_fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    gate_metrics: Mapping[str, float] = field(default_factory=dict)
