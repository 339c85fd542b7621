"""Health checks: functions of the site that say, in the background, whether a part of it works."""

from __future__ import annotations

import random
import threading
import time
from typing import NamedTuple

from paste_wspbus.bus.states import ALIVE
from paste_wspbus.errors import BadCheck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from paste_wspbus.bus.bus import Bus

    F = TypeVar('F', bound=Callable[[], object])

#: The groups of checks. A check of 'ready' decides whether the process wants requests; one
#: of 'health' is only shown.
GROUPS = ('ready', 'health')

#: The number of checks, and of characters of a name and of a text, at most. A text is cut to
#: what is shown after its secrets are masked: the beginning of a secret would stay.
MAX_CHECKS, MAX_NAME, MAX_TEXT = 200, 100, 10_000

#: The priority of the listener that begins: the server begins after it.
PRIORITY = 74

#: The part by which an interval varies: not all workers should ask a database at the
#: same moment.
JITTER = 0.1


class Result(NamedTuple):
    """How a check has ended.

    ``at`` is the time.monotonic() of its end, or of the moment at which it had not ended
    in time; ``took`` is in seconds.
    """

    ok: bool
    text: str
    at: float
    took: float


class Check:
    """One check: see `Checks.add`."""

    def __init__(
        self,
        name: str,
        group: str,
        every: float,
        timeout: float,
        function: Callable[[], object],
    ) -> None:
        self.name, self.group, self.function = name, group, function
        self.every, self.timeout = every, timeout
        #: The last result; None before there is one.
        self.last: Result | None = None
        #: The time.monotonic() at which the call began that runs now; None if none runs.
        self.began: float | None = None
        #: The time.monotonic() at which it is due.
        self.due = 0.0

    def describe(self) -> dict[str, Any]:
        """Return its settings and its last result, whose values are None before it has one."""
        last = self.last
        return {
            'name': self.name,
            'group': self.group,
            'every': self.every,
            'timeout': self.timeout,
            'ok': None if last is None else last.ok,
            'text': '' if last is None else last.text,
            'at': None if last is None else last.at,
            'took': None if last is None else round(last.took, 3),
        }


