"""The announcement that the site serves, on the terminal and to a process that waits for it."""

from __future__ import annotations

import os
import threading
import time

from paste_wspbus.bus.deadlines import call_after
from paste_wspbus.command.terminal import print_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

#: Seconds after which a server without an adapter counts as serving.
BINDING = 0.5


class Announcement:
    """Announces where the site is served, when it is STARTED."""

    def __init__(self, launch: Launch, process: Process) -> None:
        self.launch, self.options, self.process = launch, launch.options, process

    def make(
        self,
        server: Server | BlockingServer | None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Print where the site is served, and report that it is ready.

        :param before: is called immediately before the report.
        """
        launch, report = self.launch, self.launch.report
        lines = self._lines_of_this_process(server)
        self.process.announced = True

        def ready() -> None:
            before()
            report.ready(lines)

        if server is not None and server.blocking and report.fd is not None:
            # It binds itself, and this may fail: then it does not run so long.
            call_after(BINDING, ready)
        else:  # before the lines: a program that reads them may end this process at once
            ready()
        if lines:
            print_line('\n'.join(lines))
        launch.early.repeat()

    def _lines_of_this_process(
        self, server: Server | BlockingServer | None
    ) -> list[str]:
        """Return the lines for the terminal; print at once how a reload has ended."""
        options, process = self.options, self.process
        inherited = process.inheritance
        # A process that reloads itself announces its reload; a worker does not.
        reloaded = inherited.reload if process.role is None else None
        if reloaded and options.verbosity > 0:
            took = (time.monotonic() - reloaded[0]) * 1000
            served = f'served in {took:.0f} ms'
            line = 'the site cannot be served' if process.problem else served
            print_line(line, 'stderr')
        stays = process.server is None or process.server.where == inherited.where
        if (reloaded and stays) or (options.reload and self.launch.later):
            return []  # the supervisor prints them
        if server is None or process.name:  # the supervisor of several prints them
            return []
        if process.role is None and (url := self.url_to_show()):
            import webbrowser

            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        return self.lines(server.urls)

    def lines(self, urls: Iterable[str]) -> list[str]:
        """Return the lines that say which process serves, and where."""
        if self.options.verbosity <= 0:
            return []
        lines = [f'Starting server in PID {os.getpid()}.']
        lines += [f'Serving on {url}' for url in urls]
        ops = self.process.ops
        return lines + [f'Ops listener on {url}' for url in (ops.urls if ops else ())]

    def url_to_show(self) -> str | None:
        """Return the URL that --browser shows: open_url of [pserve], or that of the site."""
        if not self.options.browser:
            return None
        process = self.process
        urls = process.server.urls if process.server is not None else []
        url = process.config.section('pserve').get('open_url') or next(iter(urls), None)
        if url is None:
            line = (
                '--browser: the URL of the site is not known: set open_url in [pserve]'
            )
            print_line(line, 'stderr')
        return url
