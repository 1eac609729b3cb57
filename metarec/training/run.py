"""A training run from a dataset directory to a published checkpoint, resumable after a kill at any moment.

    <out>/features/        the feature store that training and serving read
    <out>/runs/<run>/      inputs, saved states and events of a run; emptied once its checkpoint is published
    <out>/checkpoints/     the registry

A run is named by a hash of everything that decides its result, so the same command finds its own unfinished run.
"""

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError, InterruptedRunError
from metarec.features.encoder import FeatureEncoder
from metarec.features.store import FeatureStore
from metarec.training.checkpoint import encoder_files, read_encoder
from metarec.training.files import canonical, sha256, write_atomically
from metarec.training.gate import Gate, GateReport
from metarec.training.heads import check_labels, check_tasks, episode_config, head_layout, make_head
from metarec.training.inputs import Inputs, prepare, split
from metarec.training.loop import assemble
from metarec.training.manifest import Manifest
from metarec.training.progress import Progress, Watch, silent
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.training.run_options import RunOptions, check_device, enough_shards
from metarec.training.state import EpochMetrics, HeadState, StateStore
from metarec.training.stop import StopFile
from metarec.training.told import learned, left_out
from metarec.training.worker import Assignment
from metarec.types import Target
from metarec.version import __version__


def train(
    data: Path | str,
    recipe: Recipe | str = "",
    *,
    out: Path | str,
    seed: int = 0,
    workers: int = 0,
    gate: Gate | None = None,
    progress: Watch | None = None,
    options: RunOptions | None = None,
) -> str:
    """Train on the dataset in `data` and publish to the registry `out`; returns the checkpoint's id.

    Features come point in time from the feature store below `out`; heads are trained by Ray Train with `workers` processes;
    `gate` judges the result on held-out users. Raises InterruptedRunError when stopped: calling again goes on where it was.
    """
    options = replace(options or RunOptions(), workers=workers) if workers else options or RunOptions()
    check_device(options)
    dataset = Dataset.open(Path(data))
    asked = recipe if isinstance(recipe, Recipe) else get_recipe(recipe, several_targets=bool(dataset.schema.targets))
    chosen = enough_shards(asked.for_labels(dataset.schema.label.kind, varied=dataset.has_varied_labels), options.workers)
    for head in chosen.heads:  # wrong settings are told before the work starts
        make_head(head, {})
        episode_config(head)
    check_labels(chosen, dataset.schema.label.kind)
    run = _Run(dataset, chosen, seed, Path(out).resolve(), options, progress or silent)
    for said in left_out(asked, chosen, dataset):
        run.watch(Progress(stage="left_out", note=said))
    with run.locked():
        try:
            return run.execute(gate)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "training was stopped; run the same command again to go on from the last saved state"
            ) from None


def run_name(recipe: Recipe, dataset: Dataset, seed: int) -> str:
    """Hash of what decides a run's result: recipe, data, schema, seed and version."""
    facts = [recipe.to_dict(), dataset.fingerprint, dataset.schema.hash, seed, __version__]
    return f"{recipe.name}-{sha256(canonical(facts))[:12]}"


