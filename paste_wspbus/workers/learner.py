"""The files and modules of a site under ``--reload``: a worker notes and reports them."""

from __future__ import annotations

import sys
import time

from paste_wspbus.watching.files import Files
from paste_wspbus.watching.imports import Recorder
from paste_wspbus.workers.packages import import_all, imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.bus import Bus
    from paste_wspbus.process.supervised_report import SupervisedReport
    from paste_wspbus.watching.files import Path
    from paste_wspbus.watching.gate import Gate

#: Seconds, at least, between two early reports.
EARLY = 0.02

#: The pause until the next look, in multiples of the time that a look takes: a site may
#: have thousands of modules.
EARLY_SHARE = 50


class Learner:
    """Notes the imported modules and their files, and reports them after `report_to`.

    It is made before the site is composed; a process that is forked later keeps it.

    :param ignore: globs of files that are not watched.
    """

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self.files = Files(ignore)
        #: It follows the files that are noted, if there is one.
        self.gate: Gate | None = None
        self._report: SupervisedReport | None = None
        self._bus: Bus | None = None
        self._known = set(sys.modules)
        self._recorder = Recorder(
            self.files,
            reload=lambda: self._command_bus('restart'),
            stop=lambda: self._command_bus('exit'),
        )
        self._recorder.install()

    def _command_bus(self, command: str) -> None:
        if self._bus is not None:
            getattr(self._bus, command)()

    def import_all(self, names: Iterable[str]) -> None:
        """Import packages before a fork; the forked processes need not report them.

        :raises Spoiled: if this process must not fork any more.
        """
        import_all(names)
        self._recorder.scan()
        self.files.news()
        self._known.update(sys.modules)

    def ride(self, bus: Bus) -> None:
        """Subscribe to 'watch', which adds files, folders and globs."""
        self._bus = bus
        bus.subscribe('watch', self.watch)

    def watch(self, path: Path) -> None:
        """Also watch a file, a folder, or the files that match a glob."""
        self.files.add(path)

    def report_early(self, report: SupervisedReport) -> None:
        """Report modules already while the site is composed for the first time.

        The packages' process imports them at the same time, so that it can fork a worker
        soon after the start.
        """
        due = 0.0

        def report_modules() -> bool:
            nonlocal due
            now = time.monotonic()
            if now >= due:
                names = imported(self._known)
                self._known.update(sys.modules)
                if names:
                    report.learnt([], names)
                taken = time.monotonic() - now
                due = now + max(EARLY, taken * EARLY_SHARE)
            return False

        self.files.announce(report_modules)

    def report_to(self, report: SupervisedReport) -> None:
        """Report all files and modules that are known, and later each new one."""
        self._report = report
        self._recorder.scan()
        self.files.on_news = self._report_news
        self._report_news()

    def _report_news(self) -> None:
        names = imported(self._known)
        self._known.update(sys.modules)
        news = self.files.news()
        if self._report is not None and (news or names):
            self._report.learnt(news, names)
        if self.gate is not None:
            self.files.search()
            self.gate.look()
