"""The site's own metrics: the folder of prometheus_client's files, and those of dead processes.

prometheus_client has a file for each kind of metric and each process, such as
``counter_4711.db``, and keeps those of all processes that have ever run. Here the files
of the dead are added to one for each kind: ``counter_dead.db``. Each worker does that
before it starts, and who reads the metrics.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import sys
import time

from paste_wspbus.unix.processes import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    Value = tuple[float, float]
    Merge = Callable[[Value, Value], Value]

#: The variable that names the folder, for prometheus_client.
VARIABLE = 'PROMETHEUS_MULTIPROC_DIR'

#: Seconds to wait for another process that adds files of the dead: when a process starts,
#: and when the metrics are read.
PATIENCE, SHORT = 2.0, 0.1

#: The number of bytes that must be free when a process begins: it has a file of 64 kB or
#: more for each kind of metric.
ROOM = 1 << 20

#: How often the metrics are read at most until no files were added meanwhile.
LOOKS = 10

_LOCK, _JOURNAL, _NEW, _BEGUN = 'wspbus.lock', 'wspbus.journal', '.new', '.begun'

#: The kind of a file, and the process that writes it.
_NAME = re.compile(r'([a-z]+(?:_[a-z]+)?)_(\d{1,10})\.db').fullmatch

#: What is done with two numbers of the same name, each with a time, by kind of file. The
#: gauges of the other kinds say something of a living process alone.
_MERGE: dict[str, Merge] = {
    **dict.fromkeys(
        ('counter', 'histogram', 'summary', 'gauge_sum'),
        lambda one, two: (one[0] + two[0], 0.0),
    ),
    'gauge_min': lambda one, two: min(one, two),
    'gauge_max': lambda one, two: max(one, two),
    'gauge_mostrecent': lambda one, two: one if one[1] >= two[1] else two,
}

_SIZE = struct.Struct('=i')
_VALUE = struct.Struct('=dd')


def begin() -> str:
    """Prepare the folder for this process, a worker that has not loaded the site yet.

    If the folder is full, prometheus_client does not use it: the system would end the
    process when that writes to its mapped files (SIGBUS).

    :returns: what the log should say; '' if all is well.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return ''
    note = ''
    try:
        # Something may have removed it: what cleans /tmp, for example.
        os.makedirs(folder, 0o700, exist_ok=True)
        enter(folder)
    except OSError as error:
        note = f'Metrics: those of dead processes are not added: {error}'
    lacks = _what_lacks(folder)
    if not lacks or 'prometheus_client' in sys.modules:
        return note
    del os.environ[VARIABLE]
    return f"Metrics: {folder} {lacks}. This process serves, but without the site's own metrics"


def _what_lacks(folder: str) -> str:
    """Return why a process cannot have files in a folder; '' if it can."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return f'cannot be used: {error.strerror}'
    if found.f_bavail * found.f_frsize < ROOM:
        return f'has less than {ROOM >> 20} MB free'
    return ''


def enter(folder: str) -> None:
    """Add the files of the dead, also those of an earlier process with the number of this one.

    :raises OSError: if the folder is full, or cannot be written.
    """
    pid = os.getpid()
    with _locked(folder, PATIENCE) as is_locked:
        if is_locked:
            _fold(folder, own=pid)
        if (began := _began(pid)) is not None:
            with open(os.path.join(folder, f'{pid}{_BEGUN}'), 'w') as file:
                file.write(began)


def fold(folder: str) -> None:
    """Add the files of the dead.

    :raises OSError: if the folder is full, or cannot be written.
    """
    with _locked(folder, PATIENCE) as is_locked:
        if is_locked:
            _fold(folder)


class SiteCollector:
    """Collects the site's own metrics of all processes for prometheus_client."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def collect(self) -> list[Any]:
        """Return the metrics. Files that are broken are left out.

        Another process may add files of the dead meanwhile, and be slow, or stopped: then
        what was read is right only if that has changed nothing.
        """
        found: list[Any] = []
        with contextlib.suppress(OSError), _locked(self.folder, SHORT) as is_locked:
            if is_locked:
                # If it is full, there are only more files to read.
                with contextlib.suppress(OSError):
                    _fold(self.folder)
            for _ in range(LOOKS):
                before, files = _sums(self.folder), _files(self.folder)
                is_read, found = _merged(files)
                if not is_read:
                    is_read, found = _merged(list(filter(_is_whole, files)))
                if is_read and _sums(self.folder) == before:
                    break
        return found


def _merged(files: list[str]) -> tuple[bool, list[Any]]:
    """Return whether all files could be read, and the metrics."""
    from prometheus_client.multiprocess import MultiProcessCollector

    try:
        return True, list(MultiProcessCollector.merge(files))
    except Exception:
        return False, []


def _sums(folder: str) -> list[tuple[str, int, int]]:
    """Return what changes if files of the dead are added."""
    found = []
    for name in sorted(os.listdir(folder)):
        if name == _JOURNAL or name.endswith('_dead.db'):
            with contextlib.suppress(FileNotFoundError):
                about = os.stat(os.path.join(folder, name))
                found.append((name, about.st_ino, about.st_mtime_ns))
    return found


