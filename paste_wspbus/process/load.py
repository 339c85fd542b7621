"""What a process does at this moment: its requests, and how busy its server is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

# The original, before a site patches Python.
from _thread import get_ident, start_new_thread

from paste_wspbus.bus import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: The number of requests that a status lists; ``in_flight`` counts all.
MAX_REQUESTS = 1000


def load_of(bus: Bus) -> dict[str, Any]:
    """Return what `status` shows of the work of one process.

    A server or a filter that is not of this package may stand in ``bus.plugins``: what it
    does not say is None.

    :returns: ``requests``, the oldest first; ``in_flight`` and ``served``, numbers of
        requests; ``server_threads``, ``busy`` and ``queued``, as `servers.server.Load`;
        ``plugins``, as `states_of`.
    """
    requests: Any = bus.plugins.get('requests')
    server: Any = bus.plugins.get('server')
    described = requests.describe() if hasattr(requests, 'describe') else []
    threads = busy = queued = None
    if hasattr(server, 'load'):
        load = server.load()
        threads, busy, queued = load.threads, load.busy, load.queued
    if busy is None:  # the threads of the requests are known, whichever server it is
        busy = len({request['thread'] for request in described})
    return {
        'requests': described[:MAX_REQUESTS],
        'in_flight': len(described),
        'served': getattr(requests, 'served', None),
        'server_threads': threads,
        'busy': busy,
        'queued': queued,
        'plugins': states_of(bus),
    }


#: The number of characters that the state of a plugin has at most, as JSON.
MAX_STATE = 4000


def states_of(bus: Bus) -> dict[str, dict[str, Any]]:
    """Return what the plugins of this process say of themselves, by their names.

    A plugin, or what it has yielded, says it by a method ``wspbus_status()``, which
    returns a dict at once: ``text`` is a line for people, ``ok`` whether all is well; any
    other key is for programs. All values can be JSON.
    """
    states: dict[str, dict[str, Any]] = {}
    for name, one in (*bus.plugins.items(), *bus.resources.items()):
        if not hasattr(type(one), 'wspbus_status'):
            continue
        import json

        try:
            state = one.wspbus_status()
            if not isinstance(state, dict) or len(json.dumps(state)) > MAX_STATE:
                raise ValueError('it is no dict, or too long')
        except Exception as error:
            state = {
                'text': f'its state is not known: {_in_words(error)}',
                'ok': False,
            }
        states[str(name)] = state
    return states


def _in_words(error: Exception) -> str:
    """Return an error whole, or only its kind.

    Secrets are masked later, in another process: of a text that is cut here, the beginning
    of a secret would stay.
    """
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # an error of the site
        return kind
    return f'{kind}: {text}' if len(text) <= MAX_STATE else f'{kind}, with a long text'


def log_stacks(bus: Bus) -> None:
    """Log the stacks of all threads, in a thread of its own.

    The caller answers requests for the status: it must not wait for a lock of the log.
    """
    with contextlib.suppress(RuntimeError):  # the system starts no more threads
        start_new_thread(threads.log_stacks, (bus,))


def describe_stacks(bus: Bus) -> dict[str, Any]:
    """Return the threads of this process as data: see `control.stacks.describe_threads`.

    The thread that calls this is left out.
    """
    from paste_wspbus.control.stacks import describe_threads
    from paste_wspbus.reference import REQUEST_ID_KEY
    from paste_wspbus.requests.filter import _path
    from paste_wspbus.requests.stacks import frames_of

    requests: Any = bus.plugins.get('requests')
    open_requests = list(requests.values()) if isinstance(requests, dict) else []
    now = time.monotonic()
    described = [
        (
            ident,
            {
                'method': ascii(str(environ.get('REQUEST_METHOD'))[:20])[1:-1],
                'path': ascii(_path(environ))[1:-1],
                'age': round(now - since, 3),
                'id': environ.get(REQUEST_ID_KEY),
            },
        )
        for environ, since, ident, *_ in sorted(open_requests, key=lambda one: one[1])
    ]
    frames = sys._current_frames()
    frames.pop(get_ident(), None)
    stacks = {ident: frames_of(frame) for ident, frame in frames.items()}
    names = {one.ident: one.name for one in threading.enumerate() if one.ident}
    return {
        'name': 'site',
        'pid': os.getpid(),
        'generation': 1,
        'state': bus.state.name,
        'problem': None,
        'threads': describe_threads(stacks, described, names),
    }
