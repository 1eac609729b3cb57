"""What `metarec doctor` checks about a registry, its feature store, a dataset, and the services on this machine."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.cli.checks import Finding, fail, failed, ok, warn
from metarec.cli.online import remedy, repeated
from metarec.cli.ports import is_free, owner
from metarec.errors import ConfigError, MetarecError

PATIENCE_SECONDS = 2.0
"""How long Redis may take to answer."""

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.features.manifest import StoreManifest
    from metarec.training.registry import CheckpointInfo


def check_registry(path: Path) -> Iterator[Finding]:
    """Every checkpoint against its checksums, and which one is live."""
    from metarec.training.manifest import verify
    from metarec.training.registry import CHECKPOINTS, Registry
    from metarec.training.verdict import promotion

    if not path.is_dir():
        advice = f"metarec train --data DIR --out {path}"
        yield fail("registry", f"there is no '{path}'", advice)
        return
    registry, damaged = Registry(path), []
    folders = sorted(entry for entry in (path / CHECKPOINTS).glob("*") if not entry.name.startswith("."))
    for folder in folders:
        try:
            verify(folder)
        except MetarecError as error:
            damaged.append(folder.name)
            yield fail("checkpoint", error.message, f"delete '{folder}', or restore it")
    if not folders:
        advice = f"metarec train --data DIR --out {path}"
        yield warn("registry", f"'{path}' holds no checkpoint", advice)
        return
    try:
        live = registry.live()
    except MetarecError as error:
        yield failed("registry", error)
        return
    detail = f"{len(folders) - len(damaged)} of {len(folders)} checkpoints verified, live: {live or 'none'}"
    newest = next((info for info in registry.list() if info.id not in damaged), None)
    promote = promotion(newest, path) if newest else "train again"
    if live is None:
        yield warn("registry", detail, f"nothing is recommended before one is live: {promote}")
    elif live in damaged or live not in [folder.name for folder in folders]:
        yield fail("registry", f"{detail}; the live one cannot be used", promote)
    elif not (info := registry.get(live)).gate_passed:
        if info.judged:
            said, better = f"did not pass its gate ({info.delta:+.4f})", "train a better one"
        else:
            said, better = "no gate has judged", "train with the gate"
        yield warn("registry", f"{detail}, which {said}", f"it was promoted by force; {better}")
    else:
        yield ok("registry", f"{detail} (delta {info.delta:+.4f})")


def check_features(path: Path, online: str) -> Iterator[Finding]:
    """Whether the feature store opens and has been loaded online."""
    from metarec.features.manifest import StoreManifest, store_name
    from metarec.features.store import FeatureStore

    build = "`metarec up --data DIR` builds and loads it"
    try:
        store = FeatureStore.open(path, online, patience_seconds=PATIENCE_SECONDS)
        try:
            store.read_user("")  # asks the online store
            emptied = store.emptied()
        finally:
            store.close()
    except ConfigError as error:  # of the online store's address
        yield failed("features", error)
        return
    except MetarecError as error:
        yield fail("features", error.message, build)
        return
    except Exception as error:  # whatever Feast and its online stores raise is the finding
        detail = f"'{path}' does not open with '{store_name(online)}': {type(error).__name__}: {error}"
        yield fail("features", detail, f"{remedy(online, error)}; {build}" if online == "sqlite" else remedy(online, error))
        return
    name, load = store_name(online), f"metarec features materialize --store {path}{repeated(online)}"
    loaded = StoreManifest.read(path).materialized
    if emptied:
        yield warn("features", f"'{path}' was loaded into '{name}', but its rows are gone from there", f"{load} --restart")
    elif name in loaded:
        yield ok("features", f"'{path}' opens; loaded online: {', '.join(loaded)}")
    else:
        elsewhere = f"into '{name}', only into {', '.join(loaded)}" if loaded else "online"
        yield warn("features", f"'{path}' opens, but nothing is loaded {elsewhere}", load)


def check_dataset(path: Path) -> Iterator[Finding]:
    """Whether the dataset opens."""
    from metarec.data.dataset import Dataset

    try:
        found = Dataset.open(path)
    except MetarecError as error:
        yield failed("dataset", error)
        return
    detail = (
        f"{len(found.user_ids)} users, {len(found.item_ids)} items, {len(found.interactions)} interactions ({found.fingerprint})"
    )
    yield ok("dataset", detail)


def check_schemas(registry: Path, data: Path | None) -> Iterator[Finding]:
    """Whether live checkpoint, feature store and dataset have one schema, and whether the sentence model that it asks for is
    installed; what cannot be read is another check's finding."""
    from metarec.data.schema import Schema
    from metarec.features.sentences import INSTALL, model_path

    hashes, prints, schemas = {}, {}, []
    if checkpoint := _checkpoint(registry):
        hashes[f"checkpoint {checkpoint.id}"] = checkpoint.schema_hash
        prints["checkpoint"] = checkpoint.data_fingerprint
    if store := _store(registry / "features"):
        schemas.append(Schema.from_dict(store.schema))
        hashes["feature store"], prints["feature store"] = schemas[-1].hash, store.fingerprint
    if dataset := _dataset(data):
        schemas.append(dataset.schema)
        hashes["dataset"], prints["dataset"] = dataset.schema.hash, dataset.fingerprint
    fields = {field.name for schema in schemas for field in (*schema.users, *schema.items) if field.encoder == "sentences"}
    if fields:
        named = f"text fields with 'encoder: sentences' ({', '.join(sorted(fields))})"
        if model_path() is None:
            yield fail("sentences", f"{named}, whose model is not installed here: no service can take such a checkpoint", INSTALL)
        else:
            yield ok("sentences", f"the model for {named} is installed")
    if len(hashes) < 2:
        return
    named = ", ".join(f"{name} {value}" for name, value in hashes.items())
    if len(set(hashes.values())) > 1:
        advice = "train on this dataset and promote the checkpoint, or go back to the dataset it was trained on"
        yield fail("schema", f"they differ: {named}", advice)
        return
    yield ok("schema", f"the same in {', '.join(hashes)}")
    if len(set(prints.values())) > 1:
        named = ", ".join(f"{name} {value}" for name, value in prints.items())
        advice = "fine while data grows; train again to learn from the new data"
        yield warn("data", f"one schema, different data: {named}", advice)