def _files(folder: str) -> list[str]:
    """Return the files that count, also while other ones are added to the sums."""
    try:
        made, gone = _read_journal(folder)
    except (FileNotFoundError, ValueError, TypeError):
        made, gone = [], []
    names = set(os.listdir(folder))
    counted = {name for name in names if name.endswith('.db')} - set(gone)
    for name in made:
        if name + _NEW in names:
            counted.discard(name)
            counted.add(name + _NEW)
    return [os.path.join(folder, name) for name in sorted(counted)]


def _is_whole(path: str) -> bool:
    return _merged([path])[0]


@contextlib.contextmanager
def _locked(folder: str, patience: float) -> Generator[bool]:
    """Keep other processes from adding files.

    :returns: False if another one does not end; it may be stopped.
    """
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(os.path.join(folder, _LOCK), flags, 0o600)
    until, is_locked = time.monotonic() + patience, False
    try:
        while not is_locked:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
                time.sleep(0.01)
        yield is_locked
    finally:
        os.close(fd)


def _began(pid: int) -> str | None:
    """Return when a process has begun, in a form that only another process can differ in."""
    with contextlib.suppress(OSError, IndexError), open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[19]
    return None


def _is_dead(folder: str, pid: int) -> bool:
    """Whether the process has ended that has written the files with this number."""
    if not is_alive(pid):
        return True
    try:
        with open(os.path.join(folder, f'{pid}{_BEGUN}')) as file:
            return file.read() != (_began(pid) or '')
    except OSError:
        return False  # it is a child of a worker, or another program


def _fold(folder: str, own: int | None = None) -> None:
    """Add the files of the dead; if this is interrupted, the next one completes it.

    The journal says which files were added: as soon as it is there, they do not count.

    :param own: the number of this process, which has written nothing yet.
    """
    _complete(folder)
    dead: dict[int, bool] = {} if own is None else {own: True}
    sources: dict[str, list[str]] = {}
    gone = []
    for name in sorted(os.listdir(folder)):
        pid = _process_of(name)
        if pid is None:
            continue
        if pid not in dead:
            dead[pid] = _is_dead(folder, pid)
        if dead[pid]:
            gone.append(name)
            if (match := _NAME(name)) and match[1] in _MERGE:
                sources.setdefault(match[1], []).append(name)
    if not gone:
        return
    made = []
    try:
        for kind, names in sources.items():
            made.append(f'{kind}_dead.db')
            _add(folder, kind, names)
        _write(folder, f'{_JOURNAL}{_NEW}', json.dumps([made, gone]).encode())
    except OSError:
        for name in (*made, _JOURNAL):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name + _NEW))
        raise
    path = os.path.join(folder, _JOURNAL)
    os.replace(path + _NEW, path)
    _complete(folder)


def _process_of(name: str) -> int | None:
    """Return the process that a file belongs to."""
    if match := _NAME(name):
        return int(match[2])
    number = name.removesuffix(_BEGUN)
    return int(number) if number != name and number.isdigit() else None


def _read_journal(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the sums that are made anew, and of the files that are in them.

    :raises FileNotFoundError: if no sums are being changed.
    :raises ValueError, TypeError: if it is nonsense.
    """
    with open(os.path.join(folder, _JOURNAL)) as file:
        made, gone = (list(map(os.path.basename, names)) for names in json.load(file))
    return made, gone


def _complete(folder: str) -> None:
    """Put the sums in their places, and remove what was added, as the journal says."""
    path = os.path.join(folder, _JOURNAL)
    try:
        made, gone = _read_journal(folder)
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        # It is not ours: that has its name when it is whole.
        os.unlink(path)
        return
    for name in made:
        place = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):  # it was done
            os.replace(place + _NEW, place)
    for name in gone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    os.unlink(path)


def _add(folder: str, kind: str, names: list[str]) -> None:
    """Write the sums of a kind of files."""
    total = f'{kind}_dead.db'
    merge = _MERGE[kind]
    sums: dict[bytes, tuple[float, float]] = {}
    for name in (total, *names):
        for key, value in _read(os.path.join(folder, name)):
            sums[key] = value if key not in sums else merge(sums[key], value)
    _write(folder, total + _NEW, _as_file(sums))


def _read(path: str) -> Iterator[tuple[bytes, tuple[float, float]]]:
    """Yield what a file has, up to where it is broken; nothing if it is not there."""
    try:
        with open(path, 'rb') as file:
            data = file.read()
        used, place = _SIZE.unpack_from(data)[0], 8
        while place < min(used, len(data)):
            size = _SIZE.unpack_from(data, place)[0]
            place += 4
            key = data[place : place + size]
            json.loads(key)
            place += size + 8 - (size + 4) % 8
            value = _VALUE.unpack_from(data, place)
            place += 16
            yield key, value
    except (FileNotFoundError, struct.error, ValueError):
        return


def _as_file(sums: dict[bytes, tuple[float, float]]) -> bytes:
    """Return the bytes of a file as prometheus_client has it (its mmap_dict.py)."""
    entries = []
    for key, value in sums.items():
        padding = b' ' * (8 - (len(key) + 4) % 8)
        entries.append(_SIZE.pack(len(key)) + key + padding + _VALUE.pack(*value))
    body = b''.join(entries)
    return _SIZE.pack(len(body) + 8) + bytes(4) + body


def _write(folder: str, name: str, data: bytes) -> None:
    """Write a file; a write(2) to a full disk fails, and a mapped file would end the process."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = os.open(os.path.join(folder, name), flags, 0o600)
    with open(fd, 'wb', buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
