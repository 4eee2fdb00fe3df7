"""What a process that works on a stranger's model gives up: the network, the sight of other processes, and pickles.

Nothing here can be taken back. What the kernel holds to, it holds for all threads, forks and programs that follow; a
program that is to load no pickles has to say so itself.
"""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.errors import PickleRefused

_libc = ctypes.CDLL(None, use_errno=True)


def isolate(home: Path) -> bool:
    """Give up everything below, and move to an empty home. Whether the network is out of reach now.

    To be called before any code or file of a stranger is looked at, in a process that never needs any of it again.
    """
    move_home(home)
    forbid_pickles()
    forbid_prying()
    return forbid_network()


def forbid_network() -> bool:
    """Let the kernel refuse every new socket, and every way round that. Safe to repeat.

    Sockets that are open already, and pairs of connected ones, go on working. False where the kernel, or the processor,
    does not know how: then the network is as open as before.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < _64_BITS:
        return False
    code = b"".join(_filter(machine))
    program = _Program(length=len(code) // _INSTRUCTION_BYTES, code=code)
    return _no_new_privileges() and _call(machine.seccomp, _SET_FILTER, _FLAGS, ctypes.byref(program)) == 0


def forbid_prying() -> bool:
    """Let the kernel keep this process out of all those that it did not start: their memory and their environment.

    From Linux 6.12 on it cannot signal them either. What files it may open stays as it is. False where the kernel has
    no Landlock. Of an administrator's rights those over files are all that is left.
    """
    version = _call(_LANDLOCK_CREATE, None, 0, _ASK_VERSION) if platform.machine() in _MACHINES else -1
    if version < _LETS_MOVE:
        return False
    # A domain forbids to move files between directories unless told otherwise; that, everywhere, is the only rule.
    rules = _Rules(file_rights=_MOVE_BETWEEN, network_rights=0, scoped=_SIGNALS if version >= _KEEPS_SIGNALS_IN else 0)
    domain = _call(_LANDLOCK_CREATE, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if domain < 0:
        return False
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        everywhere = _Below(rights=_MOVE_BETWEEN, folder=root)
        allowed = _call(_LANDLOCK_ADD, domain, _PATH_BENEATH, ctypes.byref(everywhere), 0) == 0
        return allowed and _no_new_privileges() and _keep_only_file_rights() and _call(_LANDLOCK_ENTER, domain, 0) == 0
    finally:
        os.close(root)
        os.close(domain)


def forbid_pickles() -> None:
    """Refuse every pickle that names a class or a function: a program, that is, whichever library wants to load it.

    What torch.load reads goes through its own reader of plain weights, also where a library asks for the other one.
    Raises PickleRefused inside whatever loads the pickle.
    """
    environment = os.environ  # noqa: TID251 - part of a process entry: torch looks here, and so do processes to come
    environment.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    sys.addaudithook(_refuse_pickled_names)


def move_home(folder: Path) -> None:
    """Give this process an empty home directory of its own, in which telemetry is declined."""
    consent = folder / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    # OpenVINO takes the absence of this file for consent.
    consent.write_text("0", encoding="ascii")
    os.environ["HOME"] = str(folder)  # noqa: TID251 - part of a process entry


def _refuse_pickled_names(event: str, arguments: Sequence[object]) -> None:
    if event == "pickle.find_class":
        _refuse_pickle(*arguments)


def _refuse_pickle(module: object, name: object) -> NoReturn:
    raise PickleRefused(
        f"A file of the model is a pickle that would run {module}.{name}",
        hint="Look for a repository with safetensors. Of pickles only plain weights are ever loaded.",
    )


def _no_new_privileges() -> bool:
    """Without this no unprivileged process may bind itself; set-user-id programs then gain nothing any more."""
    return bool(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _keep_only_file_rights() -> bool:
    """An administrator's process could look into others all the same."""
    whom = _WhoseRights(version=_CAPABILITIES_VERSION, process=0)
    rights = (_Rights * 2)()
    if _libc.capget(ctypes.byref(whom), rights) != 0:
        return False
    for half, kept in zip(rights, (_FILE_CAPABILITIES, 0), strict=True):
        half.effective &= kept
        half.permitted &= kept
        half.inheritable &= kept
    return bool(_libc.capset(ctypes.byref(whom), rights) == 0)


