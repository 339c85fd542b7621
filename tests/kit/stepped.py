"""Threads that take their steps in an order that the test chooses."""

import itertools
import threading

from tests.kit import TIMEOUT


class Stepped:
    """Threads that run one at a time, step by step, in the order of a schedule."""

    def __init__(self, *functions):
        self._own, self._came = threading.local(), threading.Semaphore(0)
        self._go = [threading.Semaphore(0) for _ in functions]
        self._runs = [True for _ in functions]
        self.errors = []
        self._threads = [
            threading.Thread(target=self._run, args=one, daemon=True)
            for one in enumerate(functions)
        ]

    def _run(self, number, function):
        self._own.number = number
        self.step()
        try:
            function()
        except AssertionError as error:
            self.errors.append(error)
        self._runs[number] = False
        self._came.release()

    def step(self):
        """A thread calls this where another one may run."""
        self._came.release()
        assert self._go[self._own.number].acquire(timeout=TIMEOUT)

    def run(self, schedule):
        for thread in self._threads:
            thread.start()
            assert self._came.acquire(timeout=TIMEOUT)
        for number in itertools.chain(schedule, itertools.cycle(range(len(self._go)))):
            if not any(self._runs):
                break
            if self._runs[number]:
                self._go[number].release()
                assert self._came.acquire(timeout=TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert self.errors == []
