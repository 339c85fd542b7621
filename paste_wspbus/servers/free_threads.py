"""Which workers of a site have a free thread: a byte for each, in memory that they share."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections import deque

from paste_wspbus.listening.backlog import is_filling
from paste_wspbus.servers.untouched import Marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.servers.server import Server

#: The number of places: workers that run at the same time, also during a graceful restart.
PLACES = mmap.PAGESIZE

#: Seconds for which a thread is kept free for a new connection that has sent nothing yet.
EXPECTED = 0.5

_BUSY, _FREE = b'\0', b'\1'

#: If the system does not report how full the backlog is: the seconds for which
#: connections stay there while no worker has a free thread.
PATIENCE = 1.0

#: A worker always accepts if its requests are short: it has answered MANY requests
#: within WITHIN seconds, the last one within LAST seconds. No connection waits long
#: there; and if it left connections to others, its threads would be idle until its loop
#: accepts again.
MANY, WITHIN, LAST = 32, 0.05, 0.005


class Board:
    """The places of all workers. The supervisor makes it, and its children inherit it.

    The number of a place is 1 or more; 0 stands for none.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, PLACES)
        self._free = list(range(PLACES - 1, 0, -1))
        #: Which connections of each worker another one can take.
        self.marks = Marks()

    def take(self) -> int:
        """Return the number of a place that no process has; 0 if there is none."""
        number = self._free.pop() if self._free else 0
        self.marks.clear(number)
        return number

    def give_back(self, number: int) -> None:
        """Note that the process with this place has ended; it has no free threads any more."""
        if number:
            self._bytes[number : number + 1] = _BUSY
            self._free.append(number)

    def share(self, number: int, server: Server, several: bool) -> None:
        """Give the server of a worker what the worker shares; the worker itself calls this.

        :param number: that of its place.
        :param several: whether there are others at the same time, and not only a successor.
        """
        if several and number:
            server.sharing = Sharing(self._bytes, number, server)
        # With TLS, nobody else has the keys of a connection.
        if server.scheme == 'http':
            server.untouched = self.marks.of(number)


class Sharing:
    """How the server of one worker leaves connections to workers that have a free thread.

    Why no connection waits although a thread is free. A worker leaves connections to others
    only while its own threads are busy, and the first thread that is free ends that, whatever
    the other workers do. ``leaves`` is set before the threads are counted once more: a thread
    that becomes free sees it, or is counted. If no worker has a free thread, the connections
    wait in the backlog for the first one, and not behind the requests of one worker. But a
    worker goes on accepting when the backlog fills up, if the requests are short (`MANY`), and
    if its threads are only kept free for connections that have sent nothing yet (`expect`).

    :param shared: the bytes of all places.
    :param number: that of this worker's place.
    """

    def __init__(self, shared: mmap.mmap, number: int, server: Server) -> None:
        self._shared, self._number, self._server = shared, number, server
        #: Whether connections are left to others now.
        self.leaves = False
        #: Whether no thread was free when they were counted last.
        self.is_full = False
        #: Whether the requests are short.
        self.is_fast = False
        #: The time.monotonic() of the last answers.
        self._answers: deque[float] = deque(maxlen=MANY)
        #: The time.monotonic() since which no worker has had a free thread.
        self._all_full_since: float | None = None
        self._is_over = True
        #: New connections that have sent nothing yet, each with the time.monotonic() until
        #: which a thread is kept free for it.
        self._expected: dict[Any, float] = {}
        #: Seconds after which the loop of a server looks at its sockets again.
        self.look = EXPECTED

    def begin(self) -> None:
        """Note that the server has begun to accept."""
        self.leaves = self._is_over = False
        self.count()

    def end(self) -> None:
        """Note that the server stops: it accepts what comes to it, but others accept more."""
        self._is_over = True
        self._note(False)
        self._stop_leaving()

    def leaves_it_to_others(self) -> bool:
        """Return whether to leave a connection to others; the server's loop calls this."""
        if self._is_over:
            return False
        self.is_fast = self._answers_fast()
        if self.is_fast or self.count() or self._must_go_on():
            return False
        self.leaves = True
        if self._is_over or self.count():
            self.leaves = False
        return self.leaves

    def is_leaving(self) -> bool:
        """Return whether to go on leaving connections to others; the loop calls this."""
        if self.leaves and (self._is_over or self.count() or self._must_go_on()):
            self._stop_leaving()
        return self.leaves

    def _answers_fast(self) -> bool:
        answers = self._answers
        if len(answers) < MANY:
            return False
        now = time.monotonic()
        return now - answers[-1] < LAST and now - answers[0] < WITHIN

    def _must_go_on(self) -> bool:
        """Whether no other worker has a free thread, and this one only keeps its threads free.

        Or if the backlog fills up.
        """
        if self._others_are_free():
            self._all_full_since = None
            return False
        if (self._server.free_threads() or 0) > 0:
            return True  # else connections that send nothing would hold up requests
        filling = [is_filling(one.sock) for one in self._server.sockets]
        if any(filling) or None not in filling:
            return any(filling)
        now = time.monotonic()
        if self._all_full_since is None:
            self._all_full_since = now
        return now - self._all_full_since >= PATIENCE

    def count(self, accepted: int = 0) -> bool:
        """Let the other workers know whether a thread is free, and return that.

        :param accepted: the number of connections that `Server.free_threads` does not know yet.
        """
        free = self._server.free_threads()
        if free is None:
            return True
        is_free = free - self._count_expected() > accepted
        self.is_full = not is_free
        if is_free:
            self._all_full_since = None
        self._note(is_free and not self._is_over)
        return is_free

    def expect(self, connection: Any) -> None:
        """Note that a new connection will probably send a request soon."""
        self._expected[connection] = time.monotonic() + EXPECTED

    def expect_no_more(self, connection: Any) -> None:
        """Note that a new connection has sent something, or was closed.

        The loop calls this, and looks at its listening sockets again afterwards.
        """
        self._expected.pop(connection, None)

    def _count_expected(self) -> int:
        now, expected = time.monotonic(), self._expected
        with contextlib.suppress(KeyError, RuntimeError):  # a thread has changed it
            while expected and expected[first := next(iter(expected))] < now:
                expected.pop(first, None)
        return len(expected)

    def no_thread_is_free(self) -> None:
        """Note that all threads are busy; any thread may call this."""
        self.is_full = True
        self._note(False)

    def has_answered(self, is_free: bool = True) -> None:
        """Note that a thread has answered; that thread calls this.

        :param is_free: whether it has nothing else to do.
        """
        self._answers.append(time.monotonic())
        if self.leaves or (is_free and self.is_full and not self.is_fast):
            self.a_thread_is_free()

    def a_thread_is_free(self) -> None:
        """Accept again, if connections were left to others; any thread may call this."""
        if self.count():
            self._stop_leaving()

    def _stop_leaving(self) -> None:
        if self.leaves:
            self.leaves = False
            self._server.resume()

    def _note(self, is_free: bool) -> None:
        self._shared[self._number] = is_free

    def _others_are_free(self) -> bool:
        number, shared = self._number, self._shared
        return shared.find(_FREE, 1, number) >= 0 or shared.find(_FREE, number + 1) >= 0
