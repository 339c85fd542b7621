"""The watcher of a process that reloads itself: --reload without a supervisor."""

from __future__ import annotations

import os
import time

from paste_wspbus.command.terminal import one_line, print_line, without_folder
from paste_wspbus.errors import WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.plugins import on
from paste_wspbus.plugins.autoreload import Autoreloader
from paste_wspbus.watching.files import change_of, signature, what_changed
from paste_wspbus.watching.gate import Gate
from paste_wspbus.workers.reloading import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process


class Shown:
    """A WSGI application that calls another one, which can be replaced."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer one request (PEP 3333)."""
        return self.app(environ, start_response)


class Reloader(Autoreloader):
    """Restarts the site when a file has changed; a mistake of the .ini is shown instead."""

    def __init__(self, bus: Bus, launch: Launch, process: Process) -> None:
        assert launch.files is not None
        self._launch, self._process = launch, process
        self._gate: Gate | None = None
        #: What the server calls; None if the site has another one, which is never replaced.
        self.shown: Shown | None = None
        #: The files whose change was refused, because the .ini is wrong, as they were then.
        self._refused: dict[str, object] = {}
        #: Whether the gate was open when the site began to serve.
        self._was_open = True
        files = {**launch.files.signatures}
        if process.problem:
            for path, was in process.problem[1].items():
                files[path] = was and tuple(was)
        super().__init__(
            bus,
            launch.options.reload_interval,
            files=files,
            ignore=launch.ignore,
            quiet=QUIET,
            poll=bool(launch.poll),
        )

    @on('start', priority=70)
    def start(self) -> None:
        """Start the thread that watches; let the server ask a gate before it accepts."""
        super().start()
        reload, server = self._process.inheritance.reload, self._process.server
        if self._gate is not None or server is None or self._launch.poll:
            return
        self._gate = server.gate = gate = Gate(self.learnt, self.insist)
        self.learnt.search()
        gate.prepare()
        # If the program before this one was outdated before it served, this one must
        # serve.
        self._was_open = gate.begin(at_all=True, insists=bool(reload and not reload[1]))

    @on('stop')
    def stop(self) -> None:
        """Stop the thread, and wait for its end; the gate is open from now on."""
        super().stop()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.close()

    def has_news(self) -> None:
        """Let the thread and the gate watch what is new."""
        super().has_news()
        gate = self._gate
        if gate is not None:
            self.learnt.search()
            gate.look()

    def react(self, paths: list[str]) -> None:
        """Let the bus restart the site."""
        process, options = self._process, self._launch.options
        since = self.watcher.noticed if self.watcher is not None else time.monotonic()
        now: dict[str, object] = {path: signature(path) for path in paths}
        if now.items() <= self._refused.items():
            # The gate has noticed the same change, while the .ini was checked.
            self.keep_serving('')
            return
        if options.verbosity > 0:
            print_line(what_changed(paths), 'stderr')
        # Without a correct .ini, the next program could not even serve the page of the
        # error.
        try:
            self._check(paths)
        except WSPBusError as error:
            self._show(error)
            self._refused |= now
            self.bus.asked_by = change_of(paths)
            self.bus.post('reload_failed', one_line(error))
            return
        if self.bus.is_told_to_leave:  # the order may have come meanwhile
            return
        process.reload, process.problem = (since, self._was_open), None
        self.bus.asked_by = change_of(paths)
        self.bus.restart()

    def _check(self, paths: list[str]) -> None:
        """Check the .ini; if it is among the changed files, check also what it names.

        :raises WSPBusError: if it is wrong.
        """
        process, options = self._process, self._launch.options
        config = Config(options.config, options.vars, process.folder)
        files = {*map(os.path.abspath, (*config.files, *process.config.files))}
        if not files.isdisjoint(paths):
            from paste_wspbus.ini.check import check

            check(config, options.server_name, options.app_name, options.listen)

    def _show(self, error: WSPBusError) -> None:
        """Show a mistake of the .ini in the place of the site, which stays loaded."""
        from paste_wspbus.errorpage.page import make_app
        from paste_wspbus.errorpage.problem import problem_of

        line = without_folder(one_line(error))
        print_line(f'{line}\nthe site cannot be served', 'stderr')
        if self.shown is not None:
            self.shown.app = make_app(problem_of(error, line))

    @on('reload_failed')
    def keep_serving(self, reason: str) -> None:
        """Open the gate again: the restart was refused, and this process keeps serving."""
        if self._gate is not None:
            self._gate.reopen()

    def warn(self, line: str) -> None:
        """Print a warning only once, not after each reload; the log may be quiet then."""
        if self._launch.options.verbosity > 0 and not self._process.inheritance.reload:
            print_line(line, 'stderr')
