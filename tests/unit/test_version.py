"""Python that takes the checkout's folder for the package `metarec`, as Ray's workers do beside it, still loads what they run."""

import subprocess
import sys
from pathlib import Path

import metarec

# What training's workers and the replicas of ranking load.
LOADED = ("metarec.training.worker", "metarec.training.trial", "metarec.training.checkpoint", "services.ranking.app")


def test_the_checkout_beside_them_does_not_hide_the_package_from_workers(tmp_path: Path) -> None:
    (tmp_path / "metarec" / "metarec").mkdir(parents=True)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {', '.join(LOADED)}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_tells_the_version() -> None:
    assert metarec.__version__ == metarec.version.__version__
