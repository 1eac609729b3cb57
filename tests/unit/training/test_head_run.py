"""The outer loop: deterministic, resumable at any step, the same whoever shares the work, stopping early."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from metarec.errors import ConfigError, CorruptCheckpointError, FailedPreconditionError, InterruptedRunError
from metarec.features.encoder import FeatureEncoder
from metarec.models.linear_gaussian import LinearGaussian
from metarec.training.head_run import train_head
from metarec.training.heads import make_head
from metarec.training.inputs import Inputs, prepare
from metarec.training.loop import fit
from metarec.training.progress import Progress
from metarec.training.recipe import HeadRecipe, Recipe
from metarec.training.recipes import get_recipe
from metarec.training.state import PLAIN, HeadState, StateStore
from metarec.training.surroundings import Surroundings

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

SMALL = {"epochs": "3", "batch_size": "16", "model.embedding_dim": "4", "validation_fraction": "0.1", "patience": "0"}
RECIPE = get_recipe("alpaca").override({**SMALL, "explicit.members": "1"})
PAIR = replace(RECIPE.heads[0], members=2)
HEADS = [*RECIPE.heads, *get_recipe("fomaml").override(SMALL).heads, PAIR]
STEPS = 5
ALL_STEPS = 3 * STEPS


@pytest.fixture(scope="module")
def inputs(tiny_dataset: "Dataset") -> Inputs:
    encoder = FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)
    return prepare(tiny_dataset, encoder, RECIPE, 0)


def same(one: HeadState, two: HeadState) -> bool:
    equal = [
        set(one.best) == set(two.best),
        one.metrics == two.metrics,
        [{**e, "seconds": 0} for e in one.history] == [{**e, "seconds": 0} for e in two.history],
    ]
    return all(equal) and all(torch.equal(one.best[name], two.best[name]) for name in one.best)


def stop_after(count: int) -> Callable[[], bool]:
    calls = iter(range(1, 10_000))
    return lambda: next(calls) >= count


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.learner)
def test_the_seed_decides_everything(inputs: Inputs, head: HeadRecipe) -> None:
    one = train_head(inputs, head, 0, Surroundings())
    torch.randn(5)  # the global generator must not matter
    assert same(one, train_head(inputs, head, 0, Surroundings()))
    assert not same(one, train_head(inputs, head, 1, Surroundings()))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.learner)
@pytest.mark.parametrize("stops", [(1,), (STEPS,), (STEPS + 2,), (2, 1, STEPS, 3)])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    inputs: Inputs, tmp_path: Path, head: HeadRecipe, stops: tuple[int, ...]
) -> None:
    whole = train_head(inputs, head, 0, Surroundings())
    store = StateStore(tmp_path)
    for count in stops:
        with pytest.raises(InterruptedRunError, match=r"stopped in (member \d, )?epoch \d of head"):
            train_head(inputs, head, 0, Surroundings(store=store, stopped=stop_after(count)))
    assert same(whole, train_head(inputs, head, 0, Surroundings(store=store)))


def test_epochs_of_one_step_can_be_stopped_too(inputs: Inputs, tmp_path: Path) -> None:
    head, store = replace(RECIPE.heads[0], batch_size=1000), StateStore(tmp_path)
    with pytest.raises(InterruptedRunError, match="stopped in epoch 3 of head 'explicit'"):
        train_head(inputs, head, 0, Surroundings(store=store, stopped=stop_after(2)))
    whole = train_head(inputs, head, 0, Surroundings())
    assert same(whole, train_head(inputs, head, 0, Surroundings(store=store)))


@pytest.mark.parametrize("killed_at", [1, 2, 4, 6, 9, 13])
def test_a_run_killed_between_saves_goes_on_from_the_last_one(inputs: Inputs, tmp_path: Path, killed_at: int) -> None:
    head = RECIPE.heads[0]
    whole = train_head(inputs, head, 0, Surroundings())
    steps = iter(range(1, 1000))

    def kill(progress: Progress) -> None:
        if progress.step and not progress.metrics and next(steps) == killed_at:
            raise SystemExit  # nothing is saved on the way out

    store = StateStore(tmp_path)
    with pytest.raises(SystemExit):
        train_head(inputs, head, 0, Surroundings(store=store, watch=kill, save_every_steps=2))
    assert same(whole, train_head(inputs, head, 0, Surroundings(store=store, save_every_steps=2)))


@pytest.mark.parametrize("stops", [(ALL_STEPS,), (ALL_STEPS + 2,), (2, ALL_STEPS + 1, STEPS)])
def test_a_head_of_two_members_goes_on_in_the_one_it_was_stopped_in(
    inputs: Inputs, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    whole = train_head(inputs, PAIR, 0, Surroundings())
    store = StateStore(tmp_path)
    for count in stops:
        with pytest.raises(InterruptedRunError):
            train_head(inputs, PAIR, 0, Surroundings(store=store, stopped=stop_after(count)))
    seen: list[Progress] = []
    again = train_head(inputs, PAIR, 0, Surroundings(store=store, watch=seen.append))
    assert same(whole, again)
    assert next((p.member, p.members) for p in seen) == (1 if sum(stops) < ALL_STEPS else 2, 2)


def test_a_state_from_before_there_were_members_is_read(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, store = RECIPE.heads[0], StateStore(tmp_path)
    monkeypatch.setattr("metarec.training.state.PLAIN", tuple(name for name in PLAIN if name != "metrics"))
    with pytest.raises(InterruptedRunError):
        train_head(inputs, head, 0, Surroundings(store=store, stopped=stop_after(STEPS + 2)))
    monkeypatch.undo()
    assert same(train_head(inputs, head, 0, Surroundings()), train_head(inputs, head, 0, Surroundings(store=store)))


def test_who_is_stopped_in_a_member_is_told_which(inputs: Inputs) -> None:
    with pytest.raises(InterruptedRunError, match="stopped in member 2, epoch 1 of head 'explicit'"):
        train_head(inputs, PAIR, 0, Surroundings(stopped=stop_after(ALL_STEPS + 2)))


def test_members_differ_and_make_one_head_that_is_as_wide_as_both(inputs: Inputs) -> None:
    alone, pair = (train_head(inputs, head, 0, Surroundings()) for head in (RECIPE.heads[0], PAIR))
    assert pair.members == []
    assert [epoch["member"] for epoch in pair.history] == [1, 1, 1, 2, 2, 2]
    assert [epoch["validation_loss"] for epoch in pair.history[:3]] == [epoch["validation_loss"] for epoch in alone.history]
    assert pair.best["row.id"].shape[1] == 2 * alone.best["task.content"].shape[1]
    first, second = pair.best["task.content"].split(4, 1)
    torch.testing.assert_close(first, alone.best["task.content"] / 2)
    assert not torch.allclose(first, second)
    assert alone.metrics["validation_loss"] == alone.history[alone.best_epoch]["validation_loss"]
    assert pair.metrics["validation_loss"] not in [epoch["validation_loss"] for epoch in pair.history]
    last = [[epoch for epoch in pair.history if epoch["member"] == member and epoch["kept"]][-1] for member in (1, 2)]
    assert pair.metrics["train_loss"] == pytest.approx((last[0]["train_loss"] + last[1]["train_loss"]) / 2)
    assert make_head(PAIR, pair.best).model == LinearGaussian(embedding_dim=8)


def test_each_member_stops_early_by_itself_and_gives_its_own_best(inputs: Inputs) -> None:
    head, seen = replace(PAIR, epochs=12, patience=1, outer_lr=0.05), list[Progress]()
    state = train_head(inputs, head, 0, Surroundings(watch=seen.append))
    notes = [progress.note for progress in seen if progress.stage == "early_stop"]
    assert [note[: len("member 1 stopped early")] for note in notes] == ["member 1 stopped early", "member 2 stopped early"]
    alone = train_head(inputs, replace(head, members=1), 0, Surroundings())
    first = [epoch for epoch in state.history if epoch["member"] == 1]
    assert [epoch["validation_loss"] for epoch in first] == [epoch["validation_loss"] for epoch in alone.history]
    torch.testing.assert_close(state.best["task.content"].split(4, 1)[0], alone.best["task.content"] / 2)


def test_only_closed_forms_have_members(inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match="'fomaml' cannot be made of 2 trainings; set members to 1"):
        train_head(inputs, replace(get_recipe("fomaml").heads[0], members=2), 0, Surroundings())


def test_a_finished_head_is_not_trained_again(inputs: Inputs, tmp_path: Path) -> None:
    around = Surroundings(store=StateStore(tmp_path))
    whole = train_head(inputs, RECIPE.heads[0], 0, around)
    seen: list[Progress] = []
    again = train_head(inputs, RECIPE.heads[0], 0, replace(around, watch=seen.append))
    assert same(whole, again)
    assert seen == []


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.learner)
def test_workers_share_the_shards_and_reach_the_same_result(inputs: Inputs, head: HeadRecipe) -> None:
    alone = train_head(inputs, head, 0, Surroundings())
    together = in_threads(inputs, head, 2)
    assert same(together[0], together[1])
    for name, value in alone.best.items():
        torch.testing.assert_close(together[0].best[name], value, rtol=1e-3, atol=1e-5)


def test_more_workers_than_shards_are_idle_but_agree(inputs: Inputs) -> None:
    states = in_threads(inputs, RECIPE.heads[0], 3)
    assert same(states[0], states[2])


def test_a_wish_of_one_worker_stops_all_at_the_same_step(inputs: Inputs, tmp_path: Path) -> None:
    stopped = in_threads(inputs, RECIPE.heads[0], 2, store=StateStore(tmp_path), stopped=[lambda: False, stop_after(3)])
    assert stopped == []
    saved = StateStore(tmp_path).load("explicit")
    assert saved is not None
    assert (saved.epoch, saved.step) == (0, 3)


@dataclass(frozen=True, kw_only=True)
class ThreadWorkers:
    """Workers that are threads: the sum goes through a list and a barrier."""

    rank: int
    size: int
    barrier: threading.Barrier
    parts: list[Tensor | None]

    def sum_(self, tensor: Tensor) -> None:
        self.parts[self.rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(torch.stack([part for part in self.parts if part is not None]).sum(0))
        self.barrier.wait()


def in_threads(
    inputs: Inputs,
    head: HeadRecipe,
    size: int,
    store: StateStore | None = None,
    stopped: list[Callable[[], bool]] | None = None,
) -> list[HeadState]:
    barrier, parts = threading.Barrier(size, timeout=60), [None] * size
    found: list[HeadState | None] = [None] * size

    def run(rank: int) -> None:
        workers = ThreadWorkers(rank=rank, size=size, barrier=barrier, parts=parts)  # type: ignore[arg-type]  # filled by sum_
        around = Surroundings(workers=workers, store=store, stopped=stopped[rank] if stopped else lambda: False)
        try:
            found[rank] = train_head(inputs, head, 0, around)
        except InterruptedRunError:
            return

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [state for state in found if state is not None]


def test_training_stops_when_validation_no_longer_improves_and_says_so(inputs: Inputs) -> None:
    head = replace(RECIPE.heads[0], epochs=40, patience=2, outer_lr=0.3)
    seen: list[Progress] = []
    state = train_head(inputs, head, 0, Surroundings(watch=seen.append))
    assert state.epoch < 40
    losses = [epoch["validation_loss"] for epoch in state.history]
    assert losses.index(min(losses)) == state.lowest_epoch == state.epoch - 3
    assert seen[-1].stage == "early_stop"
    best = state.lowest_epoch + 1
    assert seen[-1].note.startswith(f"stopped early after epoch {state.epoch} of 40: validation was best in epoch {best}")
    kept = f"epoch {state.best_epoch + 1}, which it does not show to be worse, is kept"
    assert (kept in seen[-1].note) == (state.best_epoch + 1 != best)


def test_training_learns(inputs: Inputs) -> None:
    state = train_head(inputs, replace(RECIPE.heads[0], epochs=12), 0, Surroundings())
    assert state.history[state.best_epoch]["validation_loss"] < 0.6 * state.history[0]["validation_loss"]


def test_a_diverging_loss_is_an_error_that_says_what_to_do(inputs: Inputs) -> None:
    head = replace(get_recipe("fomaml").override(SMALL).heads[0], outer_lr=1e30)
    said = r"the loss of head 'explicit' became .*; lower outer_lr \(1e\+30\), lower learner.inner_lr \(0.05\) or set clip_norm"
    with pytest.raises(FailedPreconditionError, match=said):
        train_head(inputs, head, 0, Surroundings())


@pytest.mark.parametrize("learner", ["alpaca", "fomaml"])
def test_training_that_diverges_in_its_last_step_is_told_by_validation(inputs: Inputs, learner: str) -> None:
    recipe = get_recipe(learner).override({**SMALL, "members": "1"})
    head = replace(recipe.heads[0], outer_lr=1e30, epochs=1, batch_size=1000)
    with pytest.raises(FailedPreconditionError, match=r"the validation loss of head 'explicit' became .* after epoch 1; lower"):
        train_head(inputs, head, 0, Surroundings())


@pytest.mark.parametrize("head", RECIPE.heads, ids=lambda head: head.learner)
def test_a_solve_that_fails_is_a_diverging_loss(inputs: Inputs, head: HeadRecipe) -> None:
    with pytest.raises(FailedPreconditionError, match=r"loss of head '\w+' became nan (in|after) epoch \d.*; lower outer_lr"):
        train_head(inputs, replace(head, outer_lr=1e30), 0, Surroundings())


def test_a_gpu_that_is_not_there_is_refused(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'gpu' needs a CUDA device and this process sees none; use 'cpu'"):
        train_head(inputs, RECIPE.heads[0], 0, Surroundings(device="gpu"))


def test_too_little_data_is_refused(inputs: Inputs) -> None:
    head = replace(RECIPE.heads[0], episodes={"min_query": 1000})
    said = r"head 'explicit': no task has enough .*no user of training has 1000 or more.*lower explicit.episodes.min_query"
    with pytest.raises(FailedPreconditionError, match=said):
        train_head(inputs, head, 0, Surroundings())


def test_a_head_without_tasks_is_refused_before_another_is_trained(tiny_dataset: "Dataset") -> None:
    seen: list[Progress] = []
    with pytest.raises(FailedPreconditionError, match="head 'implicit': no task has enough interactions"):
        fit(tiny_dataset, RECIPE.override({"implicit.episodes.min_query": "1000"}), seed=0, progress=seen.append)
    assert not seen


def test_a_damaged_state_is_named(inputs: Inputs, tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    train_head(inputs, RECIPE.heads[0], 0, Surroundings(store=store))
    path = store.path("explicit")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CorruptCheckpointError, match=r"state\.explicit\.safetensors"):
        train_head(inputs, RECIPE.heads[0], 0, Surroundings(store=store))


def test_without_validation_users_the_last_epoch_is_taken(inputs: Inputs) -> None:
    nobody = replace(inputs, validation_user_U=inputs.validation_user_U & False)
    state = train_head(nobody, RECIPE.heads[0], 0, Surroundings())
    assert state.best_epoch == RECIPE.heads[0].epochs - 1
    assert set(state.history[0]) == {"epoch", "train_loss", "kept", "seconds"}


def test_items_as_tasks_train_too(inputs: Inputs) -> None:
    recipe = Recipe(name="items", heads=(replace(RECIPE.heads[0], kind="item", epochs=2),))
    state = train_head(inputs, recipe.heads[0], 0, Surroundings())
    assert len(state.history) == 2


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.learner)
def test_threads_do_not_change_a_bit(inputs: Inputs, head: HeadRecipe) -> None:
    before = torch.get_num_threads()
    one, two = (train_head(inputs, head, 0, Surroundings(threads=threads)) for threads in (1, 2))
    assert same(one, two)
    assert torch.get_num_threads() == before
