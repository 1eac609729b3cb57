"""What `metarec doctor` checks about the machine and the installation; checks of metarec's own data are in checks_data.py.

A check is a function that yields findings. It looks and changes nothing.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from metarec.errors import MetarecError
from services.runtime.settings import ENVIRONMENT, PREFIX

Status = Literal["ok", "warn", "fail"]
GIB = 2**30
PYTHON = ((3, 11), (3, 13))
"""The first version that runs metarec and the first that does not; a test compares it with pyproject.toml."""
PIN = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==([^;\s]+)$")
"""A pinned requirement without a condition; those of extras have one."""
DISK_WARN, DISK_FAIL = 5 * GIB, 0.5 * GIB
MEMORY_WARN, MEMORY_FAIL = 4 * GIB, 1.5 * GIB


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; `advice` says what to do unless all is well."""

    check: str
    status: Status
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check=check, status="ok", detail=detail)


def warn(check: str, detail: str, advice: str) -> Finding:
    """Something to look at."""
    return Finding(check=check, status="warn", detail=detail, advice=advice)


def fail(check: str, detail: str, advice: str) -> Finding:
    """Something that keeps metarec from working."""
    return Finding(check=check, status="fail", detail=detail, advice=advice)


def failed(check: str, error: MetarecError) -> Finding:
    """The finding of an error, which says what to do after the semicolon."""
    detail, _, advice = error.message.partition("; ")
    return fail(check, detail, advice)


def check_python() -> Iterator[Finding]:
    """Python and the operating system."""
    version, first, beyond = platform.python_version(), PYTHON[0], PYTHON[1]
    supported = f"{first[0]}.{first[1]} to {beyond[0]}.{beyond[1] - 1}"
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        yield ok("python", f"Python {version}")
    else:
        yield fail("python", f"Python {version}", f"make the virtual environment with Python {supported}")
    if sys.platform != "linux":
        advice = "run metarec on Linux, for example in a container: `metarec up` needs /proc"
        yield fail("system", f"{platform.system()} is not supported", advice)


def check_packages(distribution: str = "metarec") -> Iterator[Finding]:
    """Installed versions against the pins of metarec's own requirements."""
    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        yield fail("packages", f"{distribution} is not installed", "pip install -e . in the checkout")
        return
    pins = {match[1]: match[2] for line in requirements if (match := PIN.match(line.strip()))}
    wrong = []
    for name, wanted in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing, {wanted} is wanted")
            continue
        if found.partition("+")[0] != wanted:  # a local version such as 2.13.0+cpu is the same release
            wrong.append(f"{name} is {found}, {wanted} is wanted")
    if wrong:
        yield fail("packages", "; ".join(wrong), "pip install -e . in the checkout (or `make setup`)")
    else:
        yield ok("packages", f"{len(pins)} packages as pinned")


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Memory that processes can get now; five services, Ray among them, take about two GiB."""
    values = dict(line.split(":", 1) for line in meminfo.read_text().splitlines()) if meminfo.exists() else {}
    if "MemAvailable" not in values:
        yield warn("memory", "cannot be read here", f"see that {MEMORY_WARN / GIB:g} GiB are free")
        return
    available = int(values["MemAvailable"].split()[0]) * 1024
    status: Status = "fail" if available < MEMORY_FAIL else "warn" if available < MEMORY_WARN else "ok"
    advice = "" if status == "ok" else f"free memory: training and the services want {MEMORY_WARN / GIB:g} GiB"
    detail = f"{available / GIB:.1f} GiB available, {os.cpu_count()} cores"
    yield Finding(check="memory", status=status, detail=detail, advice=advice)


def check_disk(*places: Path) -> Iterator[Finding]:
    """Room where data is written: `places`, and the folder for temporary files, where Ray keeps its sessions."""
    for place in dict.fromkeys([*(existing(place) for place in places), Path(tempfile.gettempdir())]):
        free = shutil.disk_usage(place).free
        status: Status = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
        if not os.access(place, os.W_OK):
            yield fail("disk", f"'{place}' is not writable", "choose another place, or chown it")
            continue
        advice = "" if status == "ok" else "free space, or choose another place"
        yield Finding(check="disk", status=status, detail=f"{free / GIB:.1f} GiB free at '{place}'", advice=advice)


def check_ray(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Ray's token authentication: the mode, where the token comes from, and whether it can be written."""
    mode = environment.get("RAY_AUTH_MODE", "")
    if mode.lower() not in ("", "token"):
        advice = "export RAY_AUTH_MODE=token: without it whoever reaches Ray's ports runs code as you"
        yield fail("ray auth", f"RAY_AUTH_MODE is '{mode}'", advice)
    yield _token(environment)
    if address := environment.get("RAY_ADDRESS"):
        advice = "unset RAY_ADDRESS to train on this machine"
        yield warn("ray cluster", f"RAY_ADDRESS is '{address}': training uses that cluster", advice)


def _token(environment: Mapping[str, str]) -> Finding:
    if environment.get("RAY_AUTH_TOKEN"):
        return ok("ray token", "from RAY_AUTH_TOKEN")
    if named := environment.get("RAY_AUTH_TOKEN_PATH"):
        if readable(Path(named)):
            return ok("ray token", f"from '{named}'")
        advice = "write the token there, or unset RAY_AUTH_TOKEN_PATH"
        return fail("ray token", f"'{named}' (RAY_AUTH_TOKEN_PATH) is empty or unreadable", advice)
    token = Path(environment.get("HOME", "/")) / ".ray" / "auth_token"
    if readable(token):
        return ok("ray token", f"from '{token}'")
    if os.access(existing(token.parent), os.W_OK):
        return ok("ray token", f"none yet; Ray will write '{token}'")
    advice = "set HOME to a folder you can write to, or RAY_AUTH_TOKEN"
    return fail("ray token", f"'{token}' cannot be written", advice)


def check_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """METAREC_ settings of the shell: a misspelt one keeps a service from starting."""
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in ENVIRONMENT)
    if unknown:
        advice = f"unset them; known: {', '.join(sorted(ENVIRONMENT))}"
        yield warn("environment", f"unknown settings {', '.join(unknown)}", advice)
    else:
        known = sum(name in ENVIRONMENT for name in environment)
        yield ok("environment", f"{known} METAREC_ settings, all known")


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.absolute()
    return path if path.exists() or path == path.parent else existing(path.parent)


def readable(path: Path) -> bool:
    """Whether there is a file with something in it."""
    try:
        return bool(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False
