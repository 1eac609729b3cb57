"""What `metarec train` tells of the epochs of a head, of one training or of several members."""

import pytest

from metarec.cli.train_display import TrainDisplay
from metarec.cli.train_report import epoch_rows, stopped_early
from metarec.training.progress import Progress


def epochs_of(*losses: float, kept: int, member: int = 0) -> list[dict[str, float]]:
    """Epochs with these validation losses, those up to `kept` kept; of one member among several where its number is given."""
    named = {"member": float(member)} if member else {}
    return [
        {**named, "epoch": k, "train_loss": 1.0, "kept": float(k <= kept), "validation_loss": loss, "seconds": 0.5}
        for k, loss in enumerate(losses, 1)
    ]


MEMBERS = [*epochs_of(3.0, 2.0, 2.5, kept=2, member=1), *epochs_of(3.0, 2.0, 1.0, 1.0, kept=4, member=2)]


def test_the_published_epoch_of_every_member_is_marked() -> None:
    rows = epoch_rows(MEMBERS)
    assert [(row["member"], row["epoch"]) for row in rows if row[""] == "published"] == [(1, 2), (2, 4)]
    assert len(rows) == len(MEMBERS)
    assert all("kept" not in row for row in rows)


def test_a_single_training_has_no_column_of_members() -> None:
    (first, second) = epoch_rows(epochs_of(2.0, 3.0, kept=1))
    assert "member" not in first
    assert (first[""], second[""]) == ("published", "")


def test_members_that_stopped_early_are_told_by_number() -> None:
    manifest = {"recipe": {"heads": [{"target": "explicit", "epochs": 4}]}, "history": {"explicit": MEMBERS}}
    assert stopped_early(manifest) == {
        "explicit": "member 1 stopped early after epoch 3 of 4: validation was best in epoch 2",
    }
    alone = {**manifest, "history": {"explicit": epochs_of(3.0, 2.0, 2.5, kept=2)}}
    assert stopped_early(alone) == {"explicit": "stopped early after epoch 3 of 4: validation was best in epoch 2"}
    whole = {**manifest, "history": {"explicit": epochs_of(3.0, 2.0, 2.5, 2.0, kept=4)}}
    assert stopped_early(whole) == {}


def test_a_line_per_epoch_says_which_member(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainDisplay() as display:
        for row, members in ((MEMBERS[4], 2), (epochs_of(2.0, kept=1)[0], 1)):
            told = Progress(
                target="explicit", member=int(row.get("member", 1)), members=members, epoch=int(row["epoch"]), epochs=4
            )
            display(Progress(**{**vars(told), "metrics": row}))
    figures = "train_loss 1.0000 validation_loss 2.0000 0.5 s"
    assert capsys.readouterr().err.splitlines() == [
        f"explicit member 2/2 epoch 2/4 {figures}",
        f"explicit epoch 1/4 {figures}",
    ]


def test_progress_is_counted_over_all_members() -> None:
    seen = [
        Progress(target="explicit", member=member, members=3, epoch=epoch, epochs=4, step=step, steps=5).fraction
        for member in (1, 2, 3)
        for epoch in (1, 2, 3, 4)
        for step in (1, 2, 3, 4, 5)
    ]
    assert seen == [(place, 60) for place in range(1, 61)]
