"""The whole main job on a small data set, through the command line and `metarec up`: the walk of a first user, then every service
killed in turn. The tests of this module go in order and share one run."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from metarec.cli.processes import MARK
from metarec.client import Client, ClientSettings, Recommendations
from metarec.types import Interaction, Item
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GENRES = ("space", "ballet", "noir", "western")
NUM_USERS, NUM_ITEMS = 120, 80
WAIT_SECONDS = 90.0
QUICK = ("epochs=8", "batch_size=32", "model.embedding_dim=8", "implicit.episodes.min_query=1")
SERVICES = ("gateway", "recall", "adaptation", "ranking", "training")


def genre(item: int) -> str:
    return GENRES[item % len(GENRES)]


def write_tables(folder: Path) -> None:
    """Four groups of users, each loving one genre: eleven films of it near five stars, five others near two."""
    rng = np.random.default_rng(7)
    events = ["user,item,rating,time"]
    for user in range(NUM_USERS):
        loved = [item for item in range(NUM_ITEMS) if item % 4 == user % 4]
        others = [item for item in range(NUM_ITEMS) if item % 4 != user % 4]
        chosen = [*rng.choice(loved, 11, replace=False), *rng.choice(others, 5, replace=False)]
        for place, item in enumerate(rng.permutation(chosen)):
            stars = round(float(np.clip((4.6 if item % 4 == user % 4 else 1.8) + 0.4 * rng.normal(), 1, 5)))
            events.append(f"u{user},i{item},{stars},{1_000_000 + 3_600 * (16 * user + place)}")
    (folder / "interactions.csv").write_text("\n".join(events) + "\n")
    users = ["user,age"] + [f"u{user},{20 + user % 40}" for user in range(NUM_USERS)]
    (folder / "users.csv").write_text("\n".join(users) + "\n")
    items = ["item,title,genres"] + [f"i{item},{genre(item)} film {item},{genre(item)}|film" for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    (folder / "schema.yaml").write_text(
        """
user_id: user
item_id: item
label: {column: rating, kind: rating, minimum: 1, maximum: 5}
timestamp: time
users: [{name: age, kind: numeric}]
items:
  - {name: title, kind: text}
  - {name: genres, kind: multi_categorical, separator: "|"}
item_title: title
"""
    )


def metarec(*arguments: object) -> str:
    """Run a command from a folder that is not the checkout; gives its standard output."""
    command = [sys.executable, "-P", "-m", "metarec.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=300)
    assert done.returncode == 0, f"{arguments} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Walk:
    """What the run has made so far, and the supervisor once it runs."""

    folder: Path
    addresses: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    def end(self) -> int:
        """Wait for the supervisor's end and read the rest of what it says; gives its exit status."""
        assert self.process is not None
        assert self.reader is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        status = self.process.wait(timeout=WAIT_SECONDS)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def client(self) -> Client:
        names = ("gateway", "recall", "adaptation", "training")
        return Client(ClientSettings(**{f"{name}_address": self.addresses[name] for name in names}))

    def processes(self) -> dict[int, str]:
        """Live processes of the services of this run, whatever started them: {pid: command line}."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if MARK.encode() in environment and str(self.registry).encode() in environment and command:
                found[int(entry.name)] = command
        return found

    def pid(self, service: str) -> int:
        """Process of a service: the supervisor's own child."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if f"services.{service}" in Path(f"/proc/{pid}/cmdline").read_text())

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in (self.registry / "state/logs").glob("*.log"))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Walk]:
    walk = Walk(folder=tmp_path_factory.mktemp("walk"))
    write_tables(walk.folder)
    yield walk
    if request.session.testsfailed:
        print("\n".join(walk.said), walk.logs())
    if walk.process is not None and walk.process.poll() is None:
        walk.process.kill()
        walk.end()


def wait_until(walk: Walk, condition: Callable[[], object]) -> None:
    until(condition, seconds=WAIT_SECONDS, told=lambda: f"it did not happen\n{walk.said}\n{walk.logs()}")


def count(walk: Walk, item_ids: list[str], wanted: str) -> int:
    return sum(genre(int(item_id[1:])) == wanted for item_id in item_ids if item_id[0] == "i")


def whole(walk: Walk, client: Client, user: str, num_items: int = 10) -> Recommendations:
    """An answer of every stage; on a machine that is busy, one stage or the other may miss its deadline."""
    answers: list[Recommendations] = []

    def answered() -> bool:
        answers.append(client.recommend(user, num_items=num_items))
        return not answers[-1].degraded

    wait_until(walk, answered)
    return answers[-1]


def listed(walk: Walk, client: Client, user: str, num_items: int = 10) -> list[str]:
    return [item.item_id for item in whole(walk, client, user, num_items).items]


