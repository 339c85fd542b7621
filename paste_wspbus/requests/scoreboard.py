"""The scoreboard: the requests in flight of one process, in memory that another one reads."""

from __future__ import annotations

import contextlib
import enum
import os
from _thread import get_ident  # the original, before a site patches Python
from mmap import PAGESIZE, mmap
from struct import Struct
from threading import get_native_id
from time import monotonic
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import local
else:
    from _thread import _local as local  # the original, before a site patches Python

#: The number of requests that it has room for: further ones are counted, not shown.
SLOTS = 256

#: The first bytes: one that is no phase, where place 0 writes; and the number of requests
#: that had no slot.
_HEAD = Struct('=8xQ48x')

#: A slot: its phase; the number of the request, the time.monotonic() of its beginning,
#: what `_THREAD` packs, and the id, the method and the path, with spaces between them.
_SLOT = Struct('=B7xQd16s288s')

#: The time in a slot, and where it stands there.
_SINCE, _SINCE_AT = Struct('=d'), 16

#: The ident of a thread for Python and for the system.
_THREAD = Struct('=QQ')

#: The number of bytes of a method, of an id and of a path that are read.
METHOD, ID, PATH = 16, 64, 200

#: The number of bytes of a scoreboard. What else is in its file is not read.
SIZE = _HEAD.size + SLOTS * _SLOT.size


class Phase(enum.IntEnum):
    """What a slot shows of its request."""

    #: The slot is free.
    FREE = 0
    #: The application has the request, and has returned no part of the response.
    COMPUTING = 1
    #: The first part of a stream is on its way to the client.
    STREAM = 2
    #: The application has returned the whole response: the server sends it.
    SENDING = 3
    #: The server has the last part of a stream or of a file, and closes it: since then.
    CLOSING = 4


#: The phases in which a request can be slow or overdue.
TIMED = frozenset({Phase.COMPUTING, Phase.CLOSING})

_PHASES = dict(enumerate(Phase))

#: Faster than the look-up in each request.
_COMPUTING, _STREAM, _SENDING, _CLOSING = 1, 2, 3, 4
_pack = _SLOT.pack_into


class Entry(NamedTuple):
    """A request in flight, as its process has written it: all of it may be wrong.

    ``number`` counts the requests of the process. ``since`` is the time.monotonic() at which it
    began, or at which its phase CLOSING did. ``ident`` and ``native`` are those of its
    thread: threading.get_ident() and threading.get_native_id(). ``path`` has no query, and
    at most PATH characters; it is a string of bytes, as in environ (PEP 3333).
    """

    number: int
    since: float
    ident: int
    native: int
    phase: Phase
    method: str
    id: str
    path: str


class Scoreboard:
    """Shows the requests in flight of this process.

    Why a reader never takes the parts of two requests for one. The phase of a slot is
    written last, and reset first. The number of a request is never used again, and is
    written before what follows it. So a slot that has the same number and a phase before
    and after it was read was not written meanwhile.

    It begins with memory of its own; `attach` gives it memory that others read.
    """

    def __init__(self) -> None:
        self.detach()

    def attach(self, fd: int) -> None:
        """Use the file of a scoreboard from now on, and empty it.

        :param fd: what `make` has returned, perhaps in another process; it stays open.
        :raises OSError: if it cannot be mapped.
        """
        shared = mmap(fd, SIZE)
        for start in range(0, SIZE, PAGESIZE):
            # A page takes memory when it is written, and when the mapping is read.
            if any(part := os.pread(fd, min(PAGESIZE, SIZE - start), start)):
                shared[start : start + len(part)] = bytes(len(part))
        self._use(shared)

    def detach(self) -> None:
        """Use memory of its own from now on: a forked child must not write for its parent."""
        # Pages of it take memory when they are written; those of a bytearray always do.
        self._use(mmap(-1, SIZE))

    def _use(self, memory: mmap) -> None:
        #: Where the phases are: ``memory[place]``. Writing to place 0 does nothing.
        self.memory, self._missed = memory, 0
        self._thread = local()
        # The last one that was freed is taken first: its memory is in the cache.
        self._free = list(range(_HEAD.size, SIZE, _SLOT.size))[::-1]

    def begin(self, number: int, since: float, text: str) -> int:
        """Show a request of this thread.

        :param text: its id, its method, and its path (SCRIPT_NAME and PATH_INFO), with
            spaces between them.
        :returns: the place of its slot; 0 if there is none. `end` frees it.
        """
        try:
            place = self._free.pop()
        except IndexError:
            self._missed += 1
            _HEAD.pack_into(self.memory, 0, self._missed)
            return 0
        try:
            thread = self._thread.packed
        except AttributeError:
            thread = self._thread.packed = _THREAD.pack(get_ident(), get_native_id())
        try:
            shown = text.encode()
        except UnicodeEncodeError:
            shown = text.encode(errors='replace')
        memory = self.memory
        _pack(memory, place, 0, number, since, thread, shown)
        memory[place] = _COMPUTING
        return place

    def sends(self, place: int) -> None:
        """Show that the application has returned the whole response of a request."""
        self.memory[place] = _SENDING

    def streams(self, place: int) -> None:
        """Show that the first part of a response is on its way."""
        self.memory[place] = _STREAM

    def closes(self, place: int) -> None:
        """Show that the server closes the response of a request, which was a stream or a file.

        If no part of a stream has come, its application computes since the request began.
        """
        memory = self.memory
        if memory[place] in (_STREAM, _SENDING):
            memory[place] = 0  # a reader must not get half of the time
            _SINCE.pack_into(memory, place + _SINCE_AT, monotonic())
            memory[place] = _CLOSING

    def is_closing(self, place: int) -> bool:
        """Return whether the server closes the response of a request."""
        return self.memory[place] == _CLOSING

    def end(self, place: int) -> None:
        """Free the slot of a request."""
        if place:
            self.memory[place] = 0
            self._free.append(place)

    def read(self) -> list[Entry]:
        """Return the requests in flight of this process."""
        return _read(bytes(self.memory), bytes(self.memory))


