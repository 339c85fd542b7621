"""servers/faster_queue.py: the queue of the threads of cheroot and Paste#http."""

import queue
import threading

import pytest

from paste_wspbus.servers.faster_queue import Queue
from tests.kit import TIMEOUT


def test_an_empty_queue_says_so_and_a_full_one_gives_in_order():
    waiting = Queue()
    with pytest.raises(queue.Empty):
        waiting.get(block=False)
    waiting.put('one', block=True, timeout=1)
    waiting.put('two')
    assert waiting.qsize() == 2
    assert [waiting.get(), waiting.get(block=False)] == ['one', 'two']


def test_a_thread_that_waits_gets_what_is_put():
    waiting, got = Queue(), []
    thread = threading.Thread(target=lambda: got.append(waiting.get()), daemon=True)
    thread.start()
    waiting.put('one')
    thread.join(TIMEOUT)
    assert got == ['one']


class Killed(Exception):
    """It is raised in a thread that waits."""


class Lock:
    """A lock at which a thread says that it waits; then it is killed."""

    def __init__(self, before_it_ends):
        self.before_it_ends = before_it_ends

    def acquire(self):
        self.before_it_ends()
        raise Killed

    def release(self):
        """Do nothing: nobody waits."""


@pytest.mark.parametrize('when', ['asleep', 'woken', 'woken with more'])
def test_what_a_killed_thread_was_woken_for_gets_another_thread(when):
    waiting, got, ready = Queue(), queue.SimpleQueue(), threading.Event()

    def get():
        ready.set()
        got.put(waiting.get())

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT)
    while not waiting._items._idle:  # it is about to wait
        pass
    more = {'asleep': [], 'woken': ['one'], 'woken with more': ['one', 'two']}[when]
    waiting._own.lock = Lock(lambda: [waiting.put(item) for item in more])
    with pytest.raises(Killed):
        waiting.get()
    if not more:
        waiting.put('one')
    assert got.get(timeout=TIMEOUT) == 'one'
    thread.join(TIMEOUT)
    assert not waiting._items._idle
