"""What the ops listener of a site of one process knows of the site."""

from __future__ import annotations

import time

from paste_wspbus.forks import close_in_child
from paste_wspbus.ini.masking import secrets_of
from paste_wspbus.ops.health import Checked
from paste_wspbus.ops.holding import Ops
from paste_wspbus.ops.snapshot import Snapshot, State, Told
from paste_wspbus.ops.status import public
from paste_wspbus.ops.thread import OpsThread
from paste_wspbus.process.counting import numbers_of
from paste_wspbus.process.health import Masked
from paste_wspbus.process.ops_answers import OpsAnswers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.process.process import Process


def answer_in_thread(process: Process) -> None:
    """Answer the requests of the ops listener in a thread from now on."""
    assert process.ops is not None
    close_in_child(process.ops, Ops.disown)
    process.ops.thread = OpsThread(process.ops, OneProcess(process))
    process.ops.thread.start()


class OneProcess:
    """The source of the snapshots; ``process.bus`` is None until the site is loaded."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._masked = Masked(process.config)
        self._secrets = secrets_of(process.config)
        self._told: dict[str, Told] = {}
        self._answers = OpsAnswers(process)

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        numbers = numbers_of(self._process.bus)
        return Snapshot(self._state(), self._told, self._checked(), numbers=numbers)

    def ask(self, kind: str) -> None:
        """Make an answer at once."""

        def answer(value: Any) -> None:
            self._told[kind] = Told(public(value, self._secrets), time.monotonic())

        if self._process.bus is None:
            return
        try:
            self._answers.ask(kind, self._process.bus, answer)
        except Exception as error:
            # Another thread has changed what was read; the next answer is right.
            answer({'error': f'the answer cannot be made: {type(error).__name__}'})

    def readers(self) -> Mapping[int, Callable[[], object]]:
        """Return nothing: no other process sends anything."""
        return {}

    def _state(self) -> State:
        process, bus = self._process, self._process.bus
        # A restart in place has begun in the old program, and ends in this one.
        restarts = process.renewal is not None and process.renewal.took is None
        if bus is None:
            return State('STARTING', restarts, process.is_drained, restarts)
        return State(
            name=bus.state.name,
            was_started=bus.was_started or restarts,
            drained=bus.drained,
            renewing=restarts or bus.execv,
        )

    def _checked(self) -> list[Checked]:
        process = self._process
        if process.bus is None:
            return []
        return [Checked('site', True, self._masked.checks_of(process.bus))]