def test_import_train_evaluate_and_promote(walk: Walk):
    files = {name: walk.folder / f"{name}.csv" for name in ("interactions", "users", "items")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    metarec("data", "import", *options, "--schema", walk.folder / "schema.yaml", "--out", walk.data)
    settings = [word for setting in QUICK for word in ("--set", setting)]
    trained = json.loads(
        metarec("train", "--data", walk.data, "--out", walk.registry, "--workers", 1, "--seed", 3, "--json", *settings)
    )
    results = walk.folder / "results.json"
    metarec("evaluate", "--checkpoint", walk.registry, "--data", walk.data, "--protocol", "held-out", "--json", results)
    found = json.loads(results.read_text())
    assert found["protocols"]
    for models in found["protocols"].values():
        assert found["learner"] in models
        assert len(models) > 1
    force = [] if trained["gate"]["passed"] else ["--force"]
    promoted = json.loads(metarec("checkpoints", "promote", trained["checkpoint"], "--registry", walk.registry, "--json", *force))
    assert promoted["live"]


def test_up_starts_every_service(walk: Walk):
    command = [sys.executable, "-P", "-m", "metarec.cli.main", "up", "--registry", str(walk.registry), "--data", str(walk.data)]
    walk.process = subprocess.Popen(
        [*command, "--port-base", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "METAREC_OF_NO_SERVICE": "1"},
    )
    assert walk.process.stdout is not None
    assert walk.process.stderr is not None
    stderr = walk.process.stderr
    walk.reader = threading.Thread(target=lambda: walk.said.extend(line.rstrip() for line in stderr))
    walk.reader.start()
    line = walk.process.stdout.readline()
    assert line, f"{walk.said}\n{walk.logs()}"
    walk.addresses = json.loads(line)["addresses"]
    assert tuple(walk.addresses) == SERVICES


def test_doctor_finds_nothing_to_repair(walk: Walk):
    checks = json.loads(metarec("doctor", "--registry", walk.registry, "--data", walk.data, "--json"))["checks"]
    found = {check["check"]: check for check in checks}
    assert {name: found[name]["status"] for name in ("up", "schema", *SERVICES)} == dict.fromkeys(
        ("up", "schema", *SERVICES), "ok"
    )


def test_a_new_user_turns_the_list_with_a_few_ratings(walk: Walk):
    with walk.client() as client:
        first = whole(walk, client, "newcomer")
        assert first.shots == 0
        cold = count(walk, [item.item_id for item in first.items], "noir")
        for number, item in enumerate(("i2", "i6", "i10", "i14", "i18"), 1):
            client.record_interactions([Interaction(user_id="newcomer", item_id=item, label=5.0)])
            answer = whole(walk, client, "newcomer")
            assert answer.shots == number
        adapted = [item.item_id for item in answer.items]
    assert count(walk, adapted, "noir") > max(cold, 5)
    assert not {"i2", "i6", "i10", "i14", "i18"} & set(adapted)


def test_history_of_the_dataset_counts_from_the_start(walk: Walk):
    with walk.client() as client:
        wait_until(walk, lambda: client.recommend("u1", num_items=1).shots == 16)
        assert count(walk, listed(walk, client, "u1"), "ballet") > 5


def test_an_explanation_adds_up_and_is_about_the_users_own_ratings(walk: Walk):
    with walk.client() as client:
        top = whole(walk, client, "newcomer", 1).items[0]
        found = client.explain("newcomer", top.item_id)
    assert found.residual <= 1e-4
    assert found.score == pytest.approx(top.score, abs=1e-4)
    assert {part.item_id for part in found.contributions if part.kind == "support"} == {"i2", "i6", "i10", "i14", "i18"}


def test_a_new_item_is_recommended_to_a_fitting_user_at_once(walk: Walk):
    new = [Item(item_id=f"new-{kind}", features={"title": f"{kind} film 99", "genres": (kind, "film")}) for kind in GENRES]
    with walk.client() as client:
        assert [item.revision for item in client.upsert_items(new)] == [1] * len(new)
        assert [item_id for item_id in listed(walk, client, "newcomer") if item_id.startswith("new-")] == ["new-noir"]
        assert "new-ballet" in listed(walk, client, "u1")


def test_the_commands_are_clients_of_the_same_services(walk: Walk):
    gateway = ("--gateway", walk.addresses["gateway"])
    answer = json.loads(metarec("recommend", "newcomer", "-n", 3, *gateway, "--json", "--data", walk.data))
    assert len(answer["items"]) == 3
    recorded = json.loads(metarec("feedback", "another", "i3=5", "i7=4", *gateway, "--json"))
    assert recorded["shots"] == {"another": 2}


def test_each_service_may_be_killed_and_no_acknowledged_interaction_is_lost(walk: Walk):
    with walk.client() as client:
        for number, service in enumerate(("recall", "ranking", "adaptation", "gateway", "training")):
            client.record_interactions([Interaction(user_id="survivor", item_id=f"i{4 * number}", label=5.0)])
            killed = walk.pid(service)
            os.kill(killed, signal.SIGKILL)
            if service in ("recall", "ranking"):
                seen: set[str] = set()

                def degraded(seen: set[str] = seen) -> bool:
                    answer = client.recommend("survivor", num_items=5)
                    assert len(answer.items) == 5
                    assert answer.degraded == bool(answer.degradations)
                    seen |= {part.stage for part in answer.degradations}
                    return bool(seen)

                wait_until(walk, degraded)
                assert seen == {service}
            wait_until(walk, lambda s=service: any(line.startswith(f"{s} is back") for line in walk.said))
            assert any(line.startswith(f"{service} was killed by SIGKILL; starting it again") for line in walk.said)
            assert walk.pid(service) != killed
            assert whole(walk, client, "survivor").shots == number + 1
        assert {event.item_id for event in client.list_interactions("survivor").items} == {"i0", "i4", "i8", "i12", "i16"}
        assert client.list_checkpoints().items[0].live


def test_one_ctrl_c_stops_everything(walk: Walk):
    assert walk.process is not None
    assert len(walk.processes()) > len(SERVICES)
    walk.process.send_signal(signal.SIGINT)
    assert walk.end() == 0
    assert walk.processes() == {}
    assert walk.said[-1] == "stopped"
