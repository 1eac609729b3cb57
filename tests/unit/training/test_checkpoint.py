"""Checkpoints: what is written predicts as what was trained; damage is found and named; nothing is unpickled."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metarec.errors import CorruptCheckpointError, MetarecError, NoCheckpointError, NotFoundError
from metarec.meta.blend import prior_scores
from metarec.meta.prior import Prior
from metarec.tasks.tables import encode_unknown_items, encode_unknown_users
from metarec.training.checkpoint import load_checkpoint, save_checkpoint
from metarec.training.manifest import FORMAT_VERSION, MANIFEST, Manifest, read_manifest
from metarec.training.recipe import Recipe
from metarec.types import GateReport


def manifest(recipe: Recipe) -> Manifest:
    return Manifest(
        recipe=recipe,
        seed=3,
        data_fingerprint="f00",
        created=1_700_000_000.0,
        metrics={"explicit_validation_mae": 0.5},
        gate=GateReport(delta=0.02, passed=True, metrics={"learner": 0.5}),
        job_id="job-1",
        history={"explicit": [{"epoch": 1, "train_loss": 0.7}]},
        train_seconds=2.5,
    )


@pytest.fixture(scope="module")
def written(small_prior: Prior, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c"
    save_checkpoint(replace(small_prior, blend=0.37), path, manifest(small_recipe))
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "c"))


def test_what_is_loaded_predicts_what_was_saved_to_the_last_bit(written: Path, small_prior: Prior) -> None:
    loaded = load_checkpoint(written)
    users = [{"gender": "F", "age": 30.0}, {"gender": None, "age": None}]
    support = [
        (np.array([0, 5, 9]), np.array([5.0, 1.0, 4.0], np.float32), np.array([1e6, 2e6, 3e6])),
        (np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0)),
    ]
    scores = [
        prior_scores(prior, encode_unknown_users(prior.encoder, users), support)
        for prior in (replace(small_prior, blend=0.37), loaded)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.ptp(scores[0], axis=1).min() > 0
    item = {"title": "night of space", "genres": ("space", "horror"), "year": 1990.0}
    rows = [encode_unknown_items(prior.encoder, [item]).dense_NP for prior in (small_prior, loaded)]
    assert torch.equal(rows[0], rows[1])


def test_everything_else_survives_too(written: Path, small_prior: Prior) -> None:
    loaded = load_checkpoint(written)
    assert loaded.blend == 0.37
    assert loaded.item_ids == small_prior.item_ids
    assert loaded.schema == small_prior.schema
    np.testing.assert_array_equal(loaded.popularity_I, small_prior.popularity_I)
    for target, head in small_prior.heads.items():
        again = loaded.heads[target]
        assert (again.learner, again.model) == (head.learner, head.model)
        assert set(again.theta) == set(head.theta)
        assert all(torch.equal(again.theta[name], value) for name, value in head.theta.items())


def test_the_manifest_tells_where_a_checkpoint_comes_from(written: Path, small_recipe: Recipe, small_prior: Prior) -> None:
    said = read_manifest(written)
    assert Recipe.from_dict(said["recipe"]) == small_recipe  # type: ignore[arg-type]  # JSON
    assert said["seed"] == 3
    assert said["data_fingerprint"] == "f00"
    assert said["schema_hash"] == small_prior.schema.hash
    assert said["gate"] == {"delta": 0.02, "passed": True, "metrics": {"learner": 0.5}}
    assert said["metrics"] == {"explicit_validation_mae": 0.5}
    popular = said["popular"]
    assert isinstance(popular, list)
    order = np.argsort(-small_prior.popularity_I, kind="stable")
    assert popular == [small_prior.item_ids[int(row)] for row in order]


def test_equal_contents_get_equal_ids(small_prior: Prior, small_recipe: Recipe, tmp_path: Path) -> None:
    one = save_checkpoint(small_prior, tmp_path / "one", manifest(small_recipe))
    two = save_checkpoint(small_prior, tmp_path / "two", replace(manifest(small_recipe), created=5.0))
    assert one == two
    theta = {name: value + 1 for name, value in small_prior.heads["explicit"].theta.items()}
    heads = {**small_prior.heads, "explicit": replace(small_prior.heads["explicit"], theta=theta)}
    assert save_checkpoint(replace(small_prior, heads=heads), tmp_path / "three", manifest(small_recipe)) != one


FILES = (
    MANIFEST,
    "encoder.json",
    "encoder.safetensors",
    "items.json",
    "items.safetensors",
    "theta.explicit.safetensors",
    "theta.implicit.safetensors",
)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE = {"missing": Path.unlink, "flipped bit": flip, "cut short": shorten, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_every_kind_of_damage_is_found_and_the_file_named(copy: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(copy / name)
    with pytest.raises(CorruptCheckpointError) as caught:
        load_checkpoint(copy)
    assert name in caught.value.message
    assert caught.value.metadata["file"] == name


def rewrite(path: Path, **changes: object) -> None:
    """Change the manifest as someone would who also mends its checksum."""
    from metarec.training.files import canonical, sha256

    body = json.loads((path / MANIFEST).read_bytes())
    body.pop("sha256")
    body |= changes
    (path / MANIFEST).write_text(json.dumps({**body, "sha256": sha256(canonical(body))}))


def test_a_newer_format_is_refused(copy: Path) -> None:
    rewrite(copy, format=99)
    with pytest.raises(CorruptCheckpointError, match=f"has format 99, this metarec reads {FORMAT_VERSION}"):
        load_checkpoint(copy)


def test_files_outside_the_checkpoint_are_never_read(copy: Path) -> None:
    rewrite(copy, files={"../secret": {"sha256": "0", "bytes": 1}})
    with pytest.raises(CorruptCheckpointError, match="names a file outside the checkpoint"):
        load_checkpoint(copy)


def test_a_learner_this_metarec_does_not_have_is_an_error_not_a_traceback(copy: Path) -> None:
    heads = json.loads((copy / MANIFEST).read_bytes())["heads"]
    heads["explicit"]["learner"] = "of the future"
    rewrite(copy, heads=heads)
    with pytest.raises(MetarecError, match="learner 'of the future' is unknown"):
        load_checkpoint(copy)


def test_a_directory_that_is_no_checkpoint_is_answered_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="neither a checkpoint nor a registry"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(NoCheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
