"""Training in one process: a dataset in, a prior out. Workers, tests and evaluation protocols build on it."""

from dataclasses import replace

import torch

from metarec.data.dataset import Dataset
from metarec.features.encoder import FeatureEncoder
from metarec.meta.item_side import ItemSide
from metarec.meta.prior import Prior
from metarec.threads import beside
from metarec.training.blending import best_blend
from metarec.training.calibrating import calibrated
from metarec.training.decay import with_decay
from metarec.training.head_run import train_head
from metarec.training.heads import check_labels, check_tasks, head_layout, make_head
from metarec.training.inputs import Inputs, prepare
from metarec.training.item_tasks import best_item_side
from metarec.training.label_scale import label_scale
from metarec.training.linking import best_link
from metarec.training.profiles import learn_profiles
from metarec.training.progress import Progress, Watch, silent
from metarec.training.recipe import Recipe
from metarec.training.refit import refitted, with_content_process
from metarec.training.scenarios import best_scenarios, with_reference
from metarec.training.state import HeadState
from metarec.training.surroundings import Surroundings
from metarec.types import Target


def fit(
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    progress: Watch | None = None,
    encoder: FeatureEncoder | None = None,
    device: str = "cpu",
    with_profiles: bool = False,
) -> Prior:
    """Train every head of `recipe` in this process on the dataset as it is; the whole of training without store, Ray or files.

    `encoder` is fitted on the dataset's entities unless one is given. `with_profiles`: see `assemble`.
    """
    recipe = recipe.for_labels(dataset.schema.label.kind, varied=dataset.has_varied_labels)
    check_labels(recipe, dataset.schema.label.kind)
    encoder = encoder or FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)
    inputs = prepare(dataset, encoder, recipe, seed)
    for head in recipe.heads:
        check_tasks(head, head_layout(inputs, head, validation=False))
    around = Surroundings(watch=progress or silent, device=device, threads=torch.get_num_threads())
    states = {head.target: train_head(inputs, head, seed, around) for head in recipe.heads}
    return assemble(dataset, encoder, inputs, recipe, states, seed, watch=around.watch, with_profiles=with_profiles)


def assemble(
    dataset: Dataset,
    encoder: FeatureEncoder,
    inputs: Inputs,
    recipe: Recipe,
    states: dict[Target, HeadState],
    seed: int,
    *,
    watch: Watch = silent,
    with_profiles: bool = False,
) -> Prior:
    """The prior of trained heads, with the blend, and the link of binary labels, chosen on validation tasks.

    `with_profiles`: and with what it knows of profiles, learned at the same time as the item side.
    """
    watch(Progress(stage="refit"))
    recipes = {head.target: head for head in recipe.heads}
    heads = {head.target: refitted(make_head(head, states[head.target].best), inputs) for head in recipe.heads}
    if "explicit" in heads:
        scale = label_scale(recipes["explicit"], inputs.layout("user", validation=False).label_N)
        heads["explicit"] = with_reference(inputs, with_decay(inputs, heads["explicit"], seed, scale=scale), seed)
        if dataset.schema.label.kind != "binary":  # whose probabilities are the link's
            heads["explicit"] = calibrated(inputs, recipes["explicit"], heads["explicit"], seed)

    def learn_items() -> ItemSide | None:
        if "explicit" not in heads:
            return None
        return best_item_side(inputs, encoder.item_kinds, recipes["explicit"], heads["explicit"], seed)

    watch(Progress(stage="items"))
    with beside(learn_items) as learned_items:
        profiles = None
        if with_profiles:
            watch(Progress(stage="profiles"))
            # Items that no training user has are still mapped from their content alone here.
            profiles = learn_profiles(heads, encoder, dataset, inputs, seed)
        item_side = learned_items.result()
    if "explicit" in heads:
        heads["explicit"] = with_content_process(heads["explicit"], inputs, item_side)
    watch(Progress(stage="blend"))
    return Prior(
        schema=dataset.schema,
        encoder=encoder,
        item_ids=tuple(str(item_id) for item_id in dataset.item_ids),
        items=inputs.items,
        popularity_I=replace(inputs, interactions=dataset.taken.interactions).popularity_I,
        heads=heads,
        blend=best_blend(inputs, recipes, heads, seed),
        link=(
            best_link(inputs, recipes["explicit"], heads["explicit"], seed)
            if dataset.schema.label.kind == "binary" and "explicit" in heads
            else None
        ),
        item_side=item_side,
        profiles=profiles,
        scenarios=best_scenarios(inputs, heads["explicit"], seed, watch) if "explicit" in heads else {},
    )
