"""How the demo runs its steps: numbered, timed, each command with a log of its own, work of an earlier run reused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

METAREC = (sys.executable, "-m", "metarec.cli.main")
BEAT_SECONDS = 15.0
"""How often a long command shows where it is when standard output is no terminal."""
STOP_SECONDS = 60.0


class StepError(Exception):
    """A step failed; `log` is where to read more."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


@dataclass(kw_only=True)
class Demo:
    """The folder of the demo, what it prints to, and what it has found so far."""

    folder: Path
    console: Console
    num_steps: int
    step: int = 0
    title: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def doing(self, title: str) -> Iterator[None]:
        """One step, with its number before it and its seconds after it."""
        self.step += 1
        self.title = title
        self.console.print(f"\n[bold]\\[{self.step}/{self.num_steps}] {title}[/]")
        started = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - started
        self.console.print(f"[dim]      {self.seconds[title]:.1f} s[/]")

    def say(self, text: str) -> None:
        """A line of narration."""
        self.console.print(f"      {text}")

    def command(self, words: Sequence[str]) -> None:
        """The command line of what runs now, as one would type it in the folder above the demo's."""
        line = " ".join(words).replace(f"{self.folder.parent}/", "")
        self.console.print(f"      [dim]$ metarec {escape(line)}[/]", soft_wrap=True)

    def log(self, name: str) -> Path:
        """Where a command of this step writes."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        return self.folder / "logs" / f"{self.step:02d}-{name}.log"

    def metarec(self, name: str, arguments: Sequence[object]) -> str:
        """Run a metarec command, show its progress, and return its standard output. StepError when it fails."""
        log, words = self.log(name), [str(word) for word in arguments]
        self.command(words)
        with (
            log.open("w") as file,
            subprocess.Popen(
                [*METAREC, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean()
            ) as process,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            watcher = threading.Thread(target=self._show, args=(process.stderr, file))
            watcher.start()
            try:
                output = process.stdout.read()
            except KeyboardInterrupt:
                process.wait()  # Ctrl-C reached it too
                raise
            finally:
                watcher.join()
            file.write(output)
        if process.returncode:
            last = next((line for line in reversed(log.read_text().splitlines()) if line.startswith(("error: ", "Error: "))), "")
            raise StepError(f"metarec {words[0]} exited with status {process.returncode}. {last}".strip(), log)
        return output

    def _show(self, lines: Iterator[str], log: object) -> None:
        beat = time.monotonic()
        for line in lines:
            print(line, end="", file=log, flush=True)  # type: ignore[arg-type]  # a text file
            if self.console.is_terminal:
                self.console.print(f"      [dim]{escape(line.strip())[: self.console.width - 8]}[/]", end="\r", no_wrap=True)
                self.console.file.write("\x1b[K")
            elif time.monotonic() - beat > BEAT_SECONDS:
                beat = time.monotonic()
                self.say(f"[dim]... {escape(line.strip())}[/]")


def clean() -> dict[str, str]:
    """The environment without METAREC_ settings of the user's shell: the demo is the same for everybody. What Ray tells its
    developers is not for those who watch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METAREC_")}
    return {**kept, "PYTHONWARNINGS": "ignore::DeprecationWarning"}


def code_hash(*packages: str) -> str:
    """Hash of the source of some packages of metarec: results of other code are not reused."""
    import metarec

    root, digest = Path(metarec.__file__).parent, hashlib.sha256()
    for package in sorted(packages):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class Stamp:
    """Remembers what a result was made from, beside the result."""

    def __init__(self, path: Path, inputs: dict[str, object]) -> None:
        self._path, self._inputs = path, inputs

    def value(self) -> dict[str, object] | None:
        """What was stored with these inputs, or None."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._path.read_text())
            if stored["inputs"] == json.loads(json.dumps(self._inputs)):
                return dict(stored["value"])
        return None

    def store(self, value: dict[str, object]) -> None:
        """Keep `value` for the next run with the same inputs."""
        self._path.write_text(json.dumps({"inputs": self._inputs, "value": value}, indent=1))


@contextmanager
def services(demo: Demo, registry: Path, data: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    """`metarec up` on free ports for the length of the block; gives the addresses. Ended whatever happens."""
    log = demo.log("up")
    words = ["up", "--registry", str(registry), "--data", str(data), "--port-base", "0", "--json"]
    demo.command(words)
    with log.open("w") as file:
        # A session of its own, so that Ctrl-C lets the demo end it in order.
        process = subprocess.Popen(
            [*METAREC, *words], stdout=subprocess.PIPE, stderr=file, text=True, env=clean(), start_new_session=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise StepError(f"metarec up exited with status {process.wait()} before it was ready", log)
        yield json.loads(line)["addresses"], process
    finally:
        stop(process)
        process.stdout.close()


def stop(process: subprocess.Popen[str]) -> None:
    """One Ctrl-C, and SIGKILL if that takes too long; its guard then kills the services."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
