"""The process of the ops listener: it answers requests from what the supervisor sends."""

from __future__ import annotations

import os
import signal
import socket
import time

from paste_wspbus.exits import DONE
from paste_wspbus.ops.health import Checked
from paste_wspbus.ops.server import OpsServer
from paste_wspbus.ops.snapshot import Numbers, Snapshot, State, Told
from paste_wspbus.ops.status import public
from paste_wspbus.wire.lines import read_order
from paste_wspbus.workers.orders import watch_for_the_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.ops.holding import Ops
    from paste_wspbus.process.supervised_report import SupervisedReport

#: The number of bytes that are read at once, and that an order has at most.
READ, MAX_ORDER = 1 << 16, 4 << 20

#: Seconds in which the supervisor is asked once for each kind of answer at most.
AGAIN = 0.25

#: Signals that are for the site. systemd and a terminal send them to all its processes, but
#: this one answers until the supervisor orders its end, or has ended.
_IGNORED = ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2')


def answer_requests(
    connection: socket.socket, ops: Ops, report: SupervisedReport, numbers: Numbers
) -> None:
    """Answer the requests of the ops listener, until the supervisor orders an end.

    :param connection: that to the supervisor.
    """
    watch_for_the_end(connection, None)
    for name in _IGNORED:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    feed = Feed(connection, report, numbers, ops.secrets)
    sockets = [listening.sock for listening in ops.sockets]
    feed.server = OpsServer(sockets, ops.access, feed)
    feed.read()  # the state is there already
    report.ready([])
    feed.server.serve()
    feed.server.close()


class Feed:
    """What the supervisor sends: it is the source of the server's snapshots."""

    server: OpsServer

    def __init__(
        self,
        connection: socket.socket,
        report: SupervisedReport,
        numbers: Numbers,
        secrets: list[str],
    ) -> None:
        self._secrets = secrets
        connection.setblocking(False)
        self._connection, self._report = connection, report
        self._numbers = numbers
        self._buffer = bytearray()
        self._state, self._told = State(), dict[str, Told]()
        self._checked: list[Checked] = []
        #: The time.monotonic() at which each kind was asked for last.
        self._asked: dict[str, float] = {}
        #: The time.monotonic() of the first question since which nothing has come.
        self._waits_since: float | None = None

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        since = self._waits_since
        waits_for = 0.0 if since is None else time.monotonic() - since
        return Snapshot(
            self._state, self._told, self._checked, waits_for, self._numbers
        )

    def ask(self, kind: str) -> None:
        """Ask the supervisor for an answer, but not again within AGAIN seconds."""
        now = time.monotonic()
        if now - self._asked.get(kind, -AGAIN) < AGAIN:
            return
        self._asked[kind] = now
        self._waits_since = self._waits_since or now
        self._report.wants(kind)

    def readers(self) -> Mapping[int, Callable[[], object]]:
        """Return the connection to the supervisor."""
        return {self._connection.fileno(): self.read}

    def read(self) -> None:
        """Read what has come from the supervisor; end the process if it has ended."""
        try:
            came = self._connection.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            came = b''
        if not came or len(self._buffer) > MAX_ORDER:
            os._exit(DONE)  # the supervisor has ended, and the site with it
        self._waits_since = None
        self._buffer += came
        *lines, rest = self._buffer.split(b'\n')
        self._buffer = rest
        for line in lines:
            self._obey(*read_order(bytes(line)))

    def _obey(self, word: str, carried: list[Any]) -> None:
        if word == 'state':
            self._state = State(*carried[0])
        elif word == 'checked':
            self._checked = [Checked(*one) for one in carried[0]]
        elif word == 'tells':
            kind, value = carried
            self._told[kind] = Told(public(value, self._secrets), time.monotonic())
        elif word == 'status':
            self._report.status({'requests': []})
        elif word == 'stop':
            self.server.stop()