def check_services(addresses: Mapping[str, str], *, started: bool) -> Iterator[Finding]:
    """Health of the services at these addresses; `started` when `metarec up` says that it runs them there. Free ports are fine
    otherwise."""
    healthy = asyncio.run(_health(addresses))
    free = {name: _free(address) for name, address in addresses.items()}
    for name, address in addresses.items():
        if healthy[name]:
            yield ok(name, f"serves at {address}")
        elif free[name] and (started or any(healthy.values())):
            advice = "its log (STATE/logs) says why"
            yield fail(name, f"nobody answers at {address}", advice)
        elif free[name]:
            yield ok(name, f"not running; port {address.rpartition(':')[2]} is free")
        else:
            user = owner(int(address.rpartition(":")[2]))
            advice = "see its log" if started else "stop that process, or `metarec up --port-base N`"
            yield fail(name, f"{address} is in use by {user} and not healthy", advice)


async def _health(addresses: Mapping[str, str]) -> dict[str, bool]:
    from metarec.client.health import gateway_credentials, is_serving

    tls = {"gateway": gateway_credentials()}
    answers = await asyncio.gather(*[is_serving(address, credentials=tls.get(name)) for name, address in addresses.items()])
    return dict(zip(addresses, answers, strict=True))


def _free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        return is_free(host.strip("[]"), int(port))
    except OSError:
        return True  # another machine's address: whether somebody listens there is not for us to see


def _checkpoint(registry: Path) -> "CheckpointInfo | None":
    from metarec.training.registry import Registry

    try:
        return Registry(registry).get("live")
    except MetarecError:
        return None


def _store(path: Path) -> "StoreManifest | None":
    from metarec.features.manifest import StoreManifest

    try:
        return StoreManifest.read(path)
    except MetarecError:
        return None


def _dataset(path: Path | None) -> "Dataset | None":
    from metarec.data.dataset import Dataset

    try:
        return Dataset.open(path) if path else None
    except MetarecError:
        return None
