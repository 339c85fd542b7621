"""The reports of one process without a supervisor: it writes them itself, as far as it can."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from paste_wspbus.control.stacks import limited
from paste_wspbus.process.load import describe_stacks
from paste_wspbus.process.reporting import (
    FRAMES,
    KEPT,
    REQUESTS,
    Notes,
    check_folder,
    name_of,
    text_of,
)
from paste_wspbus.unix import report_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.process.process import Process

#: Seconds between two reports on requests past their deadline: nothing ends these
#: requests.
PAUSE = 60.0

#: Seconds that a forced stop waits for its report.
PATIENCE = 1.0

#: The name of these reports in ``bus.plugins``.
NAME = 'wspbus.reports'


class OwnReports:
    """Writes a report if a request is overdue, the site breaks, or its stop is forced.

    If a signal has ended the process, or its code holds the GIL, there is no report.

    :param folder: the path of the folder.
    :param about: returns what a report says of the site: see `process.about`.
    """

    def __init__(
        self, bus: Bus, folder: str, about: Callable[[], dict[str, Any]]
    ) -> None:
        self.bus, self._folder, self._about = bus, folder, about
        self.notes, self._not_before = Notes(), float('-inf')
        self._problem = ''

    def subscribe(self) -> None:
        """Look at each stop, and at each stop by force."""
        bus = self.bus
        bus.plugins[NAME] = self
        bus.subscribe('log', self.notes.note_line)
        bus.subscribe('stop', self._look, priority=float('-inf'))
        bus.before_force = self._is_forced

    def is_overdue(self, what: str) -> None:
        """Report a request past its deadline, but at most one in PAUSE seconds.

        :param what: the request, as a text.
        """
        if time.monotonic() >= self._not_before:
            self._not_before = time.monotonic() + PAUSE
            self._write('deadline', f'has an overdue request: {what}')

    def _look(self) -> None:
        """Report a site that stops because something has failed since its start."""
        bus = self.bus
        if bus.exit_code and bus.was_started:
            self._write('crash', f'stops with exit code {bus.exit_code}')

    def _is_forced(self, why: str) -> None:
        with contextlib.suppress(RuntimeError):  # the system starts no more threads
            writer = threading.Thread(
                target=self._write, args=('kill', f'ends by force: {why}'), daemon=True
            )
            writer.start()
            writer.join(PATIENCE)

    def _write(self, kind: str, what: str) -> None:
        try:
            report = self._describe(kind, what)
            path = report_files.write(self._folder, name_of(report), text_of(report))
            self._problem = ''
            self.bus.log(f'The site has a report: {path}', 30)
            report_files.keep_newest(self._folder, KEPT)
        except Exception as error:  # a report must not end a site
            self._fail(getattr(error, 'strerror', None) or str(error))

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self.bus.log(f'reports {self._folder}: {problem}. The site continues', 40)

    def _describe(self, kind: str, what: str) -> dict[str, Any]:
        process = describe_stacks(self.bus)
        requests = [one['request'] for one in process['threads'] if one['request']]
        limited([process], FRAMES)
        return {
            'kind': kind,
            'time': time.time(),
            'what': f'The site (process {os.getpid()}) {what}',
            **{key: process[key] for key in ('name', 'pid', 'state', 'threads')},
            'requests': requests[:REQUESTS],
            'ready_for': None,
            **self._about(),
            **self.notes.describe(),
        }


def plug_in(process: Process, bus: Bus) -> None:
    """Let the only process of a site write its reports.

    :raises ConfigError: if it cannot write to the folder.
    """
    folder: str = process.config.settings['reports']
    check_folder(process.config, folder)

    def say() -> dict[str, Any]:
        from paste_wspbus.ini.masking import secrets_of
        from paste_wspbus.process.about import about  # the first report needs it

        made.notes.hide(secrets_of(process.config))
        return about(process)

    made = OwnReports(bus, folder, say)
    made.subscribe()
