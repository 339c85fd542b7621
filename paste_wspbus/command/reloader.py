"""The watcher of a process that reloads itself: --reload without a supervisor."""

from __future__ import annotations

import time

from paste_wspbus.command.terminal import one_line, print_line
from paste_wspbus.errors import WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.plugins.autoreload import Autoreloader
from paste_wspbus.watching.files import change_of, what_changed
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
        )

    def react(self, paths: list[str]) -> None:
        """Let the bus restart the site."""
        since, process, options = time.monotonic(), self._process, self._launch.options
        try:  # the next program reads it first, and could show no page without it
            Config(options.config, options.vars, process.folder)
        except WSPBusError as error:
            why = f'{what_changed(paths)}: cannot be read, the site keeps running as it is'
            print_line(f'{one_line(error)}\n{why}', 'stderr')
            self.bus.asked_by = change_of(paths)
            self.bus.post('reload_failed', one_line(error))
            return
        if self.bus.is_told_to_leave:  # the order may have come meanwhile
            return
        process.reload, process.problem = (what_changed(paths), since), None
        self.bus.asked_by = change_of(paths)
        self.bus.restart()

    def warn(self, line: str) -> None:
        """Print a warning only once, not after each reload; the log may be quiet then."""
        if self._launch.options.verbosity > 0 and not self._process.inheritance.reload:
            print_line(line, 'stderr')
