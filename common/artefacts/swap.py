"""Puts a finished directory where another one is, in one step."""

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path

Exchange = Callable[[Path, int, str], None]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_IN_THE_WAY = {errno.ENOTEMPTY, errno.EEXIST}
_TRIES = 5


class ExchangeUnsupported(Exception):
    """The kernel, the C library or the file system cannot exchange two names."""


def exchange(new: Path, parent: int, name: str) -> None:
    """Let `new` and `name` in the folder `parent` change places. Raises ExchangeUnsupported, or OSError."""
    rename = _renameat2()
    if rename is None:
        raise ExchangeUnsupported
    if rename(_AT_FDCWD, os.fsencode(new), parent, os.fsencode(name), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        raise ExchangeUnsupported
    raise OSError(code, os.strerror(code), name)


def put_in_place(new: Path, parent: int, name: str, aside: Path, exchange: Exchange = exchange) -> None:
    """Rename `new` to `name` in the folder `parent`. What was there is then at `new` or at `aside`.

    Where names cannot be exchanged (NFS), the old directory is renamed to `aside` first: for that moment there
    is none, and after a crash in it the caller puts `aside` back.
    """
    for _ in range(_TRIES):
        if _rename(new, parent, name):
            return
        try:
            exchange(new, parent, name)
        except FileNotFoundError:
            continue  # somebody has removed the old directory just now
        except ExchangeUnsupported:
            os.rename(name, aside, src_dir_fd=parent)
        else:
            return
    raise FileExistsError(errno.EEXIST, "Another program keeps writing there", name)


def _rename(new: Path, parent: int, name: str) -> bool:
    """Onto nothing, or onto an empty directory, a plain rename is the one step."""
    try:
        os.rename(new, name, dst_dir_fd=parent)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        return False
    return True


@functools.cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
