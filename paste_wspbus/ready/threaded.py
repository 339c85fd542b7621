"""A part of a site that has a thread of its own, from the start of the site to its stop."""

from __future__ import annotations

from paste_wspbus.plugins import on
from paste_wspbus.ready.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread
    from typing import Protocol

    from paste_wspbus.ready.state import StateFile

    class Keeper(Protocol):
        """The work of one start of the part: its thread, and its stop."""

        thread: Thread

        def health(self) -> object:
            """Say whether the part does what it should, as `Bus.health` has it."""

        def stop(self) -> None:
            """Begin nothing more; a second call does nothing."""

        def finish(self) -> None:
            """Wait for the end, as long as the stop of the site allows it."""


class Threaded(Part):
    """The base class of `Cron` and `Service`: the keeper is the resource of the section.

    ``is_shared`` says whether only one process of the site does the work; ``path`` is the
    file by which they agree, None for the default.
    """

    is_shared: bool
    path: str | None = None
    _keeper: Keeper | None = None

    def keeper(self, file: StateFile | None) -> Keeper:
        """Make the keeper of one start."""
        raise NotImplementedError

    @on('start', priority=90)
    def start(self) -> None:
        """Start the thread.

        :raises WSPBusError: if the file by which the processes agree cannot be opened.
        """
        if self._keeper is None:
            keeper = self.keeper(self.open_state(self.path) if self.is_shared else None)
            keeper.thread.start()
            self._keeper = self.bus.resources[self.name] = keeper
            self.offer_health(keeper.health)

    @on('stop', priority=10)
    def stop_beginning(self) -> None:
        """Begin nothing more: ask the running work to end."""
        if self._keeper is not None:
            self._keeper.stop()

    @on('stop', priority=30)
    def stop(self) -> None:
        """Wait for the running work, as long as the stop of the site allows it."""
        keeper, self._keeper = self._keeper, None
        self.bus.resources.pop(self.name, None)
        if keeper is not None:
            keeper.stop()
            keeper.finish()
