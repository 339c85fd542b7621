"""The watcher of a process that reloads itself: --reload without a supervisor."""

from __future__ import annotations

import time

from paste_wspbus.command.terminal import one_line, print_line
from paste_wspbus.errors import WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.plugins import on
from paste_wspbus.plugins.autoreload import Autoreloader
from paste_wspbus.watching.files import change_of, what_changed
from paste_wspbus.watching.gate import Gate
from paste_wspbus.workers.reloading import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process


class Reloader(Autoreloader):
    """Restarts the site when a file has changed, unless the .ini cannot be read now."""

    def __init__(self, bus: Bus, launch: Launch, process: Process) -> None:
        assert launch.files is not None
        self._launch, self._process = launch, process
        self._gate: Gate | None = None
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
        # After a program that was outdated before it served, this one must serve.
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
        if options.verbosity > 0:
            print_line(what_changed(paths), 'stderr')
        try:  # the next program reads it first, and could show no page without it
            Config(options.config, options.vars, process.folder)
        except WSPBusError as error:
            print_line(f'{one_line(error)}\nthe site keeps running as it is', 'stderr')
            self.bus.asked_by = change_of(paths)
            self.bus.post('reload_failed', one_line(error))
            return
        if self.bus.is_told_to_leave:  # the order may have come meanwhile
            return
        process.reload, process.problem = (since, self._was_open), None
        self.bus.asked_by = change_of(paths)
        self.bus.restart()

    @on('reload_failed')
    def keep_serving(self, reason: str) -> None:
        """Open the gate again: the restart was refused, and the old code serves on."""
        if self._gate is not None:
            self._gate.reopen()

    def warn(self, line: str) -> None:
        """Print a warning only once, not after each reload; the log may be quiet then."""
        if self._launch.options.verbosity > 0 and not self._process.inheritance.reload:
            print_line(line, 'stderr')