def _call(number: int, *arguments: object) -> int:
    """A system call for which the C library has no function. -1 where it fails."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *words))


# The filter: a program for the kernel's packet machine. It sees the number of each system call, and its arguments.


@dataclass(frozen=True, slots=True)
class _Machine:
    """The numbers of system calls on one processor."""

    architecture: int
    seccomp: int
    socket: int
    socketpair: int
    into_others: tuple[int, ...]
    """ptrace, process_vm_readv, process_vm_writev: another process may have a network."""
    foreign_calls: int | None = None
    """From here on the numbers belong to another calling convention of the same processor."""


_MACHINES = {
    "x86_64": _Machine(
        architecture=0xC000003E, seccomp=317, socket=41, socketpair=53, into_others=(101, 310, 311),
        foreign_calls=0x40000000,
    ),
    "aarch64": _Machine(
        architecture=0xC00000B7, seccomp=277, socket=198, socketpair=199, into_others=(117, 270, 271),
    ),
}  # fmt: skip
_IO_URING_SETUP, _PIDFD_GETFD = 425, 438
"""A ring makes sockets without a system call for each; the other takes an open socket out of another process."""

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AF_UNIX, _SOCK_STREAM, _SOCKET_TYPES = 1, 1, 0xF


def _filter(machine: _Machine) -> list[bytes]:
    return [
        _instruction(_LOAD, _ARCHITECTURE),
        *_unless_equal(machine.architecture, _KILL),
        _instruction(_LOAD, _NUMBER),
        *(_from(machine.foreign_calls, _KILL) if machine.foreign_calls is not None else ()),
        *_if_equal(machine.socket, _REFUSE | errno.EACCES),
        *(
            one
            for number in (_IO_URING_SETUP, _PIDFD_GETFD, *machine.into_others)
            for one in _if_equal(number, _REFUSE | errno.EPERM)
        ),
        *_unless_equal(machine.socketpair, _ALLOW),
        # A pair of streams is connected for good. One of datagrams could still send to any socket with a name.
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *_unless_equal(_AF_UNIX, _REFUSE | errno.EACCES),
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_AND, _SOCKET_TYPES),
        *_unless_equal(_SOCK_STREAM, _REFUSE | errno.EACCES),
        _instruction(_RETURN, _ALLOW),
    ]


def _if_equal(value: int, verdict: int) -> tuple[bytes, bytes]:
    return _instruction(_EQUAL, value, over_if_false=1), _instruction(_RETURN, verdict)


def _unless_equal(value: int, verdict: int) -> tuple[bytes, bytes]:
    return _instruction(_EQUAL, value, over_if_true=1), _instruction(_RETURN, verdict)


def _from(value: int, verdict: int) -> tuple[bytes, bytes]:
    return _instruction(_AT_LEAST, value, over_if_false=1), _instruction(_RETURN, verdict)


def _instruction(code: int, value: int, *, over_if_true: int = 0, over_if_false: int = 0) -> bytes:
    """One instruction; a comparison skips so many of the following ones."""
    return (
        code.to_bytes(2, sys.byteorder)
        + over_if_true.to_bytes(1, sys.byteorder)
        + over_if_false.to_bytes(1, sys.byteorder)
        + value.to_bytes(4, sys.byteorder)
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


class _Rules(ctypes.Structure):
    _fields_ = (("file_rights", ctypes.c_uint64), ("network_rights", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


class _WhoseRights(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Rights(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_64_BITS = 1 << 32
_INSTRUCTION_BYTES = 8
_PR_SET_NO_NEW_PRIVS = 38
_SET_FILTER = 1
_FLAGS = 1 << 0 | 1 << 2
"""For all threads; and without the brake on speculation that older kernels put on every filtered process."""
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_ENTER = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_MOVE_BETWEEN = 1 << 13
_LETS_MOVE, _KEEPS_SIGNALS_IN = 2, 6
_SIGNALS = 2
_CAPABILITIES_VERSION = 0x20080522
_FILE_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID: the volume may belong to somebody else."""