class Checks:
    """The health checks of a process, and the thread that calls them in time.

    Each call has a thread of its own. One that does not return in time counts as failed; it
    is not called again before it returns, and it holds up no other check.

    :param bus: they run while it is started.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._checks: dict[str, Check] = {}
        self._changed = threading.Condition()
        self._runs: object | None = None
        #: It returns the check of a resource that has no method health(); None if none.
        self.find: Callable[[object], Callable[[], object] | None] | None = None
        bus.subscribe('start', self.start, priority=PRIORITY)
        bus.subscribe('stop', self.stop, priority=float('-inf'))
        if bus.state in ALIVE:
            self.start()

    def add(
        self,
        name: str,
        function: Callable[[], object],
        group: str = 'ready',
        every: float = 10.0,
        timeout: float = 1.0,
    ) -> None:
        """Add a check.

        :param function: it returns None or True if all is well, or a text or a dictionary
            with details; False, or an error that it raises, means that something is wrong.
        :param group: one of GROUPS.
        :param every: seconds between two calls.
        :param timeout: seconds after which a call counts as failed.
        :raises BadCheck: if an argument is wrong, or another function has this name.
        """
        check = Check(name, group, every, timeout, function)
        if problem := _problem_of(check):
            raise BadCheck(name, problem)
        with self._changed:
            other = self._checks.get(name)
            if other is not None and not _are_same(other.function, function):
                raise BadCheck(name, 'another check has this name')
            if other is None and len(self._checks) >= MAX_CHECKS:
                raise BadCheck(name, f'there are {MAX_CHECKS} checks already')
            self._checks[name] = check
            self._changed.notify_all()

    def describe(self) -> list[dict[str, Any]]:
        """Return all checks in the order of their names: see `Check.describe`."""
        with self._changed:
            checks = sorted(self._checks.values(), key=lambda check: check.name)
            return [check.describe() for check in checks]

    # -- while the bus is started -----------------------------------------------------

    def start(self) -> None:
        """Look for resources that have checks, and call all checks from now on."""
        if self.find is not None:
            for name, resource in list(self._bus.resources.items()):
                self._look_at(name, resource)
        with self._changed:
            if self._runs is not None:
                return
            self._runs = runs = object()
        threading.Thread(
            target=self._run, args=[runs], name='wspbus health', daemon=True
        ).start()

    def _look_at(self, name: str, resource: object) -> None:
        function = getattr(resource, 'health', None)
        if not callable(function) and self.find is not None:
            function = self.find(resource)
        if not callable(function) or name in self._checks:
            return
        try:
            self.add(str(name)[:MAX_NAME], function)
        except BadCheck as error:
            self._bus.log(str(error), 30)

    def stop(self) -> None:
        """Call no check any more; results that come later do not count."""
        with self._changed:
            self._runs = None
            for check in self._checks.values():
                check.began, check.due = None, 0.0
            self._changed.notify_all()

    def _run(self, runs: object) -> None:
        while True:
            with self._changed:
                if self._runs is not runs:
                    return
                now = time.monotonic()
                due = [one for one in self._checks.values() if one.due <= now]
                late = [one for one in due if one.began is not None]
                for check in due:
                    if check.began is None:
                        check.began, check.due = now, now + check.timeout
                        self._call(check, now)
                for check in late:
                    self._is_late(check, now)
                if not late:
                    self._sleep()
                    continue
            self._tell()

    def _sleep(self) -> None:
        due = min((check.due for check in self._checks.values()), default=None)
        if due is None:
            self._changed.wait()
        elif (seconds := due - time.monotonic()) > 0:
            self._changed.wait(seconds)

    def _call(self, check: Check, began: float) -> None:
        thread = threading.Thread(
            target=self._perform,
            args=[check, began],
            name=f'health {check.name}',
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system starts no more threads
            check.began, check.due = None, began + check.every
            check.last = Result(False, str(error), began, 0.0)

    def _is_late(self, check: Check, now: float) -> None:
        assert check.began is not None
        took = now - check.began
        text = f'it has not returned for {took:.1f} s (timeout {check.timeout:g} s)'
        check.last, check.due = Result(False, text, now, took), now + check.every

    def _perform(self, check: Check, began: float) -> None:
        ok, text = outcome_of(check.function)
        now = time.monotonic()
        took = now - began
        if ok and took > check.timeout:
            ok, text = False, f'it took {took:.1f} s (timeout {check.timeout:g} s)'
        with self._changed:
            if check.began != began or self._checks.get(check.name) is not check:
                return  # the bus was stopped meanwhile, or the check was replaced
            check.last, check.began = Result(ok, text, now, took), None
            jitter = check.every * JITTER
            check.due = began + check.every + random.uniform(-jitter, jitter)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._bus.tell_health is not None:
            self._bus.tell_health(self.describe())


def outcome_of(function: Callable[[], object]) -> tuple[bool, str]:
    """Call the function of a check.

    :returns: whether all is well, and what there is to say.
    """
    try:
        return _meaning_of(function())
    except BaseException as error:
        # Also SystemExit, for the thread belongs to this package.
        try:
            text = str(error)
        except Exception:
            text = 'what it says cannot be shown'
        return False, f'{type(error).__name__}: {text}'.removesuffix(': ')[:MAX_TEXT]


def _meaning_of(value: object) -> tuple[bool, str]:
    if value is None or value is True:
        return True, ''
    if value is False:
        return False, ''
    if isinstance(value, str):
        return True, value[:MAX_TEXT]
    if isinstance(value, dict):
        return True, ', '.join(f'{key}: {value[key]}' for key in value)[:MAX_TEXT]
    kind = type(value).__name__
    return False, f'it returned a value of the type {kind}: see the documentation'


def _problem_of(check: Check) -> str:
    """Return what is wrong with the arguments of a check; '' if nothing is."""
    name = check.name
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return f'the name must be a text of 1 to {MAX_NAME} characters'
    if not name.isprintable():
        return 'the name must be printable'
    if check.group not in GROUPS:
        return f'the group must be one of {", ".join(GROUPS)}, not {check.group!r}'
    for key in ('every', 'timeout'):
        seconds = getattr(check, key)
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 < seconds <= threading.TIMEOUT_MAX:
            return f'{key} must be a number of seconds above 0, not {seconds!r}'
    if not callable(check.function):
        return f'it must be a function, not {check.function!r}'
    return ''


def _are_same(one: Callable[[], object], other: Callable[[], object]) -> bool:
    """Whether two functions are one: a factory that runs again makes it anew."""
    names = [
        [getattr(each, key, None) for key in ('__module__', '__qualname__')]
        for each in (one, other)
    ]
    codes = [
        getattr(getattr(each, '__func__', each), '__code__', None)
        for each in (one, other)
    ]
    are_alike = names[0] == names[1] and None not in names[0] and codes[0] == codes[1]
    return one == other or are_alike
