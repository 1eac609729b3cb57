"""The registry: whole or absent, listed, promoted, rolled back, refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from metarec.errors import (
    CorruptCheckpointError,
    FailedPreconditionError,
    GateNotPassedError,
    NoCheckpointError,
    NotFoundError,
)
from metarec.meta.prior import Prior
from metarec.training import checkpoint as checkpoint_module
from metarec.training.checkpoint import load_checkpoint
from metarec.training.manifest import MANIFEST, Manifest
from metarec.training.recipe import Recipe
from metarec.training.registry import CHECKPOINTS, LIVE, STAGING, Registry
from metarec.types import GateReport

GOOD = GateReport(delta=0.031, passed=True, metrics={"learner_mae": 0.70, "bias_als_mae": 0.72})
BAD = GateReport(
    delta=-0.02, passed=False, metrics={"users": 12.0, "mae": 0.75, "bias_mae": 0.8, "bias_als_mae": 0.73, "delta_mae": -0.02}
)


@pytest.fixture
def manifest(small_recipe: Recipe) -> Manifest:
    return Manifest(recipe=small_recipe, seed=0, data_fingerprint="f00", created=1.7e9, gate=GOOD)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_an_empty_registry_says_so(registry: Registry) -> None:
    assert registry.list() == []
    assert registry.live() is None
    with pytest.raises(NoCheckpointError, match=r"no checkpoint of registry '.*' is live; promote one"):
        registry.get("live")
    with pytest.raises(NotFoundError, match="has no checkpoint 'c-1'; newest: none"):
        registry.get("c-1")
    with pytest.raises(NoCheckpointError, match="nothing to roll back"):
        registry.rollback()
    assert not registry.path.exists()


def test_published_checkpoints_are_listed_newest_first_with_what_is_known_of_them(
    registry: Registry, small_prior: Prior, manifest: Manifest
) -> None:
    first = registry.publish(small_prior, replace(manifest, metrics={"explicit_validation_mae": 0.7}))
    second = registry.publish(small_prior, replace(manifest, gate=BAD, job_id="j-2"))
    assert first.startswith("c-1-")
    assert second.startswith("c-2-")
    newest, oldest = registry.list()
    assert (newest.id, oldest.id) == (second, first)
    assert (oldest.gate_passed, oldest.delta, oldest.metrics) == (True, 0.031, {"explicit_validation_mae": 0.7})
    assert (newest.gate_passed, newest.delta, newest.job_id) == (False, -0.02, "j-2")
    assert not newest.live
    assert set(newest.popular) <= set(small_prior.item_ids)
    assert registry.load(second).checkpoint == second
    assert registry.live() is None


def test_promotion_and_rollback_move_along_the_history(registry: Registry, small_prior: Prior, manifest: Manifest) -> None:
    one, two, three = (registry.publish(small_prior, manifest) for _ in range(3))
    for checkpoint in (one, two, two, three):
        assert registry.promote(checkpoint).live
    assert registry.live() == three
    assert [info.id for info in registry.list() if info.live] == [three]
    assert load_checkpoint(registry.path).checkpoint == three
    assert registry.rollback() == two
    assert registry.rollback() == one
    assert registry.get("live").id == one
    with pytest.raises(FailedPreconditionError, match="is the first checkpoint that was promoted"):
        registry.rollback()
    assert registry.live() == one


def test_the_gate_refuses_with_what_decided_unless_forced(registry: Registry, small_prior: Prior, manifest: Manifest) -> None:
    good = registry.publish(small_prior, manifest)
    bad = registry.publish(small_prior, replace(manifest, gate=BAD))
    registry.promote(good)
    with pytest.raises(GateNotPassedError) as caught:
        registry.promote(bad)
    assert "mae 0.7500, the plain baseline bias_als 0.7300 (delta -0.0200; 12 users)" in caught.value.message
    assert "bias_mae" not in caught.value.message
    assert caught.value.metadata == {"checkpoint": bad, "delta": "-0.020000"}
    assert registry.live() == good
    assert registry.promote(bad, force=True).live


def test_what_was_never_judged_is_refused_as_such(registry: Registry, small_prior: Prior, manifest: Manifest) -> None:
    checkpoint = registry.publish(small_prior, replace(manifest, gate=None))
    with pytest.raises(GateNotPassedError, match="was never judged by the gate"):
        registry.promote(checkpoint)
    assert registry.promote(checkpoint, force=True).live


def test_without_a_live_checkpoint_the_newest_is_loaded(registry: Registry, small_prior: Prior, manifest: Manifest) -> None:
    registry.publish(small_prior, manifest)
    newest = registry.publish(small_prior, manifest)
    assert load_checkpoint(registry.path).checkpoint == newest


def test_damaged_checkpoints_are_left_out_of_the_list_and_cannot_be_promoted(
    registry: Registry, small_prior: Prior, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    whole, damaged = registry.publish(small_prior, manifest), registry.publish(small_prior, manifest)
    (registry.path / CHECKPOINTS / damaged / MANIFEST).write_text("{}")
    assert [info.id for info in registry.list()] == [whole]
    assert damaged in caplog.text
    with pytest.raises(CorruptCheckpointError, match=damaged):
        registry.promote(damaged)
    with pytest.raises(CorruptCheckpointError, match=damaged):
        registry.load(damaged)


def test_rolling_back_to_a_checkpoint_that_is_gone_changes_nothing(
    registry: Registry, small_prior: Prior, manifest: Manifest
) -> None:
    one, two = registry.publish(small_prior, manifest), registry.publish(small_prior, manifest)
    registry.promote(one)
    registry.promote(two)
    shutil.rmtree(registry.path / CHECKPOINTS / one)
    with pytest.raises(NotFoundError, match=one):
        registry.rollback()
    assert registry.live() == two


def test_a_damaged_live_file_is_named(registry: Registry, small_prior: Prior, manifest: Manifest) -> None:
    registry.promote(registry.publish(small_prior, manifest))
    (registry.path / LIVE).write_text('{"promoted"')
    with pytest.raises(CorruptCheckpointError, match=r"live\.json' cannot be read"):
        registry.live()


@pytest.mark.parametrize("files_written", [0, 3, 7])
def test_a_publisher_that_dies_half_way_leaves_no_checkpoint(
    registry: Registry, small_prior: Prior, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, files_written: int
) -> None:
    before = registry.publish(small_prior, manifest)
    written = iter(range(100))
    real = checkpoint_module.write_atomically

    def dying(path: Path, data: bytes) -> None:
        if next(written) == files_written:
            raise SystemExit
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_atomically", dying)
        if files_written == 7:  # every file is there, the last rename is not
            patch.setattr(checkpoint_module, "write_atomically", real)
            patch.setattr("metarec.training.registry.os.rename", lambda source, target: (_ for _ in ()).throw(SystemExit()))
        with pytest.raises(SystemExit):
            registry.publish(small_prior, manifest)
    assert [info.id for info in registry.list()] == [before]
    after = registry.publish(small_prior, manifest)
    assert [info.id for info in registry.list()] == [after, before]
    assert not list((registry.path / CHECKPOINTS).glob(f"{STAGING}*"))
