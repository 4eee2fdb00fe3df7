"""What the children of the isolation's tests do: mostly, to try things before and after they have given them up."""

import ctypes
import errno
import io
import os
import pickle
import platform
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from mmap import PROT_EXEC, PROT_READ, PROT_WRITE, mmap
from pathlib import Path

import msgspec

from tests.fakes.tiny_models import tiny_bert
from worker import isolation
from worker.forkserver import Channel

GETPID, GETPID_32_BITS, X32 = 39, 20, 0x40000000
_SECCOMP, _PTRACE = {"x86_64": (317, 101), "aarch64": (277, 117)}[platform.machine()]
_IO_URING_SETUP, _PIDFD_GETFD = 425, 438
_PR_GET_PDEATHSIG = 2
_SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def reach(channel: Channel) -> None:
    """Connect to a port of this machine, send to another, and try whatever else may make a socket."""
    tcp, udp = msgspec.json.decode(channel.request, type=tuple[int, int])
    ways = {
        "tcp": lambda: _send(socket.SOCK_STREAM, tcp),
        "udp": lambda: _send(socket.SOCK_DGRAM, udp),
        "ipv6": lambda: socket.socket(socket.AF_INET6).close(),
        "unix": lambda: socket.socket(socket.AF_UNIX).close(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "pair of datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        "io_uring": lambda: _call(_IO_URING_SETUP, 0, 0),
        "pidfd_getfd": lambda: _call(_PIDFD_GETFD, -1, 0, 0),
        "ptrace": lambda: _call(_PTRACE, 1 << 20, 0, 0, 0),
        "dns": lambda: socket.getaddrinfo("modelferry.invalid", 80),
        "hosts": lambda: socket.getaddrinfo("localhost", 80),
        "pair of streams": _use_a_pair,
    }
    channel.send([_outcomes(ways), isolation.forbid_network(), _outcomes(ways), isolation.forbid_network()])


def reach_from_elsewhere(channel: Channel) -> None:
    """Try from a thread that was there before, from a fork, and from a program."""
    tcp = int(channel.request)
    go = threading.Event()
    told: list[str] = []

    def connect() -> None:
        go.wait()
        told.append(_outcome(lambda: socket.create_connection(("127.0.0.1", tcp), 5)))

    thread = threading.Thread(target=connect)
    thread.start()
    isolation.forbid_network()
    go.set()
    thread.join()
    if os.fork() == 0:
        channel.send(_outcome(lambda: socket.create_connection(("127.0.0.1", tcp), 5)))
        os._exit(0)
    os.wait()
    program = f"import socket; socket.create_connection(('127.0.0.1', {tcp}), 5)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    channel.send([*told, ran.stderr.strip().rpartition("\n")[2].partition(":")[0]])


def call_as_another_processor(channel: Channel) -> None:
    """Ask for the own number in the way of i386 or of x32."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    way, filtered = msgspec.json.decode(channel.request, type=tuple[str, bool])
    if filtered:
        isolation.forbid_network()
    channel.send(_getpid_of_i386() if way == "i386" else ctypes.CDLL(None).syscall(ctypes.c_long(X32 | GETPID)))


def be_on_an_old_kernel(channel: Channel) -> None:
    """Ask for isolation where the kernel knows neither of its means."""
    code = [
        isolation._instruction(isolation._LOAD, isolation._NUMBER),
        *isolation._if_equal(_SECCOMP, isolation._REFUSE | errno.EINVAL),
        *isolation._if_equal(isolation._LANDLOCK_CREATE, isolation._REFUSE | errno.ENOSYS),
        isolation._instruction(isolation._RETURN, isolation._ALLOW),
    ]
    program = isolation._Program(length=len(code), code=b"".join(code))
    isolation._no_new_privileges()
    assert isolation._call(_SECCOMP, isolation._SET_FILTER, 0, ctypes.byref(program)) == 0
    channel.send([isolation.forbid_network(), isolation.forbid_prying()])


def pry(channel: Channel) -> None:
    """Look into a process that this one did not start, then into one that it did; then move files about."""
    stranger, folder = msgspec.json.decode(channel.request, type=tuple[int, str])
    before = _outcomes(_prying(stranger))
    done = isolation.forbid_prying()
    after = _outcomes(_prying(stranger))
    own = subprocess.Popen(_SLEEP)
    channel.send([before, done, after, _outcomes(_prying(own.pid)), _outcomes(_moving(Path(folder))), _death_signal()])
    own.kill()
    own.wait()


def load_pickles(channel: Channel) -> None:
    """Load files that would run code, and files of plain numbers, in every way there is."""
    import numpy as np
    import torch

    folder = Path(channel.request.decode())
    mark = folder / "mark"
    trap = folder / "trap"
    trap.write_bytes(pickle.dumps(_Touch(mark)))
    torch.save({"weights": torch.ones(2), "trap": _Touch(mark)}, folder / "trap.bin")
    torch.save({"trap": _Touch(mark)}, folder / "old.bin", _use_new_zipfile_serialization=False)
    np.save(folder / "trap.npy", np.array([_Touch(mark)], dtype=object), allow_pickle=True)
    torch.save({"weights": torch.ones(2, dtype=torch.bfloat16)}, folder / "plain.bin")
    np.save(folder / "plain.npy", np.arange(3))
    traps = {
        "pickle": lambda: pickle.loads(trap.read_bytes()),
        "pickle in Python": lambda: pickle._Unpickler(io.BytesIO(trap.read_bytes())).load(),  # type: ignore[attr-defined]
        "torch": lambda: torch.load(folder / "trap.bin", weights_only=False),
        "torch, old": lambda: torch.load(folder / "old.bin", weights_only=False),
        "torch, own reader": lambda: torch.load(folder / "trap.bin", pickle_module=pickle, weights_only=False),
        "numpy": lambda: np.load(folder / "trap.npy", allow_pickle=True),
    }
    plain = {
        "torch": lambda: torch.load(folder / "plain.bin"),
        "torch, all": lambda: torch.load(folder / "plain.bin", weights_only=False),
        "numpy": lambda: np.load(folder / "plain.npy"),
        "values": lambda: pickle.loads(pickle.dumps({"a": [1, 2.0, "three"]})),
    }
    before = _sprung(traps, mark)
    isolation.forbid_pickles()
    channel.send([before, _outcomes(traps), _sprung(traps, mark), _outcomes(plain)])


def convert(channel: Channel) -> None:
    """Convert a model with everything given up, by upstream's own command, and open the result."""
    import openvino
    from optimum.commands.optimum_cli import main

    folder = Path(channel.request.decode())
    model, output = tiny_bert(folder / "bert"), folder / "output"
    held = isolation.isolate(folder / "home")
    sys.argv = [
        "optimum-cli", "export", "openvino", "--model", str(model), "--task", "feature-extraction",
        "--weight-format", "int8", str(output),
    ]  # fmt: skip
    main()
    compiled = openvino.Core().compile_model(output / "openvino_model.xml", "CPU")
    channel.send([held, sorted(path.name for path in output.iterdir()), len(compiled.inputs)])


def tell_environment(channel: Channel) -> None:
    """What this process knows from its environment, by Python and by the kernel, and where its home is."""
    isolation.move_home(Path(channel.request.decode()))
    kernel = Path("/proc/self/environ").read_text(errors="replace")
    home = Path.home()
    files = {path.relative_to(home).as_posix(): path.read_text() for path in home.rglob("*") if path.is_file()}
    channel.send([dict(os.environ), kernel, str(home), files])


class _Touch:
    """Its pickle makes a file as it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self._mark), "w")


def _send(kind: int, port: int) -> int:
    with socket.socket(socket.AF_INET, kind) as end:
        end.connect(("127.0.0.1", port))
        return end.send(b"hello")


def _use_a_pair() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"hello")
        assert other.recv(5) == b"hello"


def _call(number: int, *arguments: int) -> None:
    """A system call that the kernel does not like anyway. Raises PermissionError where it may not be made at all."""
    answer = ctypes.CDLL(None, use_errno=True).syscall(*(ctypes.c_long(one) for one in (number, *arguments)))
    if answer == -1 and ctypes.get_errno() == errno.EPERM:
        raise PermissionError


def _prying(pid: int) -> Mapping[str, Callable[[], object]]:
    own = Path(f"/proc/{pid}")
    return {
        "environment": (own / "environ").read_bytes,
        "memory": lambda: (own / "mem").open("rb").close(),
        "open files": (own / "fd/0").readlink,
        "signal": lambda: os.kill(pid, 0),
    }


def _moving(folder: Path) -> Mapping[str, Callable[[], object]]:
    for name in ("from", "to"):
        (folder / name).mkdir()
    (folder / "from" / "file").write_text("content")
    return {
        "link": lambda: (folder / "to" / "link").hardlink_to(folder / "from" / "file"),
        "rename": lambda: (folder / "from" / "file").rename(folder / "to" / "file"),
        "rename of a folder": lambda: (folder / "from").rename(folder / "to" / "folder"),
    }


def _death_signal() -> int:
    number = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return number.value


def _getpid_of_i386() -> int:
    """mov eax, 20; int 0x80; ret."""
    code = mmap(-1, 4096, prot=PROT_READ | PROT_WRITE | PROT_EXEC)
    code.write(b"\xb8" + GETPID_32_BITS.to_bytes(4, "little") + b"\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def _sprung(traps: Mapping[str, Callable[[], object]], mark: Path) -> list[str]:
    """The traps whose code was run."""
    found = []
    for name, load in traps.items():
        mark.unlink(missing_ok=True)
        _outcome(load)
        if mark.exists():
            found.append(name)
    return found


def _outcomes(ways: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    return {name: _outcome(way) for name, way in ways.items()}


def _outcome(way: Callable[[], object]) -> str:
    """`ok`, or the name of the error."""
    try:
        way()
    except Exception as error:
        return type(error).__name__
    return "ok"
