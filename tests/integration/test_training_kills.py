"""`kill -9` at any moment of a training run, and the same command again: the result is that of a run nobody disturbed.

Runs happen in processes forked from a server that has imported everything once; they really end by SIGKILL.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.training.manifest import MANIFEST, Manifest, read_manifest
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
from metarec.training.registry import CHECKPOINTS, LIVE, Registry
from metarec.training.run_options import RunOptions
from metarec.types import GateReport

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.meta.prior import Prior
    from metarec.training.progress import Progress

RECIPE = get_recipe("alpaca").override(
    {
        "epochs": "3",
        "batch_size": "16",
        "model.embedding_dim": "4",
        "explicit.members": "2",
        "validation_fraction": "0.1",
        "patience": "0",
    }
)
STEPS = 5
EXPLICIT_STEPS = 2 * 3 * STEPS

MOMENTS = (
    "features",  # nothing is there yet
    "encoder",  # the feature store is
    "step 4",  # past the first saved state of the epoch
    "epoch 1",  # its end is announced, not yet saved
    f"step {2 * STEPS + 1}",
    f"step {3 * STEPS + 3}",  # within the second member of the first head
    "between",  # the first head is finished, the second has not begun
    f"step {EXPLICIT_STEPS + 3}",  # within the second head
    "gate",
    "file 3",  # half of the checkpoint's files are written
    "rename",  # all of them, under a name that is not theirs
    "published",  # the checkpoint is there, the run has not heard of it
)
PRELOAD = (
    "metarec.training.distributed",
    "metarec.training.run",
    "feast",
    "dask.dataframe",
    "ray.train.torch",
    "sklearn.decomposition",
    "torch._inductor.config",
)
"""What a run imports on its way: once in the server instead of in every process."""


def judge(prior: "Prior", train: "Dataset", validation: "Dataset") -> GateReport:
    return GateReport(delta=0.5, passed=True, metrics={"users": float(len(set(validation.interactions.user_N.tolist())))})


def run(data: str, out: str, moment: str) -> None:
    """Train, in a process of its own, and die at `moment` (never when it is empty)."""
    import functools

    from metarec.training import checkpoint, registry
    from metarec.training import run as run_module
    from metarec.training.worker import Assignment

    run_module.Assignment = functools.partial(Assignment, save_every_steps=2)  # type: ignore[misc]  # saves within an epoch
    files, kind, _, number = iter(range(1, 100)), *moment.partition(" ")
    real_write, real_rename, real_finish = checkpoint.write_atomically, os.rename, run_module._Run._finish

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(progress: "Progress") -> None:
        done = progress.fraction[0] + (EXPLICIT_STEPS if progress.target == "implicit" else 0)
        if (
            progress.stage == moment
            or (kind == "step" and progress.step and done == int(number))
            or (kind == "epoch" and progress.metrics and progress.epoch == int(number) and progress.target == "explicit")
            or (kind == "between" and progress.target == "implicit")
        ):
            die()

    def write(path: Path, data: bytes) -> None:
        if kind == "file" and path.parent.parent.name == CHECKPOINTS and next(files) == int(number):
            die()
        real_write(path, data)

    def rename(source: Path, target: Path) -> None:
        if kind == "rename":
            die()
        real_rename(source, target)

    def finish(self: "run_module._Run", published: str) -> None:
        if kind == "published":
            die()
        real_finish(self, published)

    checkpoint.write_atomically = write
    registry.os.rename = rename  # type: ignore[assignment]  # the child's own
    run_module._Run._finish = finish  # type: ignore[method-assign]  # the child's own
    options = RunOptions(threads=1)
    run_module.train(data, RECIPE, out=out, seed=4, gate=judge, progress=watch, options=options)


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    root = str(Path(__file__).parents[2])
    sys.path.insert(0, root)  # children import this module by name
    yield context
    sys.path.remove(root)


def end_of(processes: ForkServerContext, *arguments: str) -> int | None:
    process = processes.Process(target=run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def facts(registry: Path) -> dict[str, object]:
    """What a run decides: everything of the checkpoint but times and names."""
    (info,) = Registry(registry).list()
    manifest = read_manifest(info.path)
    history = manifest["history"]
    assert isinstance(history, dict)
    epochs = {target: [{**epoch, "seconds": 0} for epoch in rows] for target, rows in history.items()}
    return {**{name: manifest[name] for name in ("metrics", "blend", "gate", "files", "seed", "recipe")}, "history": epochs}


def test_a_run_killed_again_and_again_equals_one_that_was_not(
    processes: ForkServerContext, tiny_dataset: "Dataset", tmp_path: Path
) -> None:
    data = str(tiny_dataset.save(tmp_path / "data").path)
    assert end_of(processes, data, str(tmp_path / "whole"), "") == 0
    for moment in MOMENTS:
        assert end_of(processes, data, str(tmp_path / "killed"), moment) == -signal.SIGKILL, moment
        assert len(Registry(tmp_path / "killed").list()) == (moment == "published"), moment
    assert end_of(processes, data, str(tmp_path / "killed"), "") == 0
    assert facts(tmp_path / "killed") == facts(tmp_path / "whole")
    (directory,) = [path for path in (tmp_path / "killed" / "runs").iterdir() if path.is_dir()]
    assert [path.name for path in directory.iterdir()] == ["result.json"]


def publish_and_promote(registry: str, source: str, times: int) -> None:
    """Run in processes of its own."""
    from metarec.training.checkpoint import load_checkpoint

    recipe = Recipe.from_dict(json.loads(Path(source, MANIFEST).read_text())["recipe"])
    prior = load_checkpoint(source)
    gate = GateReport(delta=0.1, passed=True)
    for _ in range(times):
        manifest = Manifest(recipe=recipe, seed=0, data_fingerprint="f00", created=1.7e9, gate=gate)
        Registry(registry).promote(Registry(registry).publish(prior, manifest))


def test_publishers_in_several_processes_do_not_lose_or_mix_checkpoints(
    processes: ForkServerContext, tiny_registry: Path, tmp_path: Path
) -> None:
    source = str(Registry(tiny_registry).get("live").path)
    registry = Registry(tmp_path)
    writers = [processes.Process(target=publish_and_promote, args=(str(tmp_path), source, 4)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    infos = registry.list()
    assert sorted(int(info.id.split("-")[1]) for info in infos) == list(range(1, 13))
    for info in infos:
        assert registry.load(info.id).checkpoint == info.id
    promoted = json.loads((tmp_path / LIVE).read_text())["promoted"]
    assert sorted(promoted) == sorted(info.id for info in infos)
    assert registry.live() == promoted[-1]
