"""The methods of the bus for messages and health checks; `Messages` and `Checks` do the work."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus.health import Checks
    from paste_wspbus.bus.messages import Answer, Messages


class Broadcasting:
    """What a bus says to the buses of the site's other processes, and hears from them."""

    #: The way to the site's other processes (`workers.orders.Courier`); None if there
    #: are none.
    courier: Any = None
    #: The messages between processes; None if this process has none.
    messages: Messages | None = None
    #: The health checks of this process; None if it has none.
    checks: Checks | None = None
    #: It is called in a thread of theirs when they have results: see `Checks.describe`.
    tell_health: Callable[[list[dict[str, Any]]], object] | None = None
    _new_channel: threading.RLock

    def accept(self, *channels: str) -> None:
        """Let messages from other processes of the site be published on these channels.

        :raises ValueError: if one of them is a channel of the bus itself.
        """
        self._make_messages().accept(channels)

    def broadcast(
        self, channel: str, *args: Any, retain: bool = False, cluster: bool = False
    ) -> None:
        """Publish ``channel`` in all processes of the site that `accept` it, also here.

        It does not wait: a thread of each process, "wspbus messages", calls the listeners.

        :param args: JSON values, at most 64 kB together.
        :param retain: whether a worker that starts later gets this message, too, unless
            a later one on this channel is retained.
        :param cluster: whether the site's other machines get it, too, if it has some.
        :raises ValueError: if the channel is one of the bus itself, or ``args`` too long.
        :raises TypeError: if JSON cannot hold ``args``.
        :raises RuntimeError: before the start, and after the stop.
        """
        self._make_messages().broadcast(channel, args, retain, cluster)

    def ask(self, channel: str, *args: Any, timeout: float = 1.0) -> list[Answer]:
        """Publish ``channel`` as `broadcast` does, and return an answer for each process.

        :param timeout: seconds to wait for the answers.
        :raises RuntimeError: if a listener of a message calls this; and as `broadcast` does.
        """
        return self._make_messages().ask(channel, args, timeout)

    def health(
        self, name: str, group: str = 'ready', every: float = 10.0, timeout: float = 1.0
    ) -> Callable[[Callable[[], object]], Callable[[], object]]:
        """Return a decorator of a function that says whether a part of the site works.

        A thread calls it every ``every`` seconds while the site is started; what it returns
        and raises is explained in `health.Checks.add`.

        :raises BadCheck: (a ValueError) if an argument is wrong, or the name is taken.
        """

        def add(function: Callable[[], object]) -> Callable[[], object]:
            self.make_checks().add(name, function, group, every, timeout)
            return function

        return add

    def make_checks(self) -> Checks:
        """Return ``checks``; make them if this process has none yet."""
        from paste_wspbus.bus.health import Checks  # most processes have none

        with self._new_channel:
            self.checks = self.checks or Checks(self)  # type: ignore[arg-type]
        return self.checks

    def _make_messages(self) -> Messages:
        from paste_wspbus.bus.messages import Messages  # most processes have none

        with self._new_channel:
            self.messages = self.messages or Messages(self)  # type: ignore[arg-type]
        return self.messages
