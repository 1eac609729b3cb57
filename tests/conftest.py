"""Fixtures that every test folder shares."""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

# Set before anything imports ray: token auth is the rule everywhere (DESIGN 7), and tests send no usage reports.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray cluster with two CPUs, shared by the session; gives its address. Mark tests that use it with `ray`."""
    import ray

    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR
    )
    try:
        yield str(context.address_info["address"])
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """80 users and 60 items in four genres; each user loves one genre (ratings near 5) and dislikes the others, with times.

    User `u<k>` loves genre k % 4, item `i<k>` has genre k % 4; gender tells two pairs of tastes apart.
    """
    from metarec.data.dataset import Dataset
    from metarec.data.interactions import Interactions
    from metarec.data.schema import Field, Label, Schema

    rng = np.random.default_rng(11)
    num_users, num_items, genres = 80, 60, ("space", "drama", "comedy", "horror")
    events = []
    for user in range(num_users):
        loved = [item for item in range(num_items) if item % 4 == user % 4]
        others = [item for item in range(num_items) if item % 4 != user % 4]
        chosen = [*rng.choice(loved, 9, replace=False), *rng.choice(others, 5, replace=False)]
        for place, item in enumerate(rng.permutation(chosen)):
            label = float(np.clip((4.6 if item % 4 == user % 4 else 1.8) + rng.normal() * 0.4, 1, 5).round())
            events.append((user, int(item), label, 1_000_000.0 + 1_000 * user + 3_600 * place))
    user_N, item_N, label_N, time_N = zip(*events, strict=True)
    schema = Schema(
        user_id="user_id",
        item_id="item_id",
        label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
        timestamp="timestamp",
        users=(Field(name="gender", kind="categorical"), Field(name="age", kind="numeric")),
        items=(
            Field(name="title", kind="text"),
            Field(name="genres", kind="multi_categorical", separator="|"),
            Field(name="year", kind="numeric"),
        ),
        item_title="title",
    )
    dataset = Dataset(
        path=Path("unused"),
        schema=schema,
        user_ids=np.array([f"u{k}" for k in range(num_users)], dtype=object),
        item_ids=np.array([f"i{k}" for k in range(num_items)], dtype=object),
        users=pd.DataFrame({"gender": ["FM"[k % 4 // 2] for k in range(num_users)], "age": [20.0 + k for k in range(num_users)]}),
        items=pd.DataFrame(
            {
                "title": [f"{genres[k % 4]} story {k}" for k in range(num_items)],
                "genres": pd.Series([(genres[k % 4],) for k in range(num_items)], dtype=object),
                "year": [1960.0 + k for k in range(num_items)],
            }
        ),
        interactions=Interactions(
            user_N=np.array(user_N, np.int32),
            item_N=np.array(item_N, np.int32),
            label_N=np.array(label_N, np.float32),
            timestamp_N=np.array(time_N, np.float64),
            scenario_N=np.zeros(len(events), np.int16),
        ),
        graph=None,
        fingerprint="",
    )
    return dataset.save(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_registry(tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry as `metarec train --out` leaves it, trained on `tiny_dataset` in seconds: two checkpoints of both heads, the
    first of them live, and the feature store with its online side loaded. Read only: tests that write take `trained`."""
    import torch

    from metarec.features.store import FeatureStore
    from metarec.training.loop import fit
    from metarec.training.manifest import Manifest
    from metarec.training.recipes import get_recipe
    from metarec.training.registry import Registry

    path = tmp_path_factory.mktemp("tiny") / "registry"
    path.mkdir(parents=True)
    recipe = get_recipe("alpaca").override(
        {
            "epochs": "8",
            "explicit.outer_lr": "0.03",
            "batch_size": "16",
            "model.embedding_dim": "6",
            "explicit.members": "1",
            "validation_fraction": "0.1",
            "implicit.episodes.min_query": "1",
        }
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other more than they compute
    for seed in (0, 1):
        prior = replace(fit(tiny_dataset, recipe, seed=seed), blend=0.1)
        manifest = Manifest(recipe=recipe, seed=seed, data_fingerprint=tiny_dataset.fingerprint, created=1_700_000_000.0 + seed)
        Registry(path).publish(prior, manifest)
    torch.set_num_threads(threads)
    Registry(path).promote(Registry(path).list()[-1].id, force=True)
    store = FeatureStore.build(tiny_dataset, path / "features")
    store.materialize(2_000_000.0)
    store.close()
    return path


@pytest.fixture
def trained(tiny_registry: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_registry` that the test may write to."""
    return Path(shutil.copytree(tiny_registry, tmp_path / "registry"))


RAY_SCHEMAS = Path(__file__).resolve().parents[2] / "shared" / "k8s" / "crds"


@pytest.fixture(scope="session")
def check_ray_object() -> Callable[[dict[str, Any]], None]:
    """Checks an object of group ray.io against KubeRay's CRDs, unknown fields refused; skips where the CRDs are not."""
    if not RAY_SCHEMAS.is_dir():
        pytest.skip(f"KubeRay's CRDs are not at {RAY_SCHEMAS}, so that RayJobs and RayServices go unchecked")

    @functools.cache
    def validator(kind: str) -> jsonschema.Draft7Validator:
        # The C loader: the files have 40,000 lines.
        crd = yaml.load((RAY_SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schema = _strict(version["schema"]["openAPIV3Schema"])
        # The API server checks `metadata` of the top level, not the CRD's schema.
        schema["properties"]["metadata"] = {"type": "object"}
        return jsonschema.Draft7Validator(schema)

    def check(manifest: dict[str, Any]) -> None:
        validator(manifest["kind"]).validate(manifest)

    return check


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema with unknown fields refused; fields that have a default may be absent though required."""
    result = {key: _strict(value) if isinstance(value, dict) else value for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and all(isinstance(value, dict) for value in properties.values()):
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
        defaulted = {"minReplicas", "maxReplicas"} | {name for name, value in properties.items() if "default" in value}
        if "required" in schema:
            result["required"] = [name for name in schema["required"] if name not in defaulted]
    return result
