import os
from pathlib import Path

import pytest

from metarec.cli.run_lock import Run, only_one, running
from metarec.errors import FailedPreconditionError


def test_one_run_for_each_state_directory(tmp_path: Path):
    message = f"another 'metarec up' \\(process {os.getpid()}\\)"
    with only_one(tmp_path, {}), pytest.raises(FailedPreconditionError, match=message), only_one(tmp_path, {}):
        pass
    with only_one(tmp_path, {}):
        pass


def test_others_see_where_the_services_are_while_it_runs(tmp_path: Path):
    assert running(tmp_path) is None
    with only_one(tmp_path, {"gateway": "127.0.0.1:1"}):
        assert running(tmp_path) == Run(process=os.getpid(), addresses={"gateway": "127.0.0.1:1"})
    assert running(tmp_path) is None
