"""What `metarec train` shows at its end: the epochs of each head, which of them were published, and the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from metarec.cli.output import cell, emit, note, print_table
from metarec.cli.values import figure
from metarec.training.manifest import read_manifest
from metarec.training.progress import early_stop_note

if TYPE_CHECKING:
    from metarec.training.registry import CheckpointInfo


def report(info: "CheckpointInfo", notes: Sequence[str], *, as_json: bool) -> None:
    """Show a run's epochs and the checkpoint that it published; `notes` are what the run told beside figures."""
    manifest = read_manifest(info.path)
    history = manifest["history"]
    assert isinstance(history, dict)
    value: dict[str, object] = {
        "checkpoint": info.id,
        "path": str(info.path),
        "recipe": info.recipe,
        "seed": manifest["seed"],
        "live": info.live,
        "train_seconds": manifest["train_seconds"],
        "stopped_early": stopped_early(manifest),
        "blend": manifest["blend"],
        "metrics": dict(info.metrics),
        "gate": manifest["gate"],
        "notes": list(notes),
        "history": history,
    }
    if not as_json:
        for target, epochs in history.items():
            print_table(epoch_rows(epochs), title=f"head '{target}'")
        for target, said in stopped_early(manifest).items():
            note(f"head '{target}' {said}")
    gate = manifest["gate"]
    verdict = "not judged"
    if isinstance(gate, dict):
        verdict = f"{'passed' if gate['passed'] else 'not passed'}, delta {gate['delta']:+.4f}"
    rows = [
        {"": "checkpoint", "value": info.id},
        {"": "path", "value": str(info.path)},
        {"": "recipe", "value": info.recipe},
        {"": "train seconds", "value": f"{manifest['train_seconds']:.1f}"},
        {"": "blend", "value": cell(manifest["blend"])},
        *({"": name, "value": cell(value)} for name, value in info.metrics.items()),
        {"": "gate", "value": verdict},
        *({"": name, "value": cell(figure(name, value))} for name, value in info.gate_metrics.items()),
        {"": "live", "value": "yes" if info.live else "no"},
    ]
    emit(value, as_json=as_json, rows=rows, title="checkpoint")


def stopped_early(manifest: Mapping[str, object]) -> dict[str, str]:
    """What to say of each head that ended before its last epoch."""
    recipe, history = manifest["recipe"], manifest["history"]
    assert isinstance(recipe, dict)
    assert isinstance(history, dict)
    planned = {head["target"]: head["epochs"] for head in recipe["heads"]}
    said: dict[str, str] = {}
    for target, epochs in history.items():
        members = by_member(epochs)
        notes = [
            (f"member {number} " if len(members) > 1 else "")
            + early_stop_note(len(mine), planned[target], lowest_epoch(mine), published_epoch(mine))
            for number, mine in enumerate(members, 1)
            if len(mine) < planned[target]
        ]
        if notes:
            said[target] = "; ".join(notes)
    return said


def by_member(epochs: Sequence[Mapping[str, float]]) -> list[list[Mapping[str, float]]]:
    """A head's epochs by the training they are of."""
    numbers = sorted({epoch.get("member", 1) for epoch in epochs})
    return [[epoch for epoch in epochs if epoch.get("member", 1) == number] for number in numbers]


def lowest_epoch(epochs: Sequence[Mapping[str, float]]) -> int:
    """The epoch (from 1) with the first of the smallest validation losses, else the last."""
    losses = [epoch.get("validation_loss", -float(k)) for k, epoch in enumerate(epochs)]
    return losses.index(min(losses)) + 1


def published_epoch(epochs: Sequence[Mapping[str, float]]) -> int:
    """The epoch (from 1) whose parameters were published: the last one kept; in older checkpoints that of the smallest loss."""
    return max((k for k, epoch in enumerate(epochs, 1) if epoch.get("kept")), default=lowest_epoch(epochs))


def epoch_rows(epochs: Sequence[Mapping[str, float]]) -> list[dict[str, object]]:
    """A head's epochs as table rows, those that were published marked."""
    rows: list[dict[str, object]] = []
    for mine in by_member(epochs):
        published = published_epoch(mine)
        for epoch in mine:
            whole = {name: int(epoch[name]) for name in ("member", "epoch") if name in epoch}
            mark = "published" if epoch["epoch"] == published else ""
            rows.append({**{name: value for name, value in epoch.items() if name != "kept"}, **whole, "": mark})
    return rows