class _Run:
    """One run and its directory."""

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, out: Path, options: RunOptions, watch: Watch) -> None:
        self.dataset, self.recipe, self.seed, self.out = dataset, recipe, seed, out
        self.options, self.watch = options, watch
        self.name = run_name(recipe, dataset, seed)
        self.directory = out / "runs" / self.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process off the same run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.out / "runs" / f".{self.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FailedPreconditionError(
                    f"another process is training run '{self.name}' in '{self.out}'; wait for it, or change the seed or --out"
                ) from None
            yield

    def execute(self, gate: Gate | None) -> str:
        """Every stage that is not done yet."""
        attempt = self._attempt()
        registry = Registry(self.out)
        published = next((info.id for info in registry.list() if info.run == attempt), None)
        if published is None:
            published = self._train_and_publish(gate, registry, attempt)
        self._finish(published)
        return published

    def _attempt(self) -> str:
        """The name of the unfinished attempt, or of a new one in an empty directory."""
        path = self.directory / "run.json"
        if self.options.resume and path.exists():
            return str(json.loads(path.read_bytes())["attempt"])
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        attempt = f"{self.name}-{uuid.uuid4().hex[:8]}"
        write_atomically(path, json.dumps({"attempt": attempt, "recipe": self.recipe.to_dict(), "seed": self.seed}).encode())
        return attempt

    def _train_and_publish(self, gate: Gate | None, registry: Registry, attempt: str) -> str:
        encoder, inputs = self._inputs()
        states = self._states()
        for target, state in states.items():
            self._replay(target, state)
        if not (len(states) == len(self.recipe.heads) and all(state.finished for state in states.values())):
            for head in self.recipe.heads:  # not after hours of training another head
                check_tasks(head, head_layout(inputs, head, validation=False))
            self._run_heads()
            states = self._states()
        prior = assemble(self.dataset, encoder, inputs, self.recipe, states, self.seed, watch=self.watch, with_profiles=True)
        for said in learned(prior, inputs):
            self.watch(Progress(stage="learned", note=said))
        report: GateReport | None = None
        if gate is not None:
            self.watch(Progress(stage="gate"))
            try:
                report = gate(prior, *split(self.dataset, inputs.validation_user_U))
            except FailedPreconditionError as error:
                # Too little data to judge is no reason to throw the training away; promotion will ask for force.
                self.watch(Progress(stage="unjudged", note=error.message))
        self.watch(Progress(stage="publish"))
        history: dict[str, tuple[EpochMetrics, ...]] = {target: tuple(state.history) for target, state in states.items()}
        manifest = Manifest(
            recipe=self.recipe,
            seed=self.seed,
            data_fingerprint=self.dataset.fingerprint,
            created=time.time(),
            metrics=best_metrics(states),
            gate=report,
            job_id=self.options.job_id,
            run=attempt,
            history=history,
            train_seconds=sum(epoch["seconds"] for epochs in history.values() for epoch in epochs),
        )
        return registry.publish(prior, manifest)

    def _inputs(self) -> tuple[FeatureEncoder, Inputs]:
        """Those of an earlier attempt, or new ones from the feature store."""
        if (self.directory / "inputs.json").exists():
            return read_encoder(self.directory), Inputs.load(self.directory)
        self.watch(Progress(stage="features"))
        store = FeatureStore.build(self.dataset, self.out / "features", online=self.options.online)
        as_of = float(self.dataset.interactions.timestamp_N.max()) if len(self.dataset.interactions) else 0.0
        user_ids, item_ids = list(map(str, self.dataset.user_ids)), list(map(str, self.dataset.item_ids))
        users, items = store.training_frames(user_ids, item_ids, as_of)
        self.watch(Progress(stage="encoder"))
        store.close()
        encoder = FeatureEncoder.fit(
            self.dataset.schema,
            users,
            items,
            self.dataset.graph,
            watch=lambda note: self.watch(Progress(stage="encoder", note=note)),
        )
        inputs = prepare(replace(self.dataset, users=users, items=items), encoder, self.recipe, self.seed)
        for name, content in encoder_files(encoder).items():
            write_atomically(self.directory / name, content)
        inputs.save(self.directory)
        return encoder, inputs

    def _run_heads(self) -> None:
        from metarec.training.distributed import run_heads

        self.watch(Progress(stage="workers"))
        stop = StopFile(self.directory)
        stop.clear()
        assignment = Assignment(
            run=str(self.directory),
            recipe=self.recipe.to_dict(),
            seed=self.seed,
            device=self.options.device,
            threads=self.options.threads_per_worker,
        )
        run_heads(assignment, workers=self.options.workers, watch=self.watch, stop=stop)

    def _states(self) -> dict[Target, HeadState]:
        store = StateStore(self.directory)
        loaded = {head.target: store.load(head.target) for head in self.recipe.heads}
        return {target: state for target, state in loaded.items() if state is not None}

    def _replay(self, target: Target, state: HeadState) -> None:
        """Show the epochs of an earlier attempt again."""
        head = next(head for head in self.recipe.heads if head.target == target)
        for metrics in state.history:
            epoch, member = int(metrics["epoch"]), int(metrics.get("member", 1))
            told = Progress(target=target, member=member, members=head.members, epoch=epoch, epochs=head.epochs, note="resumed")
            self.watch(replace(told, metrics=metrics))

    def _finish(self, checkpoint: str) -> None:
        """Leave the events for people and nothing to resume."""
        (self.directory / "run.json").unlink(missing_ok=True)
        write_atomically(self.directory / "result.json", json.dumps({"checkpoint": checkpoint}).encode())
        for path in self.directory.iterdir():
            if path.name in ("events.jsonl", "result.json"):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def best_metrics(states: dict[Target, HeadState]) -> dict[str, float]:
    """The metrics of what each head was published with, as `<target>_<name>`."""
    return {f"{target}_{name}": value for target, state in states.items() for name, value in state.metrics.items()}
