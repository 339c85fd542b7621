"""The ledger: how many requests of which kind a site has answered, in memory that outlives its workers.

All processes of a site share one file. Its directory has the names of the series, each
once. Behind it, each process has a page of numbers: a row for each series. The page of a
process that has ended is added to page 0 by `Book.fold`; so the sum of all pages never
goes down, also if a worker is killed.
"""

from __future__ import annotations

import contextlib
import os
from _thread import allocate_lock  # the original, before a site patches Python
from bisect import bisect_left
from mmap import mmap
from struct import Struct
from time import monotonic, sleep  # as above: no greenlet may run while this one waits
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

#: The upper limits of a histogram's buckets, in seconds; the last bucket has no limit.
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10, 30, 60)

#: The cells of a row: the requests in each bucket, and the sum of their nanoseconds.
CELLS = len(BUCKETS) + 2
_SUM = CELLS - 1

#: The number of series that a site has at most; and how many of them stand by for requests
#: whose route comes too late: one for each method and class of status.
ROWS, STAND_BY = 1000, 150

#: The label of values without a series of their own.
OTHER = 'other'

#: The status in the series of a component's starts, whose route is its name.
START = 'start'

#: The methods with counts of their own: of RFC 9110, RFC 5789, WebDAV (RFC 4918, 3253).
METHODS = frozenset(
    (
        *('GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE'),
        *('PATCH', 'PROPFIND', 'PROPPATCH', 'MKCOL', 'COPY', 'MOVE', 'LOCK', 'UNLOCK'),
        *('REPORT', 'SEARCH'),
    )
)

#: The number of bytes of a route that are kept.
ROUTE = 120

#: The first bytes: a mark, the number of series, a number that is odd while `Book.fold`
#: moves numbers, the highest page that was given out, whether the directory has been full.
_HEAD = Struct('=8sQQQQ')
_MARK = b'wspledg1'
_COUNT, _EPOCH, _PAGES, _FULL = (8 * number for number in range(1, 5))

_NUMBER = Struct('=Q')

#: An entry of the directory: the number of bytes, and the bytes.
_ENTRY = Struct('=H158s')


