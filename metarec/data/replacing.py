"""Writes a dataset directory beside its final place and moves it there when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarec.data.dataset import MANIFEST
from metarec.errors import AlreadyExistsError, DataError


def check_target(path: Path) -> None:
    """AlreadyExistsError when `path` holds something that is not a dataset: it would be lost."""
    if path.is_dir() and not (path / MANIFEST).exists() and any(path.iterdir()):
        raise AlreadyExistsError(f"'{path}' is a directory with other things in it; name a new one, or a dataset to replace")
    if path.exists() and not path.is_dir():
        raise AlreadyExistsError(f"'{path}' is a file; name a directory that is to be written")


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `path` when the block succeeds and vanishes when it does not."""
    check_target(path)
    final = path.resolve()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.new-", dir=final.parent))
    except OSError as error:
        raise DataError(f"cannot write beside '{path}': {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        _swap(partial, final)
    except OSError as error:
        raise DataError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, final: Path) -> None:
    if not final.exists():
        os.rename(partial, final)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
    os.rename(final, old / "dataset")
    try:
        os.rename(partial, final)
    except OSError:
        os.rename(old / "dataset", final)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    # Reading the mask is setting it; temporary directories are private, a dataset is as readable as any new directory.
    mask = os.umask(0)
    os.umask(mask)
    return mask
