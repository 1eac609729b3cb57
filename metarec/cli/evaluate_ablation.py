"""`metarec evaluate --ablate`: which episodes are asked, and which learners answer them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from metarec.cli.evaluate_inputs import Loaded
from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.evaluation.ablation import Asked, Mode, ablate
from metarec.evaluation.entities import entities
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.evaluate import MAX_HELD_OUT_USERS
from metarec.evaluation.hidden_items import ask_for_hidden, hide_items
from metarec.evaluation.rating_run import learner_name, rating_target, training_rows
from metarec.evaluation.results import Report
from metarec.features.encoder import FeatureEncoder
from metarec.features.groups import choose_groups
from metarec.meta.prior import Prior
from metarec.training.loop import fit
from metarec.training.progress import Progress, Watch


def ablation_report(
    checkpoint: Path,
    data: Path,
    episodes: Path | None,
    mode: Mode,
    names: tuple[str, ...],
    *,
    seed: int,
    seeds: int,
    watch: Callable[[str], None],
) -> Report:
    """What each group of features (all of them without `names`) contributes to the learner of a checkpoint."""
    dataset = Dataset.open(data)
    loaded = Loaded.open(checkpoint, dataset)
    encoder = loaded.prior.encoder
    groups = choose_groups(encoder, names, fields=mode == "blank")
    target = rating_target(loaded.prior)
    recipe = replace(loaded.recipe, heads=tuple(head for head in loaded.recipe.heads if head.target == target))
    notes: list[str] = []
    if target == "implicit" and not dataset.has_varied_labels:
        raise FailedPreconditionError(
            "all labels of the dataset are alike, so no order of given items is better than another, and nothing tells what "
            "features contribute to it"
        )
    if episodes is None:
        train, hidden_I = hide_items(dataset, seed)
        asked = ask_for_hidden(dataset, hidden_I, seed=seed, max_users=MAX_HELD_OUT_USERS)
        notes.append(
            f"the learner is trained without {int(hidden_I.sum())} items and asked for them; the checkpoint, which knows them, "
            "only gives recipe and encoder"
        )
    else:
        rows = read_episodes(episodes, dataset.schema)
        notes += rows.notes
        asked = Asked(user_ids=tuple(rows.user_T), item_ids=tuple(rows.item_N), resolve=rows.resolve)
        train = dataset
        if mode == "retrain":
            tables = entities(loaded.prior, dataset, asked.user_ids, asked.item_ids)
            keep_N = training_rows(dataset, rows.resolve(tables), tables, same_data=True)
            train = dataset.with_interactions(dataset.interactions.select(keep_N))
            if left_out := int((~keep_N).sum()):
                notes.append(f"the learner is trained without {left_out} interactions that the episodes ask for")

    def trained(encoder: FeatureEncoder, seed: int) -> Prior:
        if mode == "blank" and episodes is not None:
            return loaded.prior
        return fit(train, recipe, seed=seed, encoder=encoder, progress=_show(watch))

    if mode == "blank" and episodes is not None and seeds > 1:
        raise InvalidInputError("the checkpoint is one training: several seeds need '--ablate retrain'", field="ablate-seeds")
    notes.append(
        "groups were left out by training anew without them"
        if mode == "retrain"
        else "groups were left out by blanking their values at prediction, which charges them for what others could say instead"
    )
    found = ablate(dataset, asked, encoder, groups, mode=mode, trained=trained, seeds=range(seed, seed + seeds), watch=watch)
    return Report(
        learner=learner_name(loaded.prior),
        facts={**loaded.facts, "data": str(data), "same_data": loaded.same_data},
        protocols=[],
        settings={"seed": seed, "episodes": None if episodes is None else str(episodes), "ablate": mode, "ablate_seeds": seeds},
        notes=notes,
        ablations=found,
    )


def _show(watch: Callable[[str], None]) -> Watch:
    def show(progress: Progress) -> None:
        if progress.metrics:
            watch(f"{progress.target} {progress.where}")

    return show
