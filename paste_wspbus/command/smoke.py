"""warm_up and smoke: what a process asks of its site before it accepts connections."""

from __future__ import annotations

import time

from paste_wspbus.bus import State
from paste_wspbus.bus.places import trace_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.ini.factories import at_place, one_line
from paste_wspbus.plugins.systemd import SystemdNotifier
from paste_wspbus.requests.asking import Answer, Target, ask, is_one_of
from paste_wspbus.servers.blocking import BlockingServer
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.ini.config import Site

#: The statuses that a request of warm_up may have.
WARM = ('1xx', '2xx', '3xx')


class SmokeFailed(WSPBusError):
    """A request of ``smoke`` has failed: the site must not serve.

    ``place`` is the file and key, ``url`` what was asked for.
    """

    def __init__(self, place: str, url: str, problem: str) -> None:
        super().__init__(f'{place}: {url} {problem}')
        self.place, self.url, self.problem = place, url, problem


class Rehearsal:
    """The requests of one process: those of warm_up, then those of smoke.

    The server listens meanwhile, and accepts nothing: clients wait in its backlog.

    :param settings: those of [wspbus:main].
    :param smokes: whether this process is the one of its generation that makes the
        requests of smoke.
    :param logs: whether to log that smoke has failed; if not, the command alone prints it.
    :param announce: is called before a server that blocks: it never returns to the caller.
    """

    def __init__(
        self,
        site: Site,
        settings: Mapping[str, Any],
        smokes: bool,
        logs: bool,
        announce: Callable[[], object],
    ) -> None:
        self.site, self.settings = site, settings
        self.smokes, self.logs, self._announce = smokes, logs, announce
        self._failed: SmokeFailed | None = None

    def prepare(self) -> None:
        """Let the server hold, and systemd wait, until `run` has ended."""
        server = self.site.server
        if isinstance(server, BlockingServer):
            server.before = self._before
        else:
            server.holds = True
        if (notifier := self._notifier) is not None:
            notifier.holds = True

    @property
    def _notifier(self) -> SystemdNotifier | None:
        notifier = self.site.bus.plugins.get('systemd')
        return notifier if isinstance(notifier, SystemdNotifier) else None

    def _before(self, app: Any) -> bool:
        """Make the requests in the thread of a server that blocks; return whether to serve."""
        try:
            self._ask_all(app)
        except SmokeFailed as failed:
            self._failed = failed  # `run` raises it when the bus has stopped
            return False
        if self.site.server.blocking:
            self._announce()
        self._end()
        return True

    def run(self, app: Any) -> None:
        """Make the requests when the bus is STARTED, and let the server accept.

        :raises SmokeFailed: if a request of smoke fails.
        """
        server, bus = self.site.server, self.site.bus
        if self._failed is not None:
            raise self._failed
        if isinstance(server, BlockingServer) or bus.state is not State.STARTED:
            return
        self._ask_all(app)
        if not bus.is_told_to_leave:
            server.begin()
            self._end()

    def _end(self) -> None:
        if (notifier := self._notifier) is not None:
            notifier.holds = False
            notifier.started()

    def _ask_all(self, app: Any) -> None:
        """Make the requests; stop early if the site is to stop.

        :raises SmokeFailed: if a request of smoke fails.
        """
        signals: Any = self.site.bus.plugins.get('signals')
        if signals is not None:
            signals.rehearses = True
        try:
            self._warm_up_and_smoke(app)
        finally:
            if signals is not None:
                signals.rehearses = False

    def _warm_up_and_smoke(self, app: Any) -> None:
        bus, settings = self.site.bus, self.settings
        for wanted in settings['warm_up']:
            problem, answer = self._ask(app, wanted, WARM)
            if problem and not bus.is_told_to_leave:
                trace = _trace(answer)
                bus.log(
                    f'{self._place("warm_up")}: {wanted.shown} {problem}{trace}', 30
                )
        for wanted in settings['smoke'] if self.smokes else ():
            began = time.monotonic()
            problem, answer = self._ask(app, wanted, settings['smoke_status'])
            if not problem:
                took = (time.monotonic() - began) * 1000
                status = printable(answer.status)
                bus.log(f'smoke: {wanted.shown} answered {status} in {took:.0f} ms')
            if problem and not bus.is_told_to_leave:
                failed = SmokeFailed(self._place('smoke'), wanted.shown, problem)
                if self.logs:
                    bus.log(str(failed), 40)
                raise failed from answer.error

    def _place(self, key: str) -> str:
        return f'{self.site.file} [wspbus:main] {key}'

    def _ask(
        self, app: Any, wanted: Target, statuses: tuple[str, ...]
    ) -> tuple[str, Answer]:
        """Make a request; return what is wrong, or '', and the answer."""
        bus, limit = self.site.bus, self.settings['smoke_timeout']
        urls = getattr(self.site.server, 'urls', ())
        answer = ask(app, wanted, bus, next(iter(urls), ''), limit)
        requests: Any = bus.plugins.get('requests')
        if hasattr(requests, 'not_counted'):
            requests.not_counted += 1
        error = answer.error
        if error is not None:
            return f'raised {one_line(error)}{at_place(error)}', answer
        if answer.is_late:
            at = f', at {answer.place}' if answer.place else ''
            return f'was not answered within {limit:g} s (smoke_timeout){at}', answer
        if is_one_of(answer.status, statuses):
            return '', answer
        to, _, _ = answer.location.partition('?')
        to = f' (to {to})' if to else ''
        expected = ' or '.join(statuses)
        return printable(f'answered {answer.status}{to}, not {expected}'), answer


def _trace(answer: Answer) -> str:
    if answer.error is None:
        return ''
    return '\n' + trace_of(answer.error).rstrip()
