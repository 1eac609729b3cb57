"""What a checkpoint knows of items as tasks before their first labels: its item side, or else the head's own content map."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.errors import FailedPreconditionError
from metarec.meta.alpaca import Alpaca
from metarec.meta.alpaca_targets import AlpacaTargets
from metarec.meta.prior import Head, Prior
from metarec.models.content_process import has_process
from metarec.models.linear_gaussian import LinearGaussian
from metarec.models.linear_targets import LinearTargets
from metarec.tasks.batch import EntityTable

Doubles = NDArray[np.float64]

SMALLEST_VARIANCE = 1e-9
CLOSED_FORMS = ((Alpaca.name, LinearGaussian.name), (AlpacaTargets.name, LinearTargets.name))


def is_closed_form(head: Head) -> bool:
    """Whether the head adapts users in closed form on a row's content and id."""
    return head.kind == "user" and (head.learner.name, head.model.name) in CLOSED_FORMS


def closed_form(prior: Prior) -> Head:
    """The explicit head, in closed form and with users as tasks; FailedPreconditionError when the checkpoint has none."""
    head = prior.heads.get("explicit")
    if head is None or not is_closed_form(head):
        known = " or ".join(f"'{learner}'" for learner, _ in CLOSED_FORMS)
        found = "no explicit head" if head is None else f"an explicit head of learner '{head.learner.name}', kind '{head.kind}'"
        raise FailedPreconditionError(
            f"checkpoint '{prior.checkpoint}' has {found}; item tasks need one of kind 'user' and learner {known}",
            metadata={"checkpoint": prior.checkpoint},
        )
    return head


def item_prior(prior: Prior, items: EntityTable) -> tuple[Doubles, Doubles]:
    """Mean (I, E) of the vector and offset of items by their content, and the covariance (E, E) around it.

    Where too few items were known to learn an item side from, the spread is that of the head's id vectors around content.
    """
    side, head = prior.item_side, prior.heads.get("explicit")
    if side is not None and (head is None or not has_process(head.theta)):
        return side.mean(items), side.spread
    head = closed_form(prior)
    with torch.no_grad():
        phi_IE, bias_I = cast(LinearGaussian, head.model).row_features(head.theta, items, known_N=torch.zeros(len(items)))
    if side is not None:
        return side.mean(items, phi_IE[:, :-1].double()), side.spread
    ids_CE = np.column_stack([head.theta["row.id"].double().numpy(), head.theta["row.id_bias"].double().numpy()])
    variance_E = np.square(ids_CE[1:]).mean(0) if len(ids_CE) > 1 else np.zeros(ids_CE.shape[1])
    mean_IE = np.column_stack([phi_IE[:, :-1].double().numpy(), bias_I.double().numpy()])
    return mean_IE, np.diag(np.maximum(variance_E, SMALLEST_VARIANCE))
