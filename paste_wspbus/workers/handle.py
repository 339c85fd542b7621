"""The supervisor's view of a process: its role, its stage, its reports, its end."""

from __future__ import annotations

import contextlib
import enum
import os
import random
import signal
import socket
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.inbox import Inbox
from paste_wspbus.requests import scoreboard
from paste_wspbus.role import WITHOUT_BUS, Role
from paste_wspbus.unix.processes import (
    memory_of,
    parent_of,
    signal_thread,
    why_stopped,
)
from paste_wspbus.wire.checks import NUMBERS
from paste_wspbus.wire.lines import order
from paste_wspbus.workers.outbox import Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.watching.loop import Timer


#: Seconds that a worker has to report its status.
PATIENCE = 0.5


#: The number of requests, and of characters of each, that are kept of a status at most.
MAX_REQUESTS, MAX_TEXT = 1000, 1000


class Stage(enum.Enum):
    """The stages of a process, from its fork to its end."""

    #: It was forked, and waits before it composes the site.
    SPARE = 'spare'
    #: It composes the site, or is about to compose it.
    COMPOSING = 'composing'
    #: It has composed the site, and waits until it may start it.
    COMPOSED = 'composed'
    #: It has started the site; or, as a process that forks others, it can fork now.
    READY = 'ready'
    #: It was ordered to stop.
    LEAVING = 'leaving'
    #: The process has ended.
    ENDED = 'ended'


#: From each stage, the stages that may follow it. A process that replaces itself
#: (execv) composes again.
TRANSITIONS: dict[Stage, frozenset[Stage]] = {
    Stage.SPARE: frozenset({Stage.COMPOSING, Stage.LEAVING, Stage.ENDED}),
    Stage.COMPOSING: frozenset(
        {Stage.SPARE, Stage.COMPOSED, Stage.READY, Stage.LEAVING, Stage.ENDED}
    ),
    Stage.COMPOSED: frozenset(
        {Stage.COMPOSING, Stage.READY, Stage.LEAVING, Stage.ENDED}
    ),
    Stage.READY: frozenset({Stage.COMPOSING, Stage.LEAVING, Stage.ENDED}),
    Stage.LEAVING: frozenset({Stage.COMPOSING, Stage.ENDED}),
    Stage.ENDED: frozenset(),
}

#: The names that `status` has for stages; others are 'starting', or 'spare' for a spare worker.
_STATES = {
    Stage.READY: 'ready',
    Stage.LEAVING: 'draining',
    Stage.ENDED: 'crashed',
}


class IllegalMove(WSPBusError):
    """A process cannot move from the stage ``old`` to the stage ``new``."""

    def __init__(self, title: str, old: Stage, new: Stage) -> None:
        super().__init__(f'{title} cannot go from {old.name} to {new.name}')
        self.old, self.new = old, new


