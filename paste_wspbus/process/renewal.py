"""The last graceful restart or reload of a site: who asked for it, when, how it ended."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Who has asked if nobody else says so.
THE_SITE = 'code of the site'

#: The number of characters of a text that are kept: a message can be of any length.
MAX_TEXT = 1000


class Renewal:
    """One graceful restart, restart in place, or reload; `status` shows the last one.

    :param asked_by: who has asked for it, such as 'signal SIGHUP'; None if that is not
        known, because code of the site has called the bus.
    :param began: the time.time() and the time.monotonic() of its beginning; None stands
        for now.
    :param reason: why it fails, if the program before this one has found that out.
    """

    def __init__(
        self,
        asked_by: str | None,
        began: tuple[float, float] | None = None,
        reason: str | None = None,
    ) -> None:
        self.asked_by = (asked_by or THE_SITE)[:MAX_TEXT]
        self.time, self.monotonic = began or (time.time(), time.monotonic())
        #: Seconds that it has taken; None while it is in progress.
        self.took: float | None = None
        #: The reason why it fails, as soon as that is known; None if it does not.
        self.reason = reason
        #: The generation that serves since then, if the site has several.
        self.generation: int | None = None

    def ends(self, generation: int | None, reason: str | None = None) -> None:
        """Note its end.

        :param generation: the generation that serves now.
        :param reason: why it has failed; None if it has not.
        """
        self.took = time.monotonic() - self.monotonic
        self.generation = generation
        self.reason = None if reason is None else reason[:MAX_TEXT]

    def handed_over(self) -> list[Any] | None:
        """Return what the next program of this process needs; None if it has ended."""
        if self.took is not None:
            return None
        return [self.asked_by, self.time, self.monotonic, self.reason]

    @classmethod
    def from_program_before(cls, fields: list[Any]) -> Renewal:
        """Return the renewal from what the program before this one has handed over."""
        asked_by, *began, reason = fields
        return cls(asked_by, tuple(began), reason)

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of it; times in seconds."""
        outcome = 'failed' if self.reason is not None else 'served'
        return {
            'time': self.time,
            'age': round(time.monotonic() - self.monotonic, 3),
            'asked_by': self.asked_by,
            'outcome': 'in progress' if self.took is None else outcome,
            'took': None if self.took is None else round(self.took, 3),
            'generation': self.generation,
            'reason': self.reason,
        }
