"""The start of a bus with a callback in a thread of its own, as CherryPy's bus has it."""

from __future__ import annotations

import threading

from paste_wspbus.bus.states import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus.waiting import Waiting


def start_and_call(
    waiting: Waiting, start: Callable[[], object], call: Callable[[], object]
) -> threading.Thread:
    """Start the bus of ``waiting``, and call ``call`` in a new thread as soon as it is STARTED.

    :returns: the thread, which ends without the call if the start fails.
    :raises BaseException: whatever ``start`` raises.
    """
    watcher = waiting.watch(frozenset({State.STARTED, State.STOPPING}))

    def callback() -> None:
        while (reached := watcher.reached.get()) is None:
            pass
        waiting.forget(watcher)
        if reached is State.STARTED:
            call()

    thread = threading.Thread(target=callback)
    thread.name = 'Bus Callback ' + thread.name
    thread.start()
    try:
        start()
    except BaseException:
        watcher.reached.put(State.STOPPING)
        raise
    return thread
