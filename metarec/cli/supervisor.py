"""One supervisor, several services: starts them, waits for their health, restarts the crashed, drains them at the end.

It knows nothing of metarec: services are commands with an environment and an address, and `healthy` asks one address. So it is
tested with services of three lines. Runs on asyncio in the main thread.
"""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from metarec.cli.processes import MARK, Guard, end_all, in_session, marked
from metarec.errors import UnavailableError

Healthy = Callable[[str], Awaitable[bool]]
"""Whether the service at `host:port` says that it serves; returns within a few seconds, raises nothing."""
Say = Callable[[str], None]

LOG_LIMIT = 16 * 2**20
TAIL_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Program:
    """A service: `command` runs with exactly `environment`, serves at `address`, and writes to `log`."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    address: str
    log: Path


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long things may take, in seconds.

    A service that ends `attempts` times before it has ever been healthy, or is not healthy after `start_seconds`, ends the run.
    One that had been healthy is restarted for ever: the others answer degraded meanwhile, which is better than not at all. The
    pause before a restart doubles from `first_pause_seconds` to `longest_pause_seconds` until the service has held out for
    `stable_seconds`. A service that runs but has not answered for `hung_seconds` is killed and restarted.
    """

    attempts: int = 3
    start_seconds: float = 300.0
    drain_seconds: float = 20.0
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    stable_seconds: float = 60.0
    hung_seconds: float = 60.0
    poll_seconds: float = 0.2
    watch_seconds: float = 5.0