class WorkerHandle:
    """A child process: its role, its stage, its reports, its end.

    `workers.worker.Worker` is the object in the process itself. ``pid`` is 0 until it is
    known. ``template`` is the process that forked it; None stands for the supervisor.
    ``board`` is the descriptor of its scoreboard, which this object closes; the attribute
    has its requests in flight, after its end those that were in flight then.
    ``code`` is the number of os.waitstatus_to_exitcode, when the process has ended or is
    about to end.
    """

    #: The last report of its status.
    status: dict[str, Any] | None = None
    #: The last report of its health checks, and the number of these reports.
    health: list[dict[str, Any]] | None = None
    health_reports = 0
    #: The time.monotonic() of a request for its status that it has not answered yet.
    asked_since: float | None = None
    #: What is known of its end before READY beyond the exit code: see `Crashes.note`.
    end_note = ''
    #: Its memory at the last look, in bytes, and the time.monotonic() of that.
    memory: tuple[int, float] | None = None
    #: The calls of listeners that it has reported, how many it has left out, and whether
    #: it has reported them at its end. None: it has reported nothing.
    calls: list[list[Any]] | None = None
    left_out, has_told_all = 0, False
    #: The time.monotonic() at which it was first ordered to stop, and of its end.
    leaves_since: float | None = None
    ended_at: float | None = None
    #: A predicate, if it was ordered to stop because it was not READY in time: 'was not
    #: ready within 60 s (start_timeout), at …'. Else ''.
    too_slow = ''
    #: The error of a report that is not valid, until something is done about it.
    nonsense: Exception | None = None
    #: Whether the system says that it has dumped core at its end.
    dumped_core = False

    def __init__(
        self,
        role: Role,
        connection: socket.socket,
        template: WorkerHandle | None,
        limit: float,
        board: int = -1,
    ) -> None:
        self.role, self.connection, self.template = role, connection, template
        self.board = scoreboard.Reader(board)
        self.stage = Stage.COMPOSING
        self.outbox = Outbox(connection)
        #: The stage from which it moved to ENDED.
        self.ended_as: Stage | None = None
        self.pid = 0
        #: The process ID of its guard, which is its parent; 0 if it has none.
        self.guard = 0
        #: A descriptor that is readable when the process of a guard has ended; -1: none.
        self.pidfd = -1
        #: Whether the system confirms ``pid``: a process may report any number.
        self._is_its_own = False
        self.inbox = Inbox(connection.fileno())
        self.since = time.monotonic()
        self.until = self.since + limit
        #: The time.monotonic() since which it is READY; None if it never was. A process
        #: that was ordered to stop before it was READY may become READY afterwards.
        self.ready_since: float | None = None
        self.lines: list[str] = []
        #: The signals that it gets when it is READY.
        self.waiting: list[str] = []
        #: Whether its end of the connection is closed: the process may still run, but
        #: cannot report anything.
        self.silent = False
        #: Whether it has sent something that is not a report: then all its later reports
        #: are ignored.
        self.sends_nonsense = False
        #: Whether a successor is about to be started.
        self.is_succeeded = False
        #: Timers that are cancelled when it has ended.
        self.timers: list[Timer] = []
        #: How many processes the out-of-memory killer had ended when this one began.
        self.kills_before: int | None = None
        #: Whether the supervisor has killed it.
        self.killed = False
        self.code: int | None = None
        #: The reason why it is not READY: an exit code for the command, and a line.
        self.problem: tuple[int, str] | None = None
        #: A number from 0 to 1, by which its limits differ from those of other workers.
        self.jitter = random.random()

    # -- its stage ----------------------------------------------------------------

    def move(self, new: Stage) -> None:
        """Move to another stage.

        :raises IllegalMove: if TRANSITIONS does not have this move.
        """
        if new not in TRANSITIONS[self.stage]:
            raise IllegalMove(self.title, self.stage, new)
        self.stage = new

    def waits(self) -> None:
        """Note that it waits: a spare before it composes the site, others after that."""
        if self.stage is Stage.COMPOSING:
            self.move(Stage.SPARE if self.role.spare else Stage.COMPOSED)

    def goes(self, limit: float) -> None:
        """Note that it continues: it must be READY within ``limit`` seconds."""
        if self.stage is Stage.SPARE:
            self.move(Stage.COMPOSING)
        self.until = time.monotonic() + limit
        self.role = self.role._replace(hold=False, spare=False)

    def is_now_ready(self, lines: list[str]) -> None:
        """Note that it is READY.

        :param lines: the lines for the terminal.
        """
        self.ready_since, self.lines = time.monotonic(), lines
        if self.stage not in (Stage.LEAVING, Stage.READY):
            self.move(Stage.READY)

    def begins_anew(self, limit: float) -> None:
        """Note that it replaces itself: it must be READY again within ``limit`` seconds."""
        if self.stage is not Stage.COMPOSING:
            self.move(Stage.COMPOSING)
        self.since = time.monotonic()
        self.until = self.since + limit
        self.ready_since = self.asked_since = self.leaves_since = None
        self.calls, self.has_told_all = None, False

    def is_asked_to_leave(self) -> None:
        """Note that it was ordered to stop, perhaps not for the first time."""
        if self.stage is not Stage.LEAVING:
            self.move(Stage.LEAVING)
            self.leaves_since = time.monotonic()

    def has_ended(self, code: int | None) -> None:
        """Note that the process has ended.

        :param code: the exit code; None if it is unknown, or if the process has reported it.
        """
        before = self.stage
        self.move(Stage.ENDED)
        self.ended_as, self.ended_at = before, time.monotonic()
        self.code = self.code if code is None else code

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.stage is Stage.ENDED

    @property
    def leaving(self) -> bool:
        """Whether it was ordered to stop; it may have ended since."""
        return Stage.LEAVING in (self.stage, self.ended_as)

    @property
    def is_held(self) -> bool:
        """Whether it waits for the order to continue."""
        return self.role.hold and self.stage in (Stage.SPARE, Stage.COMPOSED)

    @property
    def is_composed(self) -> bool:
        """Whether it has composed the site; it may have started the site, too."""
        return self.stage is Stage.COMPOSED or self.is_ready

    @property
    def was_ready(self) -> bool:
        """Whether it has been READY; it may have ended since."""
        return self.ready_since is not None

    @property
    def is_ready(self) -> bool:
        """Whether it has been READY, and has not ended: it may be LEAVING."""
        return self.was_ready and not self.ended

    @property
    def is_about_to_end(self) -> bool:
        """Whether it has stopped; its process may not have ended yet."""
        return self.ended or self.code is not None

    @property
    def ready_for(self) -> float | None:
        """Seconds since it has become READY; None if it never was."""
        since = self.ready_since
        return None if since is None else time.monotonic() - since

    # -- its names ----------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, such as 'worker 2'."""
        return self.role.name

    @property
    def title(self) -> str:
        """Its name at the beginning of messages, with the process ID."""
        return f'{self.role.title} (process {self.pid})'

    def open_requests(self) -> list[dict[str, Any]]:
        """Return its requests in flight, the oldest first; after its end, the last ones.

        :returns: as `RequestsInFlight.describe`, with the ``id`` of each request, and
            ``thread``, which is None: only the process itself knows the names.
        """
        return self._described(self.board.read())

    @staticmethod
    def _described(entries: list[scoreboard.Entry]) -> list[dict[str, Any]]:
        now = time.monotonic()
        return [
            {
                'method': ascii(entry.method)[1:-1],
                'path': ascii(entry.path)[1:-1],
                'age': max(round(now - entry.since, 3), 0.0),
                'thread': None,
                'id': ascii(entry.id)[1:-1],
            }
            for entry in entries
        ]

    def requests_of_threads(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the native ids of threads and their requests, as `open_requests` describes them."""
        entries = self.board.read()
        threads = [entry.native for entry in entries]
        return list(zip(threads, self._described(entries), strict=True))

    # -- talking to it ------------------------------------------------------------

    def tell(self, word: str, *carried: object, fds: Iterable[int] = ()) -> None:
        """Send it an order of `wire.ORDERS`, and descriptors.

        This never waits. A process that does not read gets its orders later. If too many
        orders wait for it, later orders are lost.

        :raises UnknownWord: if there is no such order.
        """
        self.outbox.put(order(word, *carried), fds)

    def send(self, word: str, *carried: object) -> bool:
        """Send it an order that carries a message of the site; see `Outbox.put_message`.

        :returns: False if the message was dropped, because the process does not read.
        """
        return self.outbox.put_message(order(word, *carried))

    def pass_on(self, line: bytes) -> bool:
        """Send it a message that is the line of an order already; else as `send`."""
        return self.outbox.put_message(line)

    def is_process(self, pid: int) -> None:
        """Note its process ID, which comes from a system call or from a report.

        Only the first ID counts. If ``template`` has forked the process, the supervisor
        signals it only if the system confirms that ``template`` is its parent.
        """
        if self.pid:
            return
        self.pid = pid
        owner = self.guard or (self.template.pid if self.template is not None else 0)
        parent = parent_of(pid) if owner else None
        self._is_its_own = parent is None or parent == owner
        if self.guard and self._is_its_own:
            with contextlib.suppress(AttributeError, OSError):
                self.pidfd = os.pidfd_open(pid)

    def is_guarded(self) -> None:
        """Note that the process that was forked is the guard, which forks the process."""
        self.guard, self.pid, self._is_its_own = self.pid, 0, False

    def signal(self, number: int, thread: int | None = None) -> None:
        """Send it a signal, if it can still get one; or one of its threads, by native id."""
        if self.guard and number == signal.SIGKILL and not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.guard, number)  # the kernel kills the process with it
        if not self._is_its_own or self.ended:
            return
        if self.guard and parent_of(self.pid) not in (self.guard, None):
            return  # it ends with its guard, or another process has its ID now
        # Its template may have reaped it; then the ID may belong to another process.
        is_there = self.template is None or not self.silent
        if is_there or parent_of(self.pid) == self.template.pid:  # type: ignore[union-attr]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if thread is None:
                    os.kill(self.pid, number)
                else:
                    signal_thread(self.pid, thread, number)

    def kill_group(self) -> None:
        """Kill what still runs in the process group that a process with a guard leads."""
        if self._is_its_own and self.pid:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the connection, and read the scoreboard for the last time."""
        self.outbox.close()
        self.connection.close()
        self.board.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def ask_for_status(self) -> None:
        """Ask it for its status; only one request may be open at a time."""
        if self.asked_since is None:
            self.asked_since = time.monotonic()
            self.tell('status')

    def reports_status(self, status: dict[str, Any]) -> None:
        """Note the status that it reports."""
        requests = [_shortened(one) for one in status['requests'][:MAX_REQUESTS]]
        self.status, self.asked_since = {**status, 'requests': requests}, None
        self.look_at_memory()

    def reports_health(self, checks: list[dict[str, Any]]) -> None:
        """Note its health checks."""
        self.health, self.health_reports = checks, self.health_reports + 1

    def look_at_memory(self) -> int | None:
        """Return the bytes of memory that it uses (its resident set); None if unknown."""
        if not self._is_its_own or self.ended:
            return None
        if (memory := memory_of(self.pid)) is not None:
            self.memory = memory, time.monotonic()
        return memory

    @property
    def is_late(self) -> bool:
        """Whether it has not answered a request for its status for PATIENCE seconds."""
        since = self.asked_since
        return since is not None and time.monotonic() - since >= PATIENCE

    @property
    def is_stopped(self) -> bool:
        """Whether a signal such as SIGSTOP, or a debugger, has stopped it: it cannot answer."""
        return bool(self.why_stopped)

    @property
    def why_stopped(self) -> str:
        """What has stopped it; '' if nothing has."""
        is_there = self._is_its_own and not self.ended
        return why_stopped(self.pid) if is_there else ''

    @property
    def debugger(self) -> str:
        """The debugger that its last status has named; '' if none."""
        return str((self.status or {}).get('debugger') or '')

    @property
    def known_status(self) -> dict[str, Any] | None:
        """The last report of its status; None if it does not answer."""
        return None if self.is_late or self.is_stopped else self.status

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of it."""
        status = self.known_status or {}
        requests = status.get('requests')
        if self.role.kind in WITHOUT_BUS or self.ended:
            requests = []
        state = _STATES.get(self.stage, 'starting')
        if self.ended_as is Stage.LEAVING:
            state = 'ended'
        if self.role.spare and not self.ended:
            state = 'spare'
        return {
            'name': self.name,
            'number': self.role.number or None,
            'pid': self.pid,
            'state': state,
            'generation': self.role.generation,
            'age': round(time.monotonic() - self.since, 3),
            'requests': requests,
            **{key: status.get(key) for key in NUMBERS},
            'rss': self.look_at_memory(),
            'is_stopped': bool(why_not := self.why_stopped),
            'why_stopped': why_not or None,
            'plugins': status.get('plugins', {}),
        }


def _shortened(request: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value[:MAX_TEXT] if isinstance(value, str) else value
        for key, value in request.items()
    }