class Reader:
    """Reads the scoreboard of another process: it may be stopped, hold the GIL, or be dead.

    It reads by pread(2) and maps nothing: a process that shortens its file would end
    whoever has mapped it.

    :param fd: what `make` has returned; `close` closes it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        #: The numbers of the requests that are past their deadline: the process gives them
        #: up when it makes way.
        self.overdue: set[int] = set()
        self._last: list[Entry] = []

    def read(self) -> list[Entry]:
        """Return the requests in flight, the oldest first; after `close`, the last ones.

        Without memory for them, those of the last call stand: a supervisor must not end here.
        """
        if self.fd >= 0:
            with contextlib.suppress(MemoryError):
                before, after = self._bytes(), self._bytes()
                self._last = sorted(_read(before, after), key=lambda entry: entry.since)
        return self._last

    @property
    def missed(self) -> int:
        """The number of requests that had no slot."""
        if self.fd < 0:
            return 0
        return int(_HEAD.unpack(self._bytes(_HEAD.size))[0])

    def _bytes(self, size: int = SIZE) -> bytes:
        try:
            return os.pread(self.fd, size, 0).ljust(size, b'\0')
        except OSError:
            return bytes(size)

    def close(self) -> None:
        """Read for the last time, and close the file."""
        if self.fd >= 0:
            self.read()
            os.close(self.fd)
            self.fd = -1


def make() -> int:
    """Make the file of a scoreboard, and return its descriptor.

    What is written to it by write(2) follows the scoreboard.

    :raises OSError: if no descriptor or no memory is free.
    """
    import fcntl  # Windows has none

    if hasattr(os, 'memfd_create'):
        fd = os.memfd_create('wspbus scoreboard')
    else:  # macOS
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    try:
        os.truncate(fd, SIZE)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read(before: bytes, after: bytes) -> list[Entry]:
    """Return the entries that were the same before and after."""
    phases = before[_HEAD.size :: _SLOT.size]
    if not any(phases):
        return []
    found = []
    for slot, phase in enumerate(phases):
        known = _PHASES.get(phase)
        if not known:
            continue
        place = _HEAD.size + slot * _SLOT.size
        _, number, since, thread, text = _SLOT.unpack_from(before, place)
        again, number_again, *_ = _SLOT.unpack_from(after, place)
        if not again or number != number_again or not 0 <= since < 1e12:
            continue
        id, _, rest = _string_of(text).partition(' ')
        method, _, path = rest.partition(' ')
        ident, native = _THREAD.unpack(thread)
        texts = method[:METHOD], id[:ID], path[:PATH]
        found.append(Entry(number, since, ident, native, known, *texts))
    return found


def _string_of(text: bytes) -> str:
    """Return what was shown, as a string of bytes; the last character may be cut in two."""
    shown = text.rstrip(b'\0').decode(errors='ignore')
    return shown.encode('latin-1', 'replace').decode('latin-1')
