"""AdaptTask for scenarios: what their users have in common, and a user within one, from stored or inline interactions.

Everything is worked out for the request alone, from the newest users of the scenario; what serving has published is not used.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.scenarios import as_shift, fit_scenarios, needs_scenarios, scenario_effect, within
from metarec.errors import InvalidInputError
from metarec.interactions.log import InteractionLog
from metarec.types import Features, Interaction
from metarec.v1 import adaptation_pb2
from services.adaptation.publisher import Publisher, adapt_each
from services.adaptation.scenario_shifts import MAX_USERS, stored_users
from services.adaptation.tasks import Tasks, check_task, task_response
from services.runtime import convert
from services.runtime.live import LiveCheckpoint

INLINE = "inline"
"""What a scenario is called whose name a request leaves out."""


class ScenarioTasks:
    """Adapts scenarios, and users within them, without keeping anything of either."""

    def __init__(self, log: InteractionLog, live: LiveCheckpoint, publisher: Publisher, tasks: Tasks) -> None:
        self._log, self._live, self._publisher, self._tasks = log, live, publisher, tasks

    def adapt(self, request: adaptation_pb2.AdaptTaskRequest) -> adaptation_pb2.AdaptTaskResponse:
        """The response to a request of either kind.

        InvalidInputError names a wrong field, FailedPreconditionError says that the checkpoint has no scenarios;
        NoCheckpointError while none is live.
        """
        engine = self._live.engine()
        check_task(request, engine.prior.schema)
        needs_scenarios(engine.view)
        inside = request.kind == adaptation_pb2.TASK_KIND_USER_IN_SCENARIO
        name = _name(request, inside)
        self._tasks.learn_items(engine, [*(row.id for row in request.support), *request.query_ids])
        rows = _rows(request, name, inside)
        user = self._user(engine, request, rows.pop("", None), inside)
        others: Iterable[UserInput] = [self._inline(user_id, support) for user_id, support in rows.items()]
        if not rows and name:
            others = self._stored(name, skip=request.task_id if inside else "")
        scenarios = fit_scenarios(engine.view, chain([user] if user.support else [], others))
        (adapted,) = adapt_each(engine, [user])
        scenario = scenarios.get(name)
        shifts = {each: as_shift(found) for each, found in scenarios.items()}
        spread_EE = None if scenario is None else scenario.covariance_EE.numpy()
        (adapted,) = within([adapted], [name], shifts, spread_EE)
        mean_N, variance_N = engine.predict(adapted, list(request.query_ids))
        told = adaptation_pb2.AdaptedScenario()
        if scenario is not None:
            told.num_users, told.num_rows, told.kappa = scenario.num_users, scenario.num_rows, scenario.kappa
            told.mean_shift, told.stddev_shift = scenario_effect(engine.view, shifts[name].mean_E)
        unknown = dict.fromkeys(row.id for row in request.support if row.id not in engine.catalogue)
        return task_response(
            engine,
            adapted.shots if inside else told.num_rows,
            list(request.query_ids),
            mean_N,
            variance_N,
            list(unknown),
            scenario=told,
        )

    def _user(
        self,
        engine: Engine,
        request: adaptation_pb2.AdaptTaskRequest,
        rows: Sequence[Interaction] | None,
        inside: bool,
    ) -> UserInput:
        """The user to predict for: somebody new, unless it is one within the scenario."""
        stored = self._tasks.stored_user(request.task_id) if inside and request.task_id else None
        features: Features | None = None if stored is None else stored.features
        if request.features:
            features = convert.user_features(request.features, engine.prior.schema, "features")
        support = rows if rows is not None else () if stored is None else stored.support
        return UserInput(support=support, features=features)

    def _inline(self, user_id: str, support: Sequence[Interaction]) -> UserInput:
        stored = self._tasks.stored_user(user_id)
        return UserInput(support=support, features=None if stored is None else stored.features)

    def _stored(self, scenario: str, skip: str) -> Iterable[UserInput]:
        users = self._log.scenario_users(scenario, MAX_USERS)
        return stored_users(self._log, self._publisher, [user_id for user_id in users if user_id != skip])


def _name(request: adaptation_pb2.AdaptTaskRequest, inside: bool) -> str:
    """The scenario's name. InvalidInputError when there is none and nothing else to adapt to either."""
    name, field = (request.scenario, "scenario") if inside else (request.task_id, "task_id")
    if not name and not request.support:
        raise InvalidInputError("must name the scenario, or send its interactions as support", field=field)
    return name or INLINE


def _rows(request: adaptation_pb2.AdaptTaskRequest, name: str, inside: bool) -> dict[str, list[Interaction]]:
    """The support rows by user; those of the task's own user under ""."""
    rows: dict[str, list[Interaction]] = {}
    for place, row in enumerate(request.support):
        if not row.user_id and not inside:
            raise InvalidInputError("must say who acted in the scenario", field=f"support[{place}].user_id")
        user_id = "" if inside and row.user_id == request.task_id else row.user_id
        entry = Interaction(user_id=user_id, item_id=row.id, label=row.label, scenario=name)
        rows.setdefault(user_id, []).append(entry)
    return rows
