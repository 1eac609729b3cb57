"""A replica that ends with the Ray node that started it.

Ray's workers notice the end of their node by themselves most of the time. One that does not would keep the service's port and go
on answering, with nobody left to restart or stop it.
"""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel (Linux) kill this process when its parent ends."""
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # it has ended in between