class _Child:
    """A program and the process that runs it now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Runs `stages` of programs: all are started at once, and drained stage after stage."""

    def __init__(
        self,
        stages: Sequence[Sequence[Program]],
        *,
        healthy: Healthy,
        say: Say,
        patience: Patience | None = None,
        follow: bool = False,
        passing: Path | None = None,
    ) -> None:
        """`follow` says every new line of the services' logs as `name | line`; the directory `passing` goes away with the run."""
        self._stages = [[_Child(program) for program in stage] for stage in stages]
        self._healthy, self._say, self._patience, self._follow_logs = healthy, say, patience or Patience(), follow
        self._mark, self._passing = uuid.uuid4().hex, passing
        self._stop, self._kill = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        """Drain and end; asked a second time, kill."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    async def run(self, ready: Callable[[], None]) -> bool:
        """Run until `stop`; `ready` is called once, when every service is healthy. Returns whether the end was a clean drain.

        UnavailableError, after everything was stopped, when a service cannot be started.
        """
        children = [child for stage in self._stages for child in stage]
        with Guard(self._mark, self._passing):
            followers = [asyncio.create_task(self._follow(child.program)) for child in children] if self._follow_logs else []
            asked = asyncio.create_task(self._stop.wait())
            announcer = asyncio.create_task(self._announce(children, ready))
            keepers = [asyncio.create_task(self._keep(child)) for child in children]
            try:
                done, _ = await asyncio.wait([asked, *keepers], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (announcer, asked, *keepers):
                    task.cancel()
                await asyncio.gather(announcer, asked, *keepers, return_exceptions=True)
                await self._drain()
                for task in followers:
                    task.cancel()
                await asyncio.gather(*followers, return_exceptions=True)
        for keeper in done - {asked}:
            keeper.result()  # a keeper ends by an error only
        return not self._kill.is_set()

    async def _announce(self, children: Sequence[_Child], ready: Callable[[], None]) -> None:
        for child in children:
            await child.ready.wait()
        ready()

    async def _keep(self, child: _Child) -> None:
        """Start the child again and again; raises UnavailableError when it cannot be started at all."""
        program, patience = child.program, self._patience
        failures, ended = 0, None
        while True:
            started = time.monotonic()
            process = await self._start(child)
            if await self._came_up(child, process):
                child.ready.set()
                if ended is not None:
                    self._say(f"{program.name} is back after {time.monotonic() - ended:.1f} s")
                how = await self._watch(child, process)
            else:
                how = _ending(await process.wait())
            ended = time.monotonic()
            await asyncio.to_thread(end_all, partial(in_session, process.pid))
            failures = 1 if ended - started > patience.stable_seconds else failures + 1
            if failures >= patience.attempts and not child.ready.is_set():
                raise UnavailableError(_cannot_start(program, f"{how} {failures} times in a row"))
            pause = min(patience.first_pause_seconds * 2 ** (failures - 1), patience.longest_pause_seconds)
            self._say(f"{program.name} {how}; starting it again in {pause:g} s (log: {program.log})")
            await asyncio.sleep(pause)

    async def _start(self, child: _Child) -> asyncio.subprocess.Process:
        program = child.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        if program.log.exists() and program.log.stat().st_size > LOG_LIMIT:
            os.replace(program.log, program.log.with_suffix(".log.1"))
        with program.log.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env={**program.environment, MARK: self._mark},
                # Ctrl-C in the terminal reaches the supervisor alone, and the session tells the service's processes from others.
                start_new_session=True,
            )
        return child.process

    async def _came_up(self, child: _Child, process: asyncio.subprocess.Process) -> bool:
        """Wait until the service is healthy (True) or has ended (False)."""
        deadline = time.monotonic() + self._patience.start_seconds
        while not await self._healthy(child.program.address):
            if process.returncode is not None:
                return False
            if time.monotonic() > deadline:
                what = f"is not healthy after {self._patience.start_seconds:g} s"
                if not child.ready.is_set():
                    raise UnavailableError(_cannot_start(child.program, what))
                self._say(f"{child.program.name} {what}; killing it")
                process.kill()
                return False
            await asyncio.sleep(self._patience.poll_seconds)
        return process.returncode is None

    async def _watch(self, child: _Child, process: asyncio.subprocess.Process) -> str:
        """Wait until a healthy service ends, by itself or because it hangs; returns how it ended, for people."""
        answered = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                return _ending(await asyncio.wait_for(process.wait(), self._patience.watch_seconds))
            if await self._healthy(child.program.address):
                answered = time.monotonic()
            elif time.monotonic() - answered > self._patience.hung_seconds:
                process.kill()
                await process.wait()
                return f"did not answer for {self._patience.hung_seconds:g} s and was killed"

    async def _follow(self, program: Program) -> None:
        """Say the lines that the log gets from now on; once more when cancelled."""
        offset = program.log.stat().st_size if program.log.exists() else 0
        running = True
        while running:
            try:
                await asyncio.sleep(self._patience.poll_seconds)
            except asyncio.CancelledError:
                running = False
            if not program.log.exists():
                continue
            with program.log.open("rb") as file:
                offset = 0 if program.log.stat().st_size < offset else offset  # it was put aside
                file.seek(offset)
                data = file.read()
            end = data.rfind(b"\n") + 1
            for line in data[:end].decode(errors="replace").splitlines():
                self._say(f"{program.name} | {line}")
            offset += end

    async def _drain(self) -> None:
        """Stage after stage: SIGTERM, wait, SIGKILL for those that take too long; then whatever the services left behind."""
        for stage in self._stages:
            alive = [child for child in stage if child.alive]
            if alive and not self._kill.is_set():
                self._say(f"stopping {', '.join(child.program.name for child in alive)}")
            await asyncio.gather(*[self._end(child) for child in alive])
        grace = 0.0 if self._kill.is_set() else self._patience.drain_seconds
        await asyncio.to_thread(end_all, partial(marked, self._mark), grace, self._kill.is_set)

    async def _end(self, child: _Child) -> None:
        process = child.process
        assert process is not None
        waits = [asyncio.create_task(process.wait()), asyncio.create_task(self._kill.wait())]
        if not self._kill.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        await asyncio.wait(waits, timeout=self._patience.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if child.alive:
            if not self._kill.is_set():
                self._say(f"{child.program.name} did not stop within {self._patience.drain_seconds:g} s; killing it")
            await asyncio.to_thread(end_all, partial(in_session, process.pid))
        for task in waits:
            task.cancel()
        await process.wait()


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def _cannot_start(program: Program, what: str) -> str:
    lines = program.log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if program.log.exists() else []
    tail = "".join(f"\n  | {line}" for line in lines)
    return f"{program.name} cannot be started: it {what}; its log '{program.log}' ends with{tail or ' nothing'}"


def run_until_signalled(supervisor: Supervisor, ready: Callable[[], None]) -> bool:
    """`Supervisor.run` in a new event loop, where SIGINT, SIGTERM and SIGHUP mean `stop`."""

    async def run() -> bool:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, supervisor.stop)
        return await supervisor.run(ready)

    return asyncio.run(run())