def _whole(size: int) -> int:
    """Round a size up, so that mmap(2) can begin behind it on each system."""
    return -(-size // 65536) * 65536


_START = 4096
_DIRECTORY = _whole(_START + ROWS * _ENTRY.size)
_PAGE = _whole(ROWS * CELLS * 8)

#: The number of pages: a process needs one for as long as it runs.
PAGES = 4096

#: Seconds for which a new series waits while another process enters one.
PATIENCE = 0.05


class Series(NamedTuple):
    """What the requests of one row have in common; for `status`, '2xx' and so on."""

    method: str
    status: str
    route: str


def _beginning() -> bytes:
    """Return the first bytes of a directory; its first series is for requests of unknown kind."""
    text = '\0'.join((OTHER, OTHER, OTHER)).encode()
    head = _HEAD.pack(_MARK, 1, 0, 0, 0).ljust(_START, b'\0')
    return head + _ENTRY.pack(len(text), text)


def _make() -> int:
    """Make the file of a ledger, without pages, and return its descriptor."""
    if hasattr(os, 'memfd_create'):
        fd = os.memfd_create('wspbus ledger', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:  # macOS
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    try:
        os.truncate(fd, _DIRECTORY + _PAGE)
        os.pwrite(fd, _beginning(), 0)
        if hasattr(os, 'memfd_create'):
            import fcntl

            # A process that makes it shorter would end all that have mapped it (SIGBUS).
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Ledger:
    """Counts the requests of this process.

    It begins with memory of its own; `attach` gives it a page of a file that others read.
    """

    def __init__(self) -> None:
        self._lock: LockType
        self.detach()

    def attach(self, fd: int, page: int) -> bool:
        """Count in a page of a file from now on, and add what was counted before.

        :param fd: what `Book.open` has returned, perhaps in another process; it stays
            open.
        :param page: the number of the page.
        :returns: False if the descriptor is not that of a ledger, or there is no page.
        """
        try:
            if not 0 < page < PAGES or os.pread(fd, len(_MARK), 0) != _MARK:
                return False
            if os.fstat(fd).st_size < _DIRECTORY + (page + 1) * _PAGE:
                return False
            directory = mmap(fd, _DIRECTORY)
            cells = mmap(fd, _PAGE, offset=_DIRECTORY + page * _PAGE)
        except (OSError, ValueError):
            return False
        before = self.read()
        self._use(fd, memoryview(directory), memoryview(cells))
        for series, numbers in before.items():
            place = self._place(series)
            for cell, number in enumerate(numbers):
                self._cells[place + cell] += number
        return True

    def detach(self) -> None:
        """Use memory of its own from now on: a forked child must not write for its parent."""
        directory = bytearray(_beginning().ljust(_DIRECTORY, b'\0'))
        self._use(-1, memoryview(directory), memoryview(bytearray(_PAGE)))

    @property
    def is_shared(self) -> bool:
        """Whether other processes read what this one counts."""
        return self.fd >= 0

    def _use(self, fd: int, directory: memoryview, cells: memoryview) -> None:
        self.fd, self._directory, self._cells = fd, directory, cells.cast('Q')
        self._head = directory[: _HEAD.size].cast('Q')
        self._lock = allocate_lock()
        #: From (method, status, route), as they came, to the place of their row.
        self._places: dict[tuple[str, str, str], int] = {}
        #: The same of the names in the directory, as far as it was read.
        self._rows: dict[Series, int] = {}
        self._names: dict[int, Series] = {}
        self._read = 0
        #: Whether a route came for which there was no place, since this was last asked.
        self.overflows = False

    def count(self, method: str, status: str, route: str, seconds: float) -> None:
        """Count a request.

        :param status: its status line, or the first digits of it.
        """
        key = method, status[:1], route
        place = self._places.get(key)
        if place is None:
            place = self._find(key)
        cells = self._cells
        bucket = place + bisect_left(BUCKETS, seconds)
        with self._lock:
            cells[bucket] += 1
            cells[place + _SUM] += int(seconds * 1e9)

    def series_of(self, method: str, status: str, route: str) -> Series:
        """Return the series in which such a request is counted."""
        place = self._places.get((method, status[:1], route))
        if place is None:
            place = self._find((method, status[:1], route))
        return self._names[place]

    def note_start(self, component: str, seconds: float) -> None:
        """Count the start of a component."""
        series = Series('', START, _short(component))
        place = self._place(series)
        if series not in self._rows:
            return
        bucket = place + bisect_left(BUCKETS, seconds)
        with self._lock:
            self._cells[bucket] += 1
            self._cells[place + _SUM] += int(seconds * 1e9)

    def _find(self, key: tuple[str, str, str]) -> int:
        method, digit, route = key
        series = Series(
            method if method in METHODS else OTHER,
            f'{digit}xx' if digit in ('1', '2', '3', '4', '5') else OTHER,
            _short(route),
        )
        place = self._place(series)
        # Keys that are not kept take longer. Their number has no limit.
        is_known = series in self._rows or self._read >= ROWS - STAND_BY
        if is_known and len(self._places) < 2 * ROWS:
            self._places[key] = place
        return place

    def _place(self, series: Series) -> int:
        """Return the place of a row, which may be that of `OTHER` routes."""
        with self._lock:
            place = self._rows.get(series)
            if place is None:
                place = self._enter(series)
        return place

    def _enter(self, series: Series) -> int:
        """Read what others have entered, and enter a series."""
        self._update()
        if (place := self._rows.get(series)) is not None:
            return place
        other = series._replace(route=OTHER)
        if series != other and self._read >= ROWS - STAND_BY:
            self._note_full()
            place = self._rows.get(other)
            return self._enter(other) if place is None else place
        if self._read >= ROWS:  # another process has written nonsense
            return 0
        with self._exclusively() as is_alone:
            if not is_alone:
                return self._rows.get(other, 0)
            self._update()
            if series not in self._rows:
                text = '\0'.join(series).encode()
                place = _START + self._read * _ENTRY.size
                _ENTRY.pack_into(self._directory, place, len(text), text)
                self._head[1] = self._read + 1  # it counts only from here on
                self._update()
        return self._rows.get(series, 0)

    def _update(self) -> None:
        for row in range(self._read, min(self._head[1], ROWS)):
            if (series := _series(self._directory, row)) is not None:
                self._rows[series] = row * CELLS
                self._names[row * CELLS] = series
        self._read = min(self._head[1], ROWS)

    def _note_full(self) -> None:
        if not self._head[4]:
            self._head[4] = 1
            self.overflows = True

    @contextlib.contextmanager
    def _exclusively(self):  # type: ignore[no-untyped-def]
        """Keep other processes from entering series; the kernel ends this with the process.

        :returns: False if another one does not end; it may be stopped.
        """
        if self.fd < 0:
            yield True
            return
        import fcntl  # Windows has none

        until = monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
                break
            except OSError:
                if monotonic() >= until:
                    yield False
                    return
                sleep(PATIENCE / 20)
        try:
            yield True
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1)

    def read(self) -> dict[Series, list[int]]:
        """Return the numbers of this process, by series."""
        with self._lock:
            self._update()
            cells, rows = self._cells, self._rows
            found = {
                series: cells[place : place + CELLS].tolist()
                for series, place in rows.items()
            }
        return {series: numbers for series, numbers in found.items() if any(numbers)}


class Book:
    """The ledger of a site, from outside: it adds the pages, and folds those of the dead.

    It reads by pread(2) and maps nothing: a process that shortens its file would end
    whoever has mapped it.

    :param fd: the descriptor of the file; -1 stands for none.
    """

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd

    def open(self) -> int:
        """Return the descriptor of the file, which this makes if there is none.

        :raises OSError: if no descriptor or no memory is free.
        """
        if self.fd < 0:
            self.fd = _make()
        return self.fd

    def use(self, page: int) -> None:
        """Give a page to a process; without memory for it, what it counts is not shown."""
        with contextlib.suppress(OSError):
            if 0 < page < PAGES and page > self._number(_PAGES):
                os.truncate(self.fd, _DIRECTORY + (page + 1) * _PAGE)
                self._write(_PAGES, page)

    def fold(self, page: int) -> None:
        """Add the numbers of a process that has ended to page 0, and empty its own page."""
        with contextlib.suppress(OSError):
            self._fold(page)

    def _fold(self, page: int) -> None:
        size = self._rows() * CELLS * 8
        if not (0 < page < PAGES and size):
            return
        own = os.pread(self.fd, size, _DIRECTORY + page * _PAGE)
        if not any(own):
            return
        total = memoryview(bytearray(os.pread(self.fd, size, _DIRECTORY))).cast('Q')
        numbers = memoryview(own.ljust(size, b'\0')).cast('Q')
        for cell, number in enumerate(numbers):
            if number:
                total[cell] = (total[cell] + number) % (1 << 64)
        epoch = self._number(_EPOCH)
        self._write(_EPOCH, epoch | 1)
        os.pwrite(self.fd, total, _DIRECTORY)
        os.pwrite(self.fd, bytes(size), _DIRECTORY + page * _PAGE)
        self._write(_EPOCH, (epoch | 1) + 1)

    def read(self) -> dict[Series, list[int]]:
        """Return the sums of all pages, by series; no number is ever lower than before.

        :raises OSError: if the file is broken.
        """
        for _ in range(100):
            before = self._number(_EPOCH)
            if not before & 1:
                found = self._sums()
                if self._number(_EPOCH) == before:
                    return found
            sleep(0.001)
        return self._sums()  # the supervisor was stopped while it folded a page

    def _sums(self) -> dict[Series, list[int]]:
        rows = self._rows()
        size = rows * CELLS * 8
        directory = os.pread(self.fd, _START + rows * _ENTRY.size, 0)
        sums = [0] * (rows * CELLS)
        for page in range(min(self._number(_PAGES), PAGES - 1) + 1):
            own = os.pread(self.fd, size, _DIRECTORY + page * _PAGE)
            if not any(own):
                continue
            numbers = memoryview(own.ljust(size, b'\0')).cast('Q')
            sums = [one + more for one, more in zip(sums, numbers, strict=True)]
        found = {}
        for row in range(rows):
            numbers_of_row = sums[row * CELLS : (row + 1) * CELLS]
            series = _series(directory, row)
            if series is not None and any(numbers_of_row):
                found[series] = numbers_of_row
        return found

    def _rows(self) -> int:
        return min(self._number(_COUNT), ROWS)

    def _number(self, place: int) -> int:
        return int(_NUMBER.unpack(os.pread(self.fd, 8, place).ljust(8, b'\0'))[0])

    def _write(self, place: int, number: int) -> None:
        os.pwrite(self.fd, _NUMBER.pack(number), place)


def _series(directory: bytes | memoryview, row: int) -> Series | None:
    """Return a series of the directory; None if another process has written nonsense."""
    try:
        size, text = _ENTRY.unpack_from(directory, _START + row * _ENTRY.size)
        return Series(*text[:size].decode('utf-8', 'replace').split('\0'))
    except Exception:
        return None


def _short(route: str) -> str:
    """Return a route as text that fits: a path in environ is bytes as latin-1 (PEP 3333)."""
    with contextlib.suppress(UnicodeError):
        route = route.encode('latin-1').decode('utf-8')
    data = route.replace('\0', '�').encode('utf-8', 'replace')
    if len(data) <= ROUTE:
        return data.decode()
    return data[: ROUTE - 3].decode('utf-8', 'ignore') + '…'
