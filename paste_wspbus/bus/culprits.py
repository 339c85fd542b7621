"""The log text of a forced end: what did not end, and since when; then all stacks."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections import Counter

from paste_wspbus.bus import joining
from paste_wspbus.bus.channels import name_of
from paste_wspbus.bus.states import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus.bus import Bus

#: The number of threads and requests that the first line names.
NAMED = 5

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PROGRAMS = os.path.dirname(os.path.abspath(sys.executable or '')) + os.sep
_PACKAGES = (f'{os.sep}site-packages{os.sep}', f'{os.sep}dist-packages{os.sep}')
_PASTE_DEPLOY = os.sep + os.path.join('paste', 'deploy') + os.sep

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


def place_in_site(frame: FrameType | None) -> str:
    """Return the innermost line of the site's own code in a stack, as 'FILE:LINE in NAME'.

    :returns: the innermost line of all if the stack has no code of the site; '' if there
        is no frame.
    """
    innermost = frame
    while frame is not None and not is_of_site(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return ''
    code = frame.f_code
    return f'{code.co_filename}:{frame.f_lineno} in {code.co_qualname}'


def place_of_error(error: BaseException) -> str:
    """Return where an exception comes from, as 'FILE:LINE in NAME'.

    :returns: the innermost line of the site's own code in its traceback, or else that of
        another package; '' if only wspserve, PasteDeploy and Python's imports have run.
    """
    places, own = [''], ['']
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        place = f'{code.co_filename}:{line} in {code.co_qualname}'
        if is_composer(code.co_filename):  # wspserve itself may be in site-packages
            continue
        if any(folder in code.co_filename for folder in _PACKAGES):
            places.append(place)
        elif is_of_site(code.co_filename) and not code.co_filename.startswith('<'):
            own.append(place)
    if isinstance(error, SyntaxError) and os.path.isfile(error.filename or ''):
        own.append(f'{error.filename}:{error.lineno}')
    return own[-1] or places[-1]


def trace_of(error: BaseException | None) -> str:
    """Return the traceback of an exception, without the frames before the site's code.

    If there are no other frames, all remain: then wspserve itself has failed.
    """
    if error is None:
        return 'NoneType: None\n'
    told = traceback.TracebackException.from_exception(error, compact=True)
    shorten(told, keeps_last=True)
    return ''.join(told.format())


def shorten(told: traceback.TracebackException, keeps_last: bool = False) -> None:
    """Remove the frames before the site's code from an exception and its causes.

    :param keeps_last: whether to keep all frames of an exception that has no others.
    """
    left = [told]
    while left:
        one = left.pop()
        files = [frame.filename for frame in one.stack]
        own = next((at for at, file in enumerate(files) if not is_composer(file)), None)
        if own is None:
            own = 0 if keeps_last else len(files)
        del one.stack[:own]
        left += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))


def is_composer(file: str) -> bool:
    """Whether a file belongs to the code that runs before the site's code."""
    ours = file.startswith((_PACKAGE, '<frozen')) or _PASTE_DEPLOY in file
    return ours or file == contextlib.__file__


def is_of_site(file: str) -> bool:
    """Whether a source file belongs to the site, not to Python, a package or wspserve."""
    return not (
        file.startswith(('<frozen', _PACKAGE, _STDLIB, _PROGRAMS))
        or any(folder in file for folder in _PACKAGES)
    )


def is_at_prompt(frame: FrameType | None) -> bool:
    """Whether pdb, or a debugger that is made of it, waits for a command in a stack."""
    while frame is not None:
        is_loop = frame.f_code.co_name == 'cmdloop'
        if is_loop and is_debugger(frame.f_locals.get('self')):
            return True
        frame = frame.f_back
    return False


def is_debugger(found: object) -> bool:
    """Whether an object is pdb, or a debugger that is made of it."""
    bdb = sys.modules.get('bdb')
    return bdb is not None and issubclass(type(found), bdb.Bdb)


def is_of_this_package(handler: object) -> bool:
    """Whether a signal handler is part of this package."""
    return str(getattr(handler, '__module__', '')).startswith('paste_wspbus.')


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
