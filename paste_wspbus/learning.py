"""What a site under ``--reload`` is made of, told to the supervisor that watches it."""

from __future__ import annotations

import sys

from paste_wspbus.imported import Recorder
from paste_wspbus.packages import import_all, imported
from paste_wspbus.sources import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.bus import Bus
    from paste_wspbus.report import Report
    from paste_wspbus.sources import Path


class Learner:
    """Notes what is imported; `tell` tells it, and from then on all that is new at once.

    To be made before the site is composed; who is forked later goes on with it.
    """

    def __init__(self) -> None:
        self.files = Files()
        self._report: Report | None = None
        self._bus: Bus | None = None
        self._known = set(sys.modules)
        self._recorder = Recorder(
            self.files,
            reload=lambda: self._tell_bus('restart'),
            stop=lambda: self._tell_bus('exit'),
        )
        self._recorder.install()

    def _tell_bus(self, command: str) -> None:
        if self._bus is not None:
            getattr(self._bus, command)()

    def import_all(self, names: Iterable[str]) -> None:
        """Import packages for those who will be forked: they need not tell of them.

        :raises Spoiled: if this process is not to fork any more.
        """
        import_all(names)
        self._recorder.scan()
        self.files.news()
        self._known.update(sys.modules)

    def ride(self, bus: Bus) -> None:
        """'watch' adds files, folders and globs."""
        self._bus = bus
        bus.subscribe('watch', self.watch)

    def watch(self, path: Path) -> None:
        """Watch a file, a folder, or what a glob matches, too."""
        self.files.add(path)

    def tell(self, report: Report) -> None:
        """Tell what was learnt until now, and the rest as it comes."""
        self._report = report
        self._recorder.scan()
        self.files.on_news = self._tell
        self._tell()

    def _tell(self) -> None:
        names = imported(self._known)
        self._known.update(sys.modules)
        news = self.files.news()
        if self._report is not None and (news or names):
            self._report.learnt(news, names)
