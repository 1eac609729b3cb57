import os
import signal
import sys
from pathlib import Path

import pytest

from metarec.errors import NotFoundError
from services.training import local
from services.training.launchers import JobSpec, JobState, job_environment
from services.training.local import LocalLauncher
from waiting import until

SPEC = JobSpec(job_id="j1", data="data", recipe="", num_workers=0, seed=0, registry="registry")
WAITS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


def launcher(directory: Path, program: str, *arguments: str) -> LocalLauncher:
    return LocalLauncher(directory=directory, command=lambda spec: [sys.executable, "-c", program, *arguments])


def final_state(place: LocalLauncher, handle: str) -> JobState:
    until(lambda: place.status(handle).state != "running")
    return place.status(handle).state


def test_a_job_that_ends_well_has_succeeded(tmp_path: Path) -> None:
    place = launcher(tmp_path, "print('trained')")
    handle = place.launch(SPEC)
    assert final_state(place, handle) == "succeeded"
    assert (Path(handle) / "log").read_text() == "trained\n"


def test_a_failed_job_is_reported_with_its_own_last_error(tmp_path: Path) -> None:
    place = launcher(tmp_path, "import sys; print('error: first'); print('error: dataset is gone'); print('bye'); sys.exit(2)")
    handle = place.launch(SPEC)
    assert final_state(place, handle) == "failed"
    assert place.status(handle).error == "dataset is gone"


def test_a_job_that_says_nothing_is_reported_with_its_status_and_log(tmp_path: Path) -> None:
    place = launcher(tmp_path, "import sys; sys.exit(3)")
    handle = place.launch(SPEC)
    assert final_state(place, handle) == "failed"
    assert place.status(handle).error == f"metarec train exited with status 3; its log is '{handle}/log'"


def test_launching_a_job_again_starts_no_second_process(tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); {WAITS}"
    place, other = (launcher(tmp_path, program, str(tmp_path / "up")) for _ in range(2))
    handle = place.launch(SPEC)
    assert place.launch(SPEC) == handle
    assert other.launch(SPEC) == handle, "another service on the same folder"
    until((tmp_path / "up").exists)
    place.cancel(handle)
    assert (tmp_path / "starts").read_text() == "x"


def test_a_restarted_service_follows_and_cancels_a_job_of_the_one_before(tmp_path: Path) -> None:
    before = launcher(tmp_path, WAITS, str(tmp_path / "up"))
    handle = before.launch(SPEC)
    until((tmp_path / "up").exists)
    after = LocalLauncher(directory=tmp_path)
    assert after.status(handle).state == "running"
    after.cancel(handle)
    assert after.status(handle).state == "failed"
    after.cancel(handle)  # nothing left to stop
    assert before.status(handle) == after.status(handle)


def test_a_restarted_service_learns_how_a_job_ended_meanwhile(tmp_path: Path) -> None:
    before = launcher(tmp_path, "import sys; print('error: no'); sys.exit(1)")
    handle = before.launch(SPEC)
    until((Path(handle) / "exit").exists)
    after = LocalLauncher(directory=tmp_path)
    assert final_state(after, handle) == "failed"
    assert after.status(handle).error == "no"
    assert before.status(handle) == after.status(handle)


def test_a_cancelled_job_may_clean_up(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "def stop(number, frame):\n    pathlib.Path(sys.argv[1] + '.saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(600)"
    )
    place = launcher(tmp_path, program, str(tmp_path / "up"))
    handle = place.launch(SPEC)
    until((tmp_path / "up").exists)
    place.cancel(handle)
    assert (tmp_path / "up.saved").exists()
    assert (Path(handle) / "exit").read_text() == "130"


def test_a_cancelled_job_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.3)
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"
    place = launcher(tmp_path, program, str(tmp_path / "up"))
    handle = place.launch(SPEC)
    until((tmp_path / "up").exists)
    place.cancel(handle)
    assert place.status(handle).state == "failed"
    assert "were killed" in place.status(handle).error


def test_a_job_counts_as_alive_until_its_process_is_gone_though_its_watcher_was_killed(tmp_path: Path) -> None:
    place = launcher(tmp_path, WAITS, str(tmp_path / "up"))
    handle = place.launch(SPEC)
    until((tmp_path / "up").exists)
    os.kill(int((Path(handle) / "pid").read_text()), signal.SIGKILL)
    assert place.status(handle).state == "running"
    os.killpg(int((Path(handle) / "pid").read_text()), signal.SIGKILL)
    assert final_state(place, handle) == "failed"
    assert place.status(handle).error == "the job's processes were killed; create the job again to go on from there"


def test_a_suspended_job_goes_on_when_it_is_launched_again(tmp_path: Path) -> None:
    program = f"import os, sys; os.path.exists(sys.argv[1]) and sys.exit(0); {WAITS}"
    place = launcher(tmp_path, program, str(tmp_path / "up"))
    handle = place.launch(SPEC)
    until((tmp_path / "up").exists)
    place.suspend(handle)
    assert place.status(handle).state == "pending"
    after = launcher(tmp_path, program, str(tmp_path / "up"))
    assert after.launch(SPEC) == handle
    assert final_state(after, handle) == "succeeded"
    assert after.launch(SPEC) == handle
    assert after.status(handle).state == "succeeded", "an ended job is not run again"


def test_a_folder_nobody_launched_in_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no training job was launched in"):
        LocalLauncher(directory=tmp_path).status(str(tmp_path / "none"))


def test_the_command_line_is_that_of_metarec_train() -> None:
    spec = JobSpec(job_id="j1", data="my data", recipe="maml", num_workers=2, seed=7, registry="registry")
    assert spec.entrypoint() == ("metarec train --data 'my data' --out registry --recipe maml --workers 2 --seed 7 --job-id j1")


def test_a_job_inherits_the_environment_without_the_services_own_settings() -> None:
    environment = {"HOME": "/h", "METAREC_PORT": "1", "METAREC_ONLINE_STORE": "redis://r:6379", "RAY_ADDRESS": "a"}
    assert job_environment(environment) == {"HOME": "/h", "METAREC_ONLINE_STORE": "redis://r:6379", "RAY_ADDRESS": "a"}
