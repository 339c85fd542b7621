"""The text for the log at a forced end: what did not end, and since when; then all stacks."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import Counter

from paste_wspbus.bus import joining
from paste_wspbus.bus.channels import name_of
from paste_wspbus.bus.places import is_of_site, place_in_site
from paste_wspbus.bus.states import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus.bus import Bus

#: The number of threads and requests that the first line names.
NAMED = 5

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep

#: The modules in which a thread waits for work, or for an event.
_WAITS = frozenset({'threading', 'queue', 'selectors'})


def report(bus: Bus, why: str) -> str:
    """Return what the log says of a forced end.

    :param why: a sentence without a full stop.
    """
    frames = sys._current_frames()
    who, first = _culprit(bus, frames)
    line = f'{why}: {who}; leaving now.' if who else f'{why}; leaving now.'
    return f'{line} Stacks:\n{_stacks(frames, first)}'


# -- the first line -------------------------------------------------------------------


def _culprit(bus: Bus, frames: dict[int, FrameType]) -> tuple[str, int | None]:
    """Return what did not end, and the ident of its thread if that is known."""
    main = threading.main_thread().ident
    server: Any = bus.plugins.get('server')
    calling = bus.calling
    if calling is not None:
        channel, name, since = calling
        if channel == 'stop' and name == name_of(getattr(server, 'stop', None)):
            requests = _open_requests(bus, frames)
            if requests[0]:
                return requests
        ident = bus.turn.owner or main
        age = time.monotonic() - since
        who = f'{channel!r} listener {name} has run for {age:.1f} s'
        return f'{who}{_at(frames.get(ident or 0))}', ident
    if bus.serving is not None:
        ident = bus.serving.thread
        return f'the server has not returned{_at(frames.get(ident))}', ident
    if bus.state is State.DRAINING:
        return f'the site drains (drain_delay = {bus.drain_delay:g} s)', None
    if joining.waits_since is not None:
        return _threads(frames, time.monotonic() - joining.waits_since)
    return '', None


def _open_requests(bus: Bus, frames: dict[int, FrameType]) -> tuple[str, int | None]:
    requests, now = list(bus.plugins.get('requests', {}).values()), time.monotonic()
    texts, first = [], None
    for environ, since, *_ in requests[:NAMED]:
        ident = _thread_of(environ, frames)
        path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        words = f'{environ.get("REQUEST_METHOD")} {path}'
        what = f'{ascii(words)[1:-1]} has run for {now - since:.1f} s'
        texts.append(f'request {what}{_at(frames.get(ident or 0))}')
        first = first or ident
    return _listed(texts, len(requests)), first


def _thread_of(environ: object, frames: dict[int, FrameType]) -> int | None:
    """Return the ident of the thread whose stack has the environ: it handles the request."""
    for ident, innermost in frames.items():
        frame: FrameType | None = innermost
        while frame is not None:
            if any(value is environ for value in frame.f_locals.values()):
                if ident != threading.get_ident():
                    return ident
                break
            frame = frame.f_back
    return None


def _threads(frames: dict[int, FrameType], age: float) -> tuple[str, int | None]:
    threads = joining.threads_that_count()
    texts = [
        f'thread {thread.name} has not ended{_at(frames.get(thread.ident or 0))}'
        for thread in threads[:NAMED]
    ]
    listed = _listed(texts, len(threads))
    first = threads[0].ident if threads else None
    return f'{listed}, after {age:.1f} s' if listed else '', first


def _listed(texts: list[str], count: int) -> str:
    more = f'; and {count - len(texts)} more' if count > len(texts) else ''
    return '; '.join(texts) + more


def _at(frame: FrameType | None) -> str:
    return f', at {place_in_site(frame)}' if frame else ''


# -- the stacks -----------------------------------------------------------------------


def _stacks(frames: dict[int, FrameType], first: int | None) -> str:
    """Return the stacks of all threads: first the culprit, then the site's, then others."""
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    idle: Counter[str] = Counter()
    ranked = []
    for ident, frame in frames.items():
        rank = 0 if ident == first else 1 if _runs_site(frame) else 2
        if rank == 2 and named.get(ident, '').startswith('wspbus '):
            continue
        if rank == 2 and _waits(frame):
            idle[_owner(frame)] += 1
            continue
        if ident == threading.get_ident() != threading.main_thread().ident:
            continue  # this thread writes the report
        stack = ''.join(traceback.format_stack(frame)).rstrip()
        ranked.append((rank, f'Thread {named.get(ident, ident)}:\n{stack}'))
    ranked.sort(key=lambda pair: pair[0])
    lines = [
        f'{count} idle {"thread" if count == 1 else "threads"} of {owner}'
        for owner, count in sorted(idle.items())
    ]
    return '\n'.join([text for _, text in ranked] + lines)


def _runs_site(innermost: FrameType) -> bool:
    frame: FrameType | None = innermost
    while frame is not None:
        if is_of_site(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


def _waits(innermost: FrameType) -> bool:
    module = innermost.f_globals.get('__name__')
    is_pool = module == 'concurrent.futures.thread'
    return module in _WAITS or (is_pool and innermost.f_code.co_name == '_worker')


def _owner(innermost: FrameType) -> str:
    """Return the name of the package that started this thread.

    It is the package of the outermost frame that is not of the standard library; if there
    is none, a module of the standard library.
    """
    owner, frame = '', innermost
    while True:
        name = str(frame.f_globals.get('__name__') or '')
        if name != 'threading':
            is_package = not frame.f_code.co_filename.startswith(_STDLIB)
            owner = name.partition('.')[0] if is_package else owner or name
        if frame.f_back is None:
            return owner or 'threading'
        frame = frame.f_back
