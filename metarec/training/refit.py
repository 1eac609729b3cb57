"""From what training ends with to what is served: axes folded into id vectors (metarec.meta.row_axes), content maps fitted anew
to what training has learned of the known rows (metarec.meta.content_refit), and for unknown rows the process that the item side's
kernel makes of it (metarec.meta.content_process)."""

from dataclasses import replace

import torch

from metarec.meta.content_process import with_process
from metarec.meta.content_refit import refit_content
from metarec.meta.item_prior import is_closed_form
from metarec.meta.item_side import ItemSide
from metarec.meta.prior import Head
from metarec.meta.row_axes import fold_axes
from metarec.training.inputs import Inputs


def refitted(head: Head, inputs: Inputs) -> Head:
    """The head as it scores unknown items better and known ones the same; heads of other learners or tasks as they are."""
    if "axes.row" in head.theta:
        head = replace(head, theta=fold_axes(head.theta))
    if not is_closed_form(head):
        return head
    return replace(head, theta=refit_content(head.theta, inputs.items, torch.from_numpy(inputs.popularity_I)))


def with_content_process(head: Head, inputs: Inputs, side: ItemSide | None) -> Head:
    """The refitted head with the item side's kernel for unknown items; as it is where there is none."""
    if side is None:
        return head
    return replace(head, theta=with_process(head.theta, inputs.items, torch.from_numpy(inputs.popularity_I), side))
