"""Do completed profiles hold, and do audiences? Both against what is known of users and items that were held out.

Profiles: every known field of held-out users is hidden in turn and inferred from k of their interactions, alone and with their
other fields. Beside it stand the frequencies of the training users, and logistic regression on how often each category of item
occurs among the same k interactions, fitted for that very k and tuned as the checkpoint's own heads are. Temperatures of all are
fitted on one half of the held-out users and measured on the other, in turn: the checkpoint's own were fitted on these users.

Audiences: of items that training has not seen, the mean label of every segment of users is predicted from their content. What
matters is less the mean itself, which is mostly the item's, than the lift, what the segment thinks of it beyond everybody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from metarec.adaptation.preview import audience_scores
from metarec.adaptation.profile import learned_profiles
from metarec.adaptation.view import EngineView
from metarec.errors import FailedPreconditionError
from metarec.features.blocks import CategoryBlock
from metarec.meta.blend import SupportRows
from metarec.meta.catalogue import Catalogue
from metarec.meta.logistic import tuned_in_turn
from metarec.meta.prior import Prior
from metarec.meta.profile_inputs import known_fields, moved_vectors, with_hidden
from metarec.meta.profiles import Doubles, ProfileField, base_logits, best_temperature, log_loss, probabilities
from metarec.tasks.batch import EntityTable
from metarec.tasks.layout import TaskLayout
from metarec.tasks.tables import encode_unknown_items, encode_unknown_users

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Ints = NDArray[np.int64]
Shots = int | None

MAX_HELD_OUT, MAX_TRAINING = 2000, 3000
MAX_ROWS = 200
SET_ASIDE = 0.25
NUM_BINS = 10
MIN_RATINGS = 10
"""Labels of a segment for an item, below which their mean is mostly chance."""
MIN_ITEMS = 10
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


@dataclass(frozen=True, kw_only=True)
class AudienceScores:
    """Rank correlations over `items` unseen items of one segment: of mean labels, and of lifts over everybody's mean label.
    `plain` are those of means by category of item."""

    field: str
    value: str
    items: int
    mean: float
    lift: float
    plain_mean: float
    plain_lift: float


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
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices are small: where cores are busy, more threads wait longer than they compute
    try:
        contest = _Contest(prior, train, held_out, np.random.default_rng([seed, 61]))
        scores = []
        for k in shots:
            watch(f"profiles after {'all' if k is None else k} interactions")
            scores += contest.measure(k)
        return sorted(scores, key=lambda score: contest.names.index(score.field))
    finally:
        torch.set_num_threads(before)


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
            raise FailedPreconditionError(f"{len(self.test_N)} users were held out; profiles need 2 to be evaluated")
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


def evaluate_audience(prior: Prior, dataset: "Dataset", hidden_I: NDArray[np.bool_]) -> list[AudienceScores]:
    """How well `prior`, trained without the items `hidden_I` of `dataset`, tells what segments of users think of them."""
    view = EngineView.first(prior, Catalogue(prior).snapshot)
    hidden = np.flatnonzero(hidden_I)
    _, predicted = audience_scores(view, encode_unknown_items(prior.encoder, dataset.items.iloc[hidden]))
    events, items = dataset.interactions, len(dataset.item_ids)
    found = []
    category_IP = _categories(prior, dataset)
    asked_N = hidden_I[events.item_N]
    for place, segment in enumerate(learned_profiles(prior).segments):
        field = learned_profiles(prior).field(segment.field)
        assert field is not None
        y_NC, _ = field.targets(list(dataset.users[field.name]))
        mine_N = y_NC[events.user_N, field.classes.index(segment.value)] > 0
        count_I, sum_I = _sums(events.item_N[mine_N], events.label_N[mine_N], items)
        all_count_I, all_sum_I = _sums(events.item_N, events.label_N, items)
        used = np.flatnonzero(count_I[hidden] >= MIN_RATINGS)
        if len(used) < MIN_ITEMS:
            continue
        row = hidden[used]
        true_I = sum_I[row] / count_I[row]
        # Everybody's mean without the segment itself, or its own chance would be in both.
        rest_I = np.maximum(all_count_I[row] - count_I[row], 1)
        everybody_I = (all_sum_I[row] - sum_I[row]) / rest_I
        plain_I = _category_means(category_IP, events.item_N, events.label_N, mine_N & ~asked_N)[row]
        plain_all_I = _category_means(category_IP, events.item_N, events.label_N, ~asked_N)[row]
        mean_I = predicted.mean_IS[used, place]
        found.append(
            AudienceScores(
                field=segment.field,
                value=segment.value,
                items=len(used),
                mean=_rank_correlation(mean_I, true_I),
                lift=_rank_correlation(mean_I - predicted.mean_I[used], true_I - everybody_I),
                plain_mean=_rank_correlation(plain_I, true_I),
                plain_lift=_rank_correlation(plain_I - plain_all_I, true_I - everybody_I),
            )
        )
    return found


def _categories(prior: Prior, dataset: "Dataset") -> Doubles:
    """Categories of the dataset's items (I, P), as shares of each item's own."""
    dense_IP = prior.encoder.encode_items(dataset.items).astype(np.float64)
    columns = [
        np.arange(start, stop - 1)
        for (_, start, stop), block in zip(prior.encoder.item_blocks, prior.encoder.item_encoders, strict=True)
        if isinstance(block, CategoryBlock)
    ]
    category_IP = dense_IP[:, np.concatenate(columns or [np.arange(0)])]
    shares: Doubles = category_IP / np.maximum(category_IP.sum(1, keepdims=True), 1.0)
    return shares


def _category_means(
    category_IP: Doubles, item_N: NDArray[np.integer], label_N: NDArray[np.float32], chosen_N: NDArray[np.bool_]
) -> Doubles:
    """Mean label of each item's categories (I,) among the chosen rows, each with the weight of ten labels at the mean of all."""
    share_NP, label_N = category_IP[item_N[chosen_N]], label_N[chosen_N].astype(np.float64)
    middle = float(label_N.mean()) if len(label_N) else 0.0
    mean_P = (share_NP.T @ label_N + 10 * middle) / (share_NP.sum(0) + 10)
    means: Doubles = category_IP @ mean_P + (1 - category_IP.sum(1)) * middle
    return means


def _sums(item_N: NDArray[np.integer], label_N: NDArray[np.float32], items: int) -> tuple[Doubles, Doubles]:
    count_I = np.bincount(item_N, minlength=items).astype(np.float64)
    return count_I, np.bincount(item_N, label_N, items).astype(np.float64)


def _rank_correlation(one_N: Doubles, two_N: Doubles) -> float:
    """Spearman's; 0 where one side tells nothing apart."""
    if np.ptp(one_N) == 0 or np.ptp(two_N) == 0:
        return 0.0
    return float(spearmanr(one_N, two_N).statistic)
