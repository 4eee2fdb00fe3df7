"""Becomes another program, tied to the process that started it: `tether.py PARENT_PID COMMAND...`.

The kernel kills the program when the *thread* that started it ends, not the process: whoever starts a tethered
program must do so from a thread that lives as long as the program shall, which is the main thread.
It is a program of its own, rather than a function between fork and exec, because no Python may safely run there in a
process that has threads. It needs the standard library only, so that `python -I -S` starts it in no time.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # It died before the kernel had been asked.
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 # nosec B606 # the very point of this program


if __name__ == "__main__":
    main()
