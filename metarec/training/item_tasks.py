"""The item side of a trained explicit head, learned on the items and users that the head itself was trained on."""

from collections.abc import Sequence

from metarec.meta.item_prior import is_closed_form
from metarec.meta.item_side import ItemSide, learn_item_side
from metarec.meta.prior import Head
from metarec.meta.prior_users import user_vectors
from metarec.threads import one_core
from metarec.training.heads import head_seed
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe


def best_item_side(inputs: Inputs, kinds: Sequence[str], recipe: HeadRecipe, head: Head, seed: int) -> ItemSide | None:
    """None for heads that are not in closed form, whose tasks are no users, or that know too few items well.

    `kinds` are those of the items' encoded fields.
    """
    if not is_closed_form(head):
        return None
    with one_core():
        users = user_vectors(head, inputs.users, inputs.items, inputs.layout("user", validation=False))
        return learn_item_side(users, inputs.items, kinds, head_seed(seed, recipe.target))
