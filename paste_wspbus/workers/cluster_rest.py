"""The waits of a crash loop, in which a site leaves the lease of its cluster plugins to others."""

from __future__ import annotations

from paste_wspbus.unix.kernel_timer import boot_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.watching.loop import Timer
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds between two lines of the log about plugins that crash again and again.
MINUTE = 60.0


class Rest:
    """Says whether this site leaves the lease to other machines, because the plugins crash.

    :param changed: is called when a rest begins, and when it has ended by itself.
    """

    def __init__(self, supervisor: Supervisor, changed: Callable[[], object]) -> None:
        self._supervisor, self._changed = supervisor, changed
        #: When this site wants the lease again (`boot_clock`); None if it does not rest.
        self.until: float | None = None
        self._timer: Timer | None = None
        self._told_at = float('-inf')

    def begin(self, wait: float) -> bool:
        """Rest before the next start, if the site is in a crash loop; return whether it rests.

        :param wait: seconds before the next start.
        """
        supervisor, now = self._supervisor, boot_clock()
        if not wait or not supervisor.crashes.loop:
            return False
        if now >= self._told_at + MINUTE:
            self._told_at = now
            supervisor.bus.log(
                'The cluster plugins crash again and again here: before each new start, this '
                'site releases their lease, so that another machine can run them',
                30,
            )
        self.end()
        self.until = now + wait
        self._timer = supervisor.events.call_later(wait, self._is_over)
        self._changed()
        return True

    def _is_over(self) -> None:
        self.end()
        self._changed()

    def end(self) -> None:
        """Rest no more; do nothing if the site does not rest."""
        self.until = None
        if self._timer is not None:
            self._supervisor.events.cancel(self._timer)
            self._timer = None

    @property
    def is_told(self) -> bool:
        """Whether the log says already that the lease is released again and again."""
        is_recent = boot_clock() < self._told_at + MINUTE
        return is_recent and bool(self._supervisor.crashes.loop)
