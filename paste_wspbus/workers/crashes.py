"""The crashes of a site's processes: their number, and the last one of each name."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque

from paste_wspbus.unix.cores import describe_core
from paste_wspbus.unix.processes import how, out_of_memory_kills

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle

#: The number of crashes within so many seconds that make a crash loop.
LOOP, MINUTE = 3, 60.0

#: The number of requests that are kept of a process that has crashed, and that are logged.
NAMED = 10


class Crashes:
    """Remembers the crashes since the supervisor has started.

    :param tell: is called with each process that has crashed, and what is known of that.
    """

    def __init__(
        self, tell: Callable[[WorkerHandle, dict[str, Any]], object] = lambda *_: None
    ) -> None:
        self._tell = tell
        self._counts: Counter[str] = Counter()
        #: The number of crashes after which another process was started.
        self.replaced = 0
        self._last: dict[str, tuple[float, dict[str, Any]]] = {}
        #: The name of the process that crashed last.
        self.last_name = ''
        #: The time.monotonic() of each of the last crashes.
        self._recent: deque[float] = deque(maxlen=1000)
        #: The same for the processes that were READY for less than a minute.
        self._early: deque[float] = deque(maxlen=1000)

    def note(self, worker: WorkerHandle, *, is_replaced: bool = True) -> str:
        """Note the crash of a process.

        :param is_replaced: whether another process is started for it: then it counts for
            a crash loop.

        :returns: what is known about it beyond its exit code, for the log; or ''.
        """
        now, last = time.monotonic(), _describe(worker)
        more = self._note(worker, last)
        self._counts[worker.name] += 1
        self.replaced += is_replaced
        self._recent.append(now)
        if is_replaced and (worker.ready_for or 0.0) < MINUTE:
            self._early.append(now)
        self.last_name = worker.name
        self._last[worker.name] = now, last
        return more

    def note_early(self, worker: WorkerHandle) -> None:
        """Note the end of a process that nothing replaces, if it crashed before READY.

        It does not count: the start, or the graceful restart, fails.
        """
        if not (worker.was_ready or worker.leaving or worker.problem):
            worker.end_note = self._note(worker, _describe(worker))

    def _note(self, worker: WorkerHandle, last: dict[str, Any]) -> str:
        self._tell(worker, last)
        texts = _texts(last)
        return f' ({"; ".join(texts)})' if texts else ''

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `status` shows of the crashes of a name, such as 'worker 2'."""
        at, last = self._last.get(name, (0.0, None))
        if last is not None:
            last = {'age': round(time.monotonic() - at, 3), **last}
        return {'restarts': self._counts[name], 'last_crash': last}

    @property
    def total(self) -> int:
        """The number of crashes since the supervisor has started."""
        return self._counts.total()

    @property
    def recent(self) -> int:
        """The number of crashes in the last minute."""
        return _count(self._recent)

    @property
    def early(self) -> int:
        """The same, of the processes that were READY for less than a minute."""
        return _count(self._early)

    def forget_early(self) -> None:
        """Begin to count anew for a crash loop: the site has new code."""
        self._early.clear()

    @property
    def loop(self) -> str:
        """A line that describes the crash loop; '' if there is none.

        Processes that have served for long, and end once, do not make one.
        """
        early = self.early
        if early < LOOP:
            return ''
        _, last = self._last[self.last_name]
        return (
            f'crash loop: {early} crashes in the last minute, '
            f'the last one of {self.last_name}: {last["how"]}'
        )


def _count(times: deque[float]) -> int:
    since = time.monotonic() - MINUTE
    return sum(at > since for at in times)


def requests_of(worker: WorkerHandle) -> str:
    """Return a line on the requests that a process had in flight; '' if it had none."""
    requests = worker.open_requests()
    if not requests:
        return ''
    named = '; '.join(map(_named, requests[:NAMED]))
    more = f'; and {len(requests) - NAMED} more' if len(requests) > NAMED else ''
    noun = 'request' if len(requests) == 1 else 'requests'
    return f'{worker.title} had {len(requests)} {noun} in flight: {named}{more}'


def _named(request: dict[str, Any]) -> str:
    where, age = f'{request["method"]} {request["path"]}', request['age']
    return f'{where} for {age:.1f} s (request {request["id"]})'


def _signal_name(code: int | None) -> str | None:
    if code is None or code >= 0:
        return None
    return how(code).removeprefix('signal ')


def _describe(worker: WorkerHandle) -> dict[str, Any]:
    """Return what `status` shows of the end of a process; what is not known is None."""
    now, code = time.monotonic(), worker.code
    kills_before, kills = worker.kills_before, out_of_memory_kills()
    has_killed = False
    if kills is not None and kills_before is not None:
        has_killed = kills > kills_before
    memory, seen_at = worker.memory or (None, now)
    return {
        'time': time.time(),
        'pid': worker.pid,
        'signal': _signal_name(code),
        'exit_code': code if code is not None and code >= 0 else None,
        'how': f'it {worker.too_slow}' if worker.too_slow else how(code),
        'was_ready': worker.was_ready,
        'out_of_memory': code == -signal.SIGKILL and has_killed,
        'oom_kills_before': kills_before,
        'oom_kills': kills,
        'rss': memory,
        'rss_age': None if memory is None else round(now - seen_at, 3),
        'core': describe_core(worker.pid, os.getcwd()) if worker.dumped_core else None,
        'requests': worker.open_requests()[:NAMED],
    }


def _texts(last: dict[str, Any]) -> list[str]:
    """Return what the log has of an end beside the signal or exit code."""
    texts = []
    if last['out_of_memory']:
        texts.append('the out-of-memory killer has ended a process meanwhile')
    was_killed = last['signal'] == 'SIGKILL'
    if was_killed and last['rss'] is not None and last['rss_age'] <= MINUTE:
        size = f'{last["rss"] / (1 << 20):.0f}M'
        texts.append(f'it used {size} of memory {last["rss_age"]:.1f} s before')
    if last['core'] is not None:
        texts.append(last['core'])
    return texts
