"""Do audiences hold? The table of segments that an unseen item's content gives, against what these segments made of the item.

Of items that training has not seen, the mean label of every segment of users is predicted from their content. What
matters is less the mean itself, which is mostly the item's, than the lift, what the segment thinks of it beyond everybody.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from metarec.adaptation.preview import audience_scores
from metarec.adaptation.profile import learned_profiles
from metarec.adaptation.view import EngineView
from metarec.features.blocks import CategoryBlock
from metarec.meta.catalogue import Catalogue
from metarec.meta.prior import Prior
from metarec.meta.profiles import Doubles
from metarec.tasks.tables import encode_unknown_items

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

MIN_RATINGS = 10
"""Labels of a segment for an item, below which their mean is mostly chance."""
MIN_ITEMS = 10


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
