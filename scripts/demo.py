"""`make demo`: the main job of metarec on MovieLens-100K, from raw ratings to recommendations that turn with a new user's taste.

Works in demo/ of the checkout, on free ports. What a run has fetched, trained and evaluated is used again by the next one while
its inputs and the code are the same; state of the services starts afresh. Exits with 1 when a step fails, naming the step and its
log.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from demo_catalogue import Catalogue
from demo_evaluation import CUTS, SHOTS, figures, show
from demo_steps import Demo, Stamp, StepError, code_hash, services
from demo_story import cold_start, described, latencies, new_films, outage, turn, why

from metarec.cli.output import stdout
from metarec.client.channel import ClientSettings
from metarec.client.client import Client
from metarec.errors import MetarecError
from metarec.training.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
NUM_STEPS = 12
WORKERS = 1
LEARNING = ("data", "features", "tasks", "models", "meta", "baselines", "training", "evaluation")
"""Packages whose code a checkpoint and its evaluation depend on."""


def main() -> int:
    """Run the demo; returns the exit status."""
    demo = Demo(folder=ROOT / "demo", console=stdout(), num_steps=NUM_STEPS)
    demo.folder.mkdir(exist_ok=True)
    started = time.monotonic()
    try:
        summary = run(demo)
    except (StepError, MetarecError) as error:
        log = error.log if isinstance(error, StepError) else None
        where = f"; its log is {log}" if log else f"; logs are in {demo.folder / 'logs'}"
        print(f"\nerror: step {demo.step} ({demo.title}) failed: {error}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nerror: interrupted in step {demo.step} ({demo.title}); `make demo` goes on from there", file=sys.stderr)
        return 130
    summary["seconds"] = demo.seconds
    path = demo.folder / "summary.json"
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    demo.console.print(f"\n[bold]Done in {time.monotonic() - started:.0f} s.[/] Everything above as figures: {path}")
    demo.console.print(f"Yours to go on: [bold]metarec up --registry {demo.folder / 'registry'} --data {demo.folder / 'data'}[/]")
    return 0


def run(demo: Demo) -> dict[str, object]:
    """Every step; returns the summary."""
    data, registry = demo.folder / "data", demo.folder / "registry"
    with demo.doing("Fetch MovieLens-100K and import it"):
        demo.metarec("fetch", ["data", "fetch", "ml-100k", "--out", data])
        manifest = json.loads((data / "dataset.json").read_text())
        demo.say(f"{manifest['users']:,} users, {manifest['items']:,} films, {manifest['interactions']:,} ratings")
    with demo.doing("Meta-train on Ray Train"):
        trained = train(demo, data, registry, str(manifest["fingerprint"]))
    with demo.doing("Evaluate beside the plain baselines"):
        evaluated = evaluate(demo, data, registry, trained)
        show(demo, evaluated)
    with demo.doing("Promote the checkpoint"):
        promote(demo, registry, str(trained["checkpoint"]))
    # A demo that had been run before must not find its own traces.
    for leftover in (registry / "state", registry / "features"):
        shutil.rmtree(leftover, ignore_errors=True)
    with ExitStack() as stack:
        with demo.doing("Start the services"):
            addresses, process = stack.enter_context(services(demo, registry, data))
            for name, address in addresses.items():
                demo.say(f"{name:<11} {address}")
        client = stack.enter_context(Client(ClientSettings(gateway_address=addresses["gateway"])))
        films = Catalogue(data)
        with demo.doing("A brand-new user"):
            cold = cold_start(demo, client, films)
        with demo.doing("The same user rates films for children"):
            adapted = turn(demo, client, films, cold)
        with demo.doing("Why the first film leads the list"):
            residual = why(demo, client, films, adapted[0])
        with demo.doing("Two brand-new films"):
            visible = new_films(demo, client, films)
        with demo.doing("Latency of the calls"):
            latency = latencies(demo, client, films)
        with demo.doing("One service is killed (kill -9)"):
            outage_seconds = outage(demo, client, lambda name: kill(name, process.pid))
        with demo.doing("Stop everything with one Ctrl-C"):
            stack.close()
            if process.returncode:
                raise StepError(f"metarec up ended with status {process.returncode}", demo.folder / "logs")
            demo.say("drained; no process is left")
    return {
        "train_seconds": trained["train_seconds"],
        "evaluation": evaluated["protocols"],
        "delta": evaluated["delta"],
        "latency_ms": latency,
        "cold_list": described(cold),
        "adapted_list": described(adapted),
        "explanation_residual": residual,
        "new_item_visible_seconds": visible,
        "outage_seconds": outage_seconds,
        "checkpoint": trained["checkpoint"],
    }


def train(demo: Demo, data: Path, registry: Path, fingerprint: str) -> Mapping[str, object]:
    """The result of `metarec train`, from an earlier run where nothing has changed since."""
    inputs = {"data": fingerprint, "code": code_hash(*LEARNING), "workers": WORKERS}
    stamp = Stamp(demo.folder / "trained.json", inputs)
    known = stamp.value()
    if known is not None and any(info.id == known["checkpoint"] for info in Registry(registry).list()):
        demo.say(f"{known['checkpoint']} is there from an earlier run, trained on the same data by the same code")
    else:
        command = ["train", "--data", data, "--out", registry, "--workers", WORKERS, "--json"]
        known = cast(dict[str, object], json.loads(demo.metarec("train", command)))
        stamp.store(known)
    demo.say(f"checkpoint {known['checkpoint']}, trained in {known['train_seconds']:.0f} s with {WORKERS} Ray Train worker")
    return known


def evaluate(demo: Demo, data: Path, registry: Path, trained: Mapping[str, object]) -> Mapping[str, object]:
    """The result of `metarec evaluate`, from an earlier run where nothing has changed since."""
    checkpoint = registry / "checkpoints" / str(trained["checkpoint"])
    inputs = {"checkpoint": trained["checkpoint"], "code": code_hash(*LEARNING), "cuts": CUTS, "shots": SHOTS}
    stamp = Stamp(demo.folder / "evaluated.json", inputs)
    known = stamp.value()
    report = demo.folder / "report.html"
    if known is not None and report.exists():
        demo.say("evaluated by an earlier run")
    else:
        command = ["evaluate", "--checkpoint", checkpoint, "--data", data, "--cuts", CUTS, "--shots", SHOTS]
        path = demo.folder / "evaluation.json"
        demo.metarec("evaluate", [*command, "--json", path, "--report", report])
        known = figures(json.loads(path.read_text()))
        stamp.store(known)
    demo.say(f"with curves and calibration: {report}")
    return known


def promote(demo: Demo, registry: Path, checkpoint: str) -> None:
    """Make the checkpoint live; the gate has the say, and a demo goes on without it, saying so."""
    info = Registry(registry).get(checkpoint)
    if info.gate_passed:
        demo.say(f"it passed its gate: delta {info.delta:+.4f} against the best plain baseline")
    else:
        demo.say(f"[yellow]it did not pass its gate[/] (delta {info.delta:+.4f}): promoted by force, to show the services")
    force = [] if info.gate_passed else ["--force"]
    demo.metarec("promote", ["checkpoints", "promote", checkpoint, "--registry", registry, "--json", *force])
    demo.say(f"{checkpoint} is live")


def kill(service: str, supervisor: int) -> None:
    """SIGKILL to the process of a service; its supervisor's children are the leaders of their sessions."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and f"services.{service}".encode() in _command(entry) and _parent(entry) == supervisor:
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise StepError(f"the process of {service} is not there")


def _command(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
