"""Threads of a test, and their ends."""

import threading
from concurrent.futures import Future

from tests.kit.processes import TIMEOUT


def spawn(function, *args, **kwargs):
    """Call it in a thread; the Future has what it returned or raised, and its ident."""
    future = Future()

    def run():
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    future.ident = thread.ident
    return future


def ended(thread):
    """Whether it ends in time."""
    thread.join(TIMEOUT)
    return not thread.is_alive()


def in_a_thread(*calls):
    """Call each in one new thread; return when it ended."""
    thread = threading.Thread(target=lambda: [call() for call in calls])
    thread.start()
    assert ended(thread)
