"""From a batch of users adapted to, to their lists: rules looked up, lists laid out, scores explained."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from metarec.adaptation.adapted import Adapted
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.errors import MetarecError, NotFoundError
from metarec.ranking.account import Ruling
from metarec.ranking.arrange import Wish, arrange
from metarec.ranking.explain import explain
from metarec.ranking.explore import Exploration
from metarec.ranking.marks import Marks
from metarec.ranking.rank import RankedItem, RuleEffect
from metarec.ranking.rules import Boost, Pin, RuleSet
from metarec.types import Features
from metarec.v1 import types_pb2
from services.ranking.scores import BatchScores
from services.ranking.wire import Answer, Request
from services.runtime.rules import UNDECIDED, RuleBook
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

UNKNOWN_USER = "of the rules that ask for the user's profile, filters are kept and the others left out"


@dataclass
class Task:
    """A request on its way: what was read for it, and what could not be.

    `items` are the candidates, with the revision of each one's content: the request's and those that rules bring in. `profile` is
    what rules see of the user, None when it could not be read.
    """

    request: Request
    items: dict[str, int]
    features: Features | None = None
    profile: Features | None = None
    state: UserState | None = None
    adapted: Adapted | None = None
    active: tuple[int, ...] = ()
    error: MetarecError | None = None
    degradations: list[types_pb2.Degradation] = field(default_factory=list)

    def degrade(self, reason: str, fallback: str, stage: str = "features") -> None:
        """Note once for a stage that something could not be read."""
        if all(known.stage != stage for known in self.degradations):
            self.degradations.append(types_pb2.Degradation(stage=stage, reason=reason, fallback=fallback))


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """What lists are like whose request does not say."""

    diversity: float = 0.0
    exploration: Exploration = field(default_factory=Exploration)

    @staticmethod
    def of(settings: Settings) -> "ListSettings":
        """Those of a service's settings."""
        return ListSettings(
            diversity=settings.diversity,
            exploration=Exploration(
                share=settings.exploration,
                policy="thompson" if settings.exploration_policy == "thompson" else "ucb",
                cold_shots=settings.exploration_cold_shots,
            ),
        )


def choose_rules(rules: RuleSet, tasks: Sequence[Task]) -> None:
    """Note for each task which rules are about it, and take in the items that they pin."""
    if not rules:
        return
    for task in tasks:
        request = task.request
        task.active = rules.for_request(request.scenario, request.user_id, task.profile)
        if request.explain:
            continue
        seen = frozenset() if request.include_seen or task.state is None else task.state.seen_items
        for place in task.active:
            rule = rules.rules[place]
            if isinstance(rule, Pin) and rule.item_id not in request.excluded and rule.item_id not in seen:
                task.items.setdefault(rule.item_id, 0)


def rulings(engine: Engine, marks: Marks, book: RuleBook, tasks: Sequence[Task]) -> list[Ruling]:
    """The rules of each task with the marks of its items; what cannot be read is said in the task."""
    rules = marks.rules
    broken = book.degradation()
    if broken is not None:
        for task in tasks:
            task.degrade(broken.reason, broken.fallback, broken.stage)
    if not rules:
        return [Ruling() for _ in tasks]
    wanted: dict[str, int] = {}
    for task in tasks:
        if task.active:
            for item_id, revision in task.items.items():
                wanted[item_id] = max(revision, wanted.get(item_id, 0), engine.catalogue.revision(item_id) or 0)
    found, error = marks.of(wanted)
    if error is not None:
        logger.warning("rules: the content of items cannot be read: %s", error.message)
    for task in tasks:
        if task.active and error is not None and any(found[item_id].unknown for item_id in task.items):
            task.degrade(error.reason, UNDECIDED, "rules")
        if task.profile is None and rules.reads_users:
            task.degrade("UNAVAILABLE", UNKNOWN_USER, "rules")
    return [
        Ruling(rules=rules, active=task.active, marks=found, added=task.items.keys() - task.request.revisions.keys())
        for task in tasks
    ]


def answer(
    engine: Engine, scores: BatchScores, place: int, task: Task, ruling: Ruling, settings: ListSettings
) -> Answer | MetarecError:
    """The list or the explanation that a task asks for; `place` is the user's in `scores`."""
    assert task.adapted is not None, "a task is adapted to before it is answered"
    if task.request.explain:
        return _explained(engine, scores, place, task, ruling, task.adapted.shots)
    request = task.request
    default = settings.exploration
    exploration = default if request.exploration is None else replace(default, share=request.exploration)
    wish = Wish(
        num_items=request.num_items,
        emerging=request.emerging,
        diversity=settings.diversity if request.diversity is None else request.diversity,
        exploration=exploration,
        cold=task.adapted.shots < exploration.cold_shots,
        request_id=request.request_id,
    )
    found = arrange(scores, place, list(task.items), wish, ruling)
    return Answer(
        checkpoint=engine.checkpoint,
        shots=task.adapted.shots,
        ranked=found.items,
        degradations=task.degradations,
        rules=found.rules,
        rules_version=ruling.rules.version,
        diversity=found.diversity,
    )


def _explained(engine: Engine, scores: BatchScores, place: int, task: Task, ruling: Ruling, shots: int) -> Answer | MetarecError:
    (item_id,) = task.items
    if not scores.knows(place, [item_id])[0]:
        return NotFoundError(f"checkpoint '{engine.checkpoint}' knows no item '{item_id}'", metadata={"item_id": item_id})
    effects = tuple(
        RuleEffect(rule=rule.name, effect=rule.effect, boost=rule.add if isinstance(rule, Boost) else 0.0)
        for number, rule in ruling.here
        if ruling.hit(number, item_id)
    )
    boosts = [effect for effect in effects if effect.effect == "boost"]
    score = float(scores.scores(place, [item_id])[0]) + sum(effect.boost for effect in boosts)
    return Answer(
        checkpoint=engine.checkpoint,
        shots=shots,
        ranked=[RankedItem(item_id=item_id, score=score, effects=effects)],
        contributions=explain(scores, place, item_id, boosts),
        degradations=task.degradations,
    )
