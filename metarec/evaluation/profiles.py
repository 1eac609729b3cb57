"""Do completed profiles hold? Against what is known of users that were held out.

Every known field of held-out users is hidden in turn and inferred from k of their interactions, alone and with their
other fields. Beside it stand the frequencies of the training users, and logistic regression on how often each category of item
occurs among the same k interactions, fitted for that very k and tuned as the checkpoint's own heads are. Temperatures of all are
fitted on one half of the held-out users and measured on the other, in turn: the checkpoint's own were fitted on these users.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.profile import learned_profiles
from metarec.errors import FailedPreconditionError
from metarec.features.blocks import CategoryBlock
from metarec.meta.blend import SupportRows
from metarec.meta.logistic import tuned_in_turn
from metarec.meta.prior import Prior
from metarec.meta.profile_inputs import known_fields, moved_vectors, with_hidden
from metarec.meta.profiles import Doubles, ProfileField, base_logits, best_temperature, log_loss, probabilities
from metarec.tasks.batch import EntityTable
from metarec.tasks.layout import TaskLayout
from metarec.tasks.tables import encode_unknown_users
from metarec.threads import one_core

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Ints = NDArray[np.int64]
Shots = int | None

MAX_HELD_OUT, MAX_TRAINING = 2000, 3000
MAX_ROWS = 200
SET_ASIDE = 0.25
NUM_BINS = 10
FREQUENCIES, COUNTS, COUNTS_FIELDS = "frequencies", "counts", "counts + fields"
BEHAVIOUR, BEHAVIOUR_FIELDS = "behaviour", "behaviour + fields"


@dataclass(frozen=True, kw_only=True)
class FieldScores:
    """One model on one field after `shots` interactions (None: all): `gain` is how much lower its log loss is than that of
    the frequencies, with its standard error over users."""

    field: str
    shots: Shots
    model: str
    users: int
    accuracy: float
    log_loss: float
    calibration_error: float
    gain: float
    gain_error: float


def evaluate_profiles(
    prior: Prior,
    train: "Dataset",
    held_out: "Dataset",
    shots: Sequence[Shots],
    *,
    seed: int = 0,
    watch: Callable[[str], None] = lambda _: None,
) -> list[FieldScores]:
    """Every field that the checkpoint completes, for the users of `held_out`, beside baselines fitted on those of `train`.

    FailedPreconditionError when the checkpoint knows nothing of profiles, or too few users were held out.
    """
    learned_profiles(prior)
    with one_core():
        contest = _Contest(prior, train, held_out, np.random.default_rng([seed, 61]))
        scores = []
        for k in shots:
            watch(f"profiles after {'all' if k is None else k} interactions")
            scores += contest.measure(k)
        return sorted(scores, key=lambda score: contest.names.index(score.field))


class _Contest:
    def __init__(self, prior: Prior, train: "Dataset", held_out: "Dataset", rng: np.random.Generator) -> None:
        self.prior, self.profiles, self.rng = prior, learned_profiles(prior), rng
        self.fields = self.profiles.fields
        self.names = [field.name for field in self.fields]
        self.heads = {target: prior.heads[target].prepared(prior.items) for target in self.profiles.targets}
        self.train, self.test = self._layout(train), self._layout(held_out)
        self.train_N = rng.permutation(np.flatnonzero(self.train.counts))[:MAX_TRAINING]
        self.test_N = rng.permutation(np.flatnonzero(self.test.counts))[:MAX_HELD_OUT]
        if len(self.test_N) < 2:
            raise FailedPreconditionError(
                f"profiles need two held-out users to be evaluated; there {'is one' if len(self.test_N) else 'are none'}"
            )
        self.users = encode_unknown_users(prior.encoder, train.users)
        self.values = {name: list(train.users[name]) for name in self.names}
        columns = [
            np.arange(start, stop - 1)
            for (_, start, stop), block in zip(prior.items.blocks, prior.encoder.item_encoders, strict=True)
            if isinstance(block, CategoryBlock)
        ]
        self.category_IP = prior.items.dense_NP.numpy()[:, np.concatenate(columns or [np.arange(0)])].astype(np.float64)
        self.half_N = np.arange(len(self.test_N)) % 2 == 0

    def _layout(self, dataset: "Dataset") -> TaskLayout:
        return TaskLayout.from_interactions(
            dataset.interactions, kind="user", num_tasks=len(dataset.user_ids), num_rows=len(dataset.item_ids)
        )

    def measure(self, k: Shots) -> list[FieldScores]:
        """All models on all fields after `k` interactions."""
        shown = [self._some(self.test, user, k) for user in self.test_N.tolist()]
        count_NP = self._counts(shown)
        train_NP = self._counts([self._some(self.train, user, k) for user in self.train_N.tolist()])
        found = []
        for place, field in enumerate(self.fields):
            y_NC, known_N = field.targets([self.values[field.name][user] for user in self.test_N])
            if known_N.sum() < 2:
                continue
            evidence = {FREQUENCIES: np.zeros_like(y_NC)}
            evidence |= {
                COUNTS: self._baseline(place, train_NP, count_NP, fields=False),
                COUNTS_FIELDS: self._baseline(place, train_NP, count_NP, fields=True),
                BEHAVIOUR: self._learner(place, shown, alone=True),
                BEHAVIOUR_FIELDS: self._learner(place, shown, alone=False),
            }
            losses, rows = {}, {}
            for model, evidence_NC in evidence.items():
                p_NC = self._calibrated(field, evidence_NC, y_NC, known_N)[known_N]
                losses[model] = log_loss(y_NC[known_N], p_NC, exclusive=field.exclusive)
                rows[model] = _accuracy_and_error(y_NC[known_N], p_NC, exclusive=field.exclusive)
            for model, loss_N in losses.items():
                gain_N = losses[FREQUENCIES] - loss_N
                found.append(
                    FieldScores(
                        field=field.name,
                        shots=k,
                        model=model,
                        users=len(loss_N),
                        accuracy=rows[model][0],
                        log_loss=float(loss_N.mean()),
                        calibration_error=rows[model][1],
                        gain=float(gain_N.mean()),
                        gain_error=float(gain_N.std(ddof=1) / np.sqrt(len(gain_N))),
                    )
                )
        return found

    def _some(self, layout: TaskLayout, user: int, k: Shots) -> SupportRows:
        """`k` random rows of a user, of all the newest that a log keeps."""
        rows = layout.rows_of(user)
        place = np.arange(max(rows.start, rows.stop - MAX_ROWS), rows.stop)
        place = place if k is None else np.sort(self.rng.permutation(place)[:k])
        return layout.row_N[place], layout.label_N[place], layout.timestamp_N[place] if layout.has_timestamps else None

    def _counts(self, supports: Sequence[SupportRows]) -> Doubles:
        """How often each category of item occurs: logarithms of counts."""
        counts: Doubles = np.log1p(np.array([self.category_IP[rows].sum(0) for rows, _, _ in supports]))
        return counts

    def _shown(self, place: int, user_N: Ints, *, alone: bool) -> EntityTable:
        """Profiles without the field, or `alone` without any."""
        names = [name for name, _, _ in self.users.blocks]
        hidden_K = np.array([alone or name == self.names[place] for name in names])
        return with_hidden(self.users, user_N, names, np.tile(hidden_K, (len(user_N), 1)))

    def _learner(self, place: int, shown: Sequence[SupportRows], *, alone: bool) -> Doubles:
        table = self._shown(place, self.test_N, alone=alone)
        moves = moved_vectors(self.heads, table, self.prior.items, shown)
        return self.fields[place].evidence(self.profiles.inputs(moves, known_fields(table)))

    def _baseline(self, place: int, train_NP: Doubles, test_NP: Doubles, *, fields: bool) -> Doubles:
        field = self.fields[place]
        y_NC, known_N = field.targets([self.values[field.name][user] for user in self.train_N])
        mean_P, scale_P = train_NP.mean(0), np.maximum(train_NP.std(0), 1e-6)
        parts, others = [(train_NP - mean_P) / scale_P], [(test_NP - mean_P) / scale_P]
        if fields:
            parts.insert(0, known_fields(self._shown(place, self.train_N, alone=False)).astype(np.float64))
            others.insert(0, known_fields(self._shown(place, self.test_N, alone=False)).astype(np.float64))
        aside_N = np.arange(len(y_NC)) < round(SET_ASIDE * len(y_NC))
        base_C = base_logits(field.share_C, exclusive=field.exclusive)
        weight_FC = tuned_in_turn(
            [part_NP[known_N] for part_NP in parts], y_NC[known_N], base_C, aside_N[known_N], exclusive=field.exclusive
        )
        return replace(field, weight_FC=weight_FC).evidence(np.concatenate(others, 1))

    def _calibrated(self, field: ProfileField, evidence_NC: Doubles, y_NC: Doubles, known_N: NDArray[np.bool_]) -> Doubles:
        """Probabilities with the temperature of the other half of the users."""
        p_NC = np.zeros_like(y_NC)
        for mine_N in (self.half_N, ~self.half_N):
            other_N = ~mine_N & known_N
            temperature = best_temperature(field.share_C, evidence_NC[other_N], y_NC[other_N], exclusive=field.exclusive)
            p_NC[mine_N] = probabilities(field.share_C, evidence_NC[mine_N], temperature, exclusive=field.exclusive)
        return p_NC


def _accuracy_and_error(y_NC: Doubles, p_NC: Doubles, *, exclusive: bool) -> tuple[float, float]:
    """Share of right answers, and expected calibration error of the answer's probability (Guo et al. 2017, eq. 3)."""
    if exclusive:
        answer_N = p_NC.argmax(1)
        right_N, sure_N = y_NC[np.arange(len(y_NC)), answer_N], p_NC.max(1)
    else:
        right_N, sure_N = ((p_NC > 0.5) == (y_NC > 0.5)).astype(np.float64).ravel(), np.maximum(p_NC, 1 - p_NC).ravel()
    bin_N = np.minimum((sure_N * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gap_B = np.bincount(bin_N, sure_N - right_N, NUM_BINS)
    return float(right_N.mean()), float(np.abs(gap_B).sum() / len(right_N))
