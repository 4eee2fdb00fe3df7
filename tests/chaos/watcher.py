"""A process that watches the folders in which models are published, and tells at its end all that it has seen.

    python -m tests.chaos.watcher MODELS_DIR FOLDER...

It says `watching` when it does, and ends with one JSON line when its input is closed. The kernel reports every rename
into the folders (inotify), so that none is missed however short the time between two looks; between the reports it
looks at published models round and round.
"""

import ctypes
import json
import os
import select
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.artefacts.manifest import check_published
from worker.serving import INDEX_NAME

_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_Q_OVERFLOW, _IN_ISDIR, _IN_ONLYDIR = 0x4000, 0x40000000, 0x1000000
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 1 << 20
_LOOK_EVERY_MS = 10
_LOOKS = 5
"""How many models are looked at between two looks at the kernel's reports."""
_NICE = 5


class Inotify:
    """The kernel's reports about some folders."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._folders: dict[int, Path] = {}

    def watch(self, folder: Path) -> None:
        mask = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_ONLYDIR
        number = self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
        self._folders[number] = folder

    def reports(self) -> Iterator[tuple[int, Path]]:
        """(what happened, to which path), for everything that has happened since the last call."""
        while True:
            try:
                data = os.read(self.descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                yield mask, self._folders.get(number, Path()) / os.fsdecode(name)


class Watcher:
    """Counts publications and collects every sight of something that must not be seen."""

    def __init__(self, root: Path, folders: list[Path]) -> None:
        self._root = root
        self._inotify = Inotify()
        self._indexes = {folder.parent / INDEX_NAME for folder in folders}
        self._published: list[Path] = []
        self._next = 0
        self.moved: Counter[str] = Counter()
        self.sights: list[str] = []
        self.looks = 0
        self.missed = False
        for folder in folders:
            self._inotify.watch(folder)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify.descriptor, select.POLLIN)
        poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_EVERY_MS)}
            self._take_in()
            if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1):
                return
            for _ in range(min(_LOOKS, len(self._published))):
                self._look(self._published[self._next % len(self._published)])
                self._next += 1
            self._look_at_indexes()

    def _take_in(self) -> None:
        for mask, path in self._inotify.reports():
            if mask & _IN_Q_OVERFLOW:
                self.missed = True
            elif not mask & _IN_ISDIR:
                self.sights.append(f"{self._name(path)}: a file where only models belong")
            elif mask & _IN_MOVED_TO:
                self.moved[self._name(path)] += 1
                if path not in self._published:
                    self._published.append(path)
                self._look(path)
            elif mask & _IN_CREATE:
                self.sights.append(f"{self._name(path)}: made in place, not renamed into it")
            else:
                self.sights.append(f"{self._name(path)}: taken away")

    def _look(self, path: Path) -> None:
        self.looks += 1
        self.sights += [f"{self._name(path)}: {problem}" for problem in check_published(path)]

    def _look_at_indexes(self) -> None:
        for index in self._indexes:
            try:
                json.loads(index.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError:
                self.sights.append(f"{self._name(index)}: is not JSON at this moment")

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def main() -> None:
    root, *folders = map(Path, sys.argv[1:])
    os.nice(_NICE)
    watcher = Watcher(root, folders)
    print("watching", flush=True)
    watcher.run()
    report = {
        "moved": dict(watcher.moved),
        "sights": watcher.sights,
        "looks": watcher.looks,
        "missed": watcher.missed,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
