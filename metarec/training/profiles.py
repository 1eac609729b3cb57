"""Learns what a checkpoint knows of profiles (metarec.meta.profiles), after its heads and on their training users.

Users are shown as serving will meet them: with support sets of random sizes from none to all they have, and with a random part of
their profile known. A field is only ever learned from draws in which it is hidden from adaptation as well. Penalties are chosen
on training users set aside, temperatures on validation users, whom no head has seen.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.features.blocks import CategoryBlock, NumberBlock
from metarec.features.encoder import FeatureEncoder
from metarec.features.values import as_categories, as_category, as_number
from metarec.meta.blend import SupportRows
from metarec.meta.logistic import tuned_logistic
from metarec.meta.prior import Head
from metarec.meta.profile_inputs import known_fields, linear_heads, moved_vectors, user_vectors, with_hidden
from metarec.meta.profiles import (
    OTHER,
    Doubles,
    ProfileField,
    ProfileKind,
    Profiles,
    Segment,
    base_logits,
    best_temperature,
    raw_inputs,
)
from metarec.tasks.batch import EntityTable
from metarec.tasks.layout import TaskLayout
from metarec.threads import one_core
from metarec.training.inputs import Inputs
from metarec.types import Target

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

STREAM = 53
MAX_USERS, MAX_SEGMENT_USERS = 3000, 20_000
"""Training users that heads and segments are learned from: enough for their few hundred weights."""
MAX_CLASSES = 100
NUM_BUCKETS = 5
MIN_USERS = 10
"""Training users who must share a value to make it a class or a segment."""
MIN_COVERED = 0.5
"""A field of which the classes cover less, such as a postal code, is nearly an identifier: nothing is learned of it."""
MAX_ROWS = 200
"""Newest rows of a support set, as the interaction log keeps them."""
DRAWS = 4
SET_ASIDE = 0.25
NOTHING, EVERYTHING = 0.15, 0.25
"""Shares of draws with an empty support set and with a whole one; the sizes of others are log-uniform between."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """N draws of users: rows of the table of users, raw inputs, and which fields of the table were hidden (N, K)."""

    user_N: Ints
    x_NF: Doubles
    hidden_NK: Mask


def learn_profiles(
    heads: Mapping[Target, Head], encoder: FeatureEncoder, dataset: "Dataset", inputs: Inputs, seed: int
) -> Profiles | None:
    """What these trained heads tell about profiles; None where users have no field to learn or no head is linear."""
    targets = linear_heads(heads)
    layout = inputs.layout("user", validation=False)
    rng = np.random.default_rng([seed, STREAM])
    user_N = rng.permutation(np.flatnonzero(layout.counts))[:MAX_SEGMENT_USERS]
    found = [
        profile_field(block, list(dataset.users[block.name].iloc[user_N]))
        for block in encoder.user_encoders
        if isinstance(block, CategoryBlock | NumberBlock)
    ]
    fields = [field for field in found if field is not None]
    if not targets or not fields:
        return None
    with one_core():
        prepared = {target: heads[target].prepared(inputs.items) for target in targets}
        learner = _Learner(prepared, inputs.items, inputs.users, dataset, fields, rng)
        return learner.learn(layout, user_N, inputs.layout("user", validation=True))


def profile_field(block: CategoryBlock | NumberBlock, values: Sequence[object]) -> ProfileField | None:
    """The field of a block, its classes and their shares among these values, without weights; None where it tells too little."""
    if isinstance(block, NumberBlock):
        number_N = np.array([number for value in values if (number := as_number(value, block.name)) is not None])
        cuts = np.quantile(number_N, np.arange(1, NUM_BUCKETS) / NUM_BUCKETS, method="inverted_cdf") if len(number_N) else []
        edges = tuple(float(cut) for cut in np.unique(cuts) if cut > number_N.min())
        return _with_shares(block.name, "number", bucket_names(edges), edges, values) if edges else None
    present = [as_categories(value, block.name) for value in values] if block.multiple else _single(block.name, values)
    known = [categories for categories in present if categories is not None]
    counts = Counter(category for categories in known for category in categories)
    frequent = sorted((name for name, count in counts.items() if count >= MIN_USERS), key=lambda name: (-counts[name], name))
    kept = sorted(frequent[:MAX_CLASSES])
    covered = sum(any(name in kept for name in categories) for categories in known)
    if not kept or covered < MIN_COVERED * len(known):
        return None
    if block.multiple:
        return _with_shares(block.name, "categories", tuple(kept), (), values)
    classes = (*kept, OTHER) if covered < len(known) else tuple(kept)
    return _with_shares(block.name, "category", classes, (), values) if len(classes) > 1 else None


def bucket_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Buckets between rising edges, as people say them."""
    between = [f"{low:g} to under {high:g}" for low, high in pairwise(edges)]
    return (f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over")


def _single(name: str, values: Sequence[object]) -> list[tuple[str, ...] | None]:
    found = [as_category(value, name) for value in values]
    return [None if category is None else (category,) for category in found]


def _with_shares(
    name: str, kind: ProfileKind, classes: tuple[str, ...], edges: tuple[float, ...], values: Sequence[object]
) -> ProfileField:
    none = np.zeros((0, len(classes)))
    field = ProfileField(name=name, kind=kind, classes=classes, edges=edges, share_C=none.sum(0), weight_FC=none)
    y_NC, known_N = field.targets(values)
    # One user more, who is a bit of everything: a class that nobody had among few users is not impossible.
    extra = 1.0 / len(classes) if field.exclusive else 0.5
    return replace(field, share_C=(y_NC.sum(0) + extra) / (known_N.sum() + 1))


class _Learner:
    """What stays the same while the profiles of one checkpoint are learned; `heads` are linear and prepared for `items`."""

    def __init__(
        self,
        heads: Mapping[Target, Head],
        items: EntityTable,
        users: EntityTable,
        dataset: "Dataset",
        fields: Sequence[ProfileField],
        rng: np.random.Generator,
    ) -> None:
        self.heads, self.items, self.users, self.fields, self.rng = heads, items, users, fields, rng
        self.values = {field.name: list(dataset.users[field.name]) for field in fields}
        self.names = [name for name, _, _ in users.blocks]
        self.width = users.dense_NP.shape[1]

    def learn(self, train: TaskLayout, user_N: Ints, validation: TaskLayout) -> Profiles:
        """Segments and heads from the training users `user_N`, temperatures from those of `validation`."""
        segments, segment_SE, everybody_E = self._segments(train, user_N)
        mine, unseen = user_N[:MAX_USERS], np.flatnonzero(validation.counts)
        draws = self._draw(train, mine)
        # Without validation users, temperatures are chosen on those set aside, whom the other heads have seen.
        aside = mine[: round(SET_ASIDE * len(mine))]
        others = self._draw(validation, unseen) if len(unseen) else self._draw(train, aside if len(aside) else mine)
        scale_F = np.ones(draws.x_NF.shape[1])
        # Vectors have any unit; the columns of encoded fields are of one size as they are.
        scale_F[self.width :] = np.maximum(np.sqrt(np.square(draws.x_NF[:, self.width :]).mean(0)), 1e-6)
        draws, others = (replace(part, x_NF=part.x_NF / scale_F) for part in (draws, others))
        return Profiles(
            fields=tuple(self._fit(k, draws, np.isin(draws.user_N, aside), others) for k in range(len(self.fields))),
            targets=tuple(self.heads),
            scale_F=scale_F,
            segments=segments,
            segment_SE=segment_SE,
            everybody_E=everybody_E,
        )

    def _segments(
        self, layout: TaskLayout, user_N: Ints
    ) -> tuple[tuple[Segment, ...], dict[Target, Doubles], dict[Target, Doubles]]:
        """Segments of MIN_USERS and more, and mean vectors: of each, and of everybody, with all that is known of the users."""
        table = with_hidden(self.users, user_N, (), np.zeros((len(user_N), 0), bool))
        vectors = user_vectors(self.heads, table, self.items, [_newest(layout, user) for user in user_N.tolist()])
        segments, member_SN = [], []
        for field in self.fields:
            y_NC, _ = field.targets([self.values[field.name][user] for user in user_N])
            for k, name in enumerate(field.classes):
                if name != OTHER and y_NC[:, k].sum() >= MIN_USERS:
                    segments.append(Segment(field=field.name, value=name, num_users=int(y_NC[:, k].sum())))
                    member_SN.append(y_NC[:, k] / y_NC[:, k].sum())
        weight_SN = np.array(member_SN).reshape(len(segments), len(user_N))
        means = {target: weight_SN @ w_NE.astype(np.float64) for target, w_NE in vectors.items()}
        return tuple(segments), means, {target: w_NE.astype(np.float64).mean(0) for target, w_NE in vectors.items()}

    def _draw(self, layout: TaskLayout, users: Ints) -> Draws:
        """DRAWS of each user, each with a random part of their rows and of their profile."""
        user_N = np.repeat(users, DRAWS)
        # A quarter of the draws knows nothing of the profile, the others about half of it.
        share_N1 = np.where(self.rng.random((len(user_N), 1)) < 0.25, 1.0, 0.5)
        hidden_NK = self.rng.random((len(user_N), len(self.names))) < share_N1
        supports = [self._some(_newest(layout, user)) for user in user_N.tolist()]
        table = with_hidden(self.users, user_N, self.names, hidden_NK)
        moves = moved_vectors(self.heads, table, self.items, supports)
        x_NF = raw_inputs(list(moves.values()), known_fields(table))
        return Draws(user_N=user_N, x_NF=x_NF, hidden_NK=hidden_NK)

    def _some(self, support: SupportRows) -> SupportRows:
        rows, labels, times = support
        chance, size = self.rng.random(), len(rows)
        if chance < NOTHING:
            size = 0
        elif chance < 1 - EVERYTHING and size > 1:
            size = round(float(np.exp(self.rng.uniform(0, np.log(size)))))
        kept = np.sort(self.rng.permutation(len(rows))[:size])
        return rows[kept], labels[kept], None if times is None else times[kept]

    def _fit(self, k: int, draws: Draws, aside_N: Mask, others: Draws) -> ProfileField:
        field = self.fields[k]

        def hidden(part: Draws) -> tuple[Doubles, Doubles, Mask]:
            y_NC, known_N = field.targets([self.values[field.name][user] for user in part.user_N])
            used_N = known_N & part.hidden_NK[:, self.names.index(field.name)]
            return part.x_NF[used_N], y_NC[used_N], used_N

        base_C = base_logits(field.share_C, exclusive=field.exclusive)
        fields_FC = self._fit_fields(field, np.unique(draws.user_N), np.unique(draws.user_N[aside_N]), base_C)
        x_NF, y_NC, used_N = hidden(draws)
        base_NC = base_C + x_NF[:, : self.width] @ fields_FC
        moves_FC = tuned_logistic(x_NF[:, self.width :], y_NC, base_NC, aside_N[used_N], exclusive=field.exclusive)
        fitted = replace(field, weight_FC=np.concatenate([fields_FC, moves_FC]))
        x_NF, y_NC, _ = hidden(others)
        temperature = best_temperature(field.share_C, fitted.evidence(x_NF), y_NC, exclusive=field.exclusive)
        return replace(fitted, temperature=temperature)

    def _fit_fields(self, field: ProfileField, users: Ints, aside: Ints, base_C: Doubles) -> Doubles:
        """Weights of the other fields: they need no adaptation, and half the rows know all of them."""
        user_N = np.repeat(users, DRAWS)
        share_N1 = np.where(np.arange(len(user_N)) % DRAWS < DRAWS // 2, 0.0, 0.5)[:, None]
        hidden_NK = self.rng.random((len(user_N), len(self.names))) < share_N1
        hidden_NK[:, self.names.index(field.name)] = True
        x_NF = known_fields(with_hidden(self.users, user_N, self.names, hidden_NK)).astype(np.float64)
        y_NC, known_N = field.targets([self.values[field.name][user] for user in user_N])
        base_NC, aside_N = np.broadcast_to(base_C, y_NC.shape), np.isin(user_N, aside)
        return tuned_logistic(x_NF[known_N], y_NC[known_N], base_NC[known_N], aside_N[known_N], exclusive=field.exclusive)


def _newest(layout: TaskLayout, user: int) -> SupportRows:
    rows = layout.rows_of(user)
    rows = slice(max(rows.start, rows.stop - MAX_ROWS), rows.stop)
    return layout.row_N[rows], layout.label_N[rows], layout.timestamp_N[rows] if layout.has_timestamps else None
