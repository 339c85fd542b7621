"""Restarts the bus when a file that the site is made of has changed."""

from __future__ import annotations

import contextlib
import os
import threading

from paste_wspbus.channels import ChannelFailures
from paste_wspbus.deadlines import stack_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.events import Events
from paste_wspbus.imported import Recorder
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.sources import Files
from paste_wspbus.watching import Watcher, what_changed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from paste_wspbus.bus import Bus
    from paste_wspbus.sources import Path, Signature


class Autoreloader(Plugin):
    """Restarts the bus when a file of the site has changed.

    On a change it publishes 'changed' with the list of paths, and calls
    `react`, which logs and restarts, and may be overridden. 'watch' adds a
    file, a folder or a glob, and so do ``paste.reloader`` and ``hupper`` where
    the site uses them.

    :param interval: seconds between looks, where nobody tells of changes.
    :param match: a regular expression: which modules count, by their names.
    :param files: paths beside the modules, such as that of the .ini; or a
        mapping of each to the `signature` that it had before it was read.
    :param ignore: globs: files that do not count, by their paths or names.
    :param poll: look every ``interval`` seconds: network folders do not tell.
    :param quiet: seconds without a change that end a burst of them.
    """

    #: Seconds that `stop` waits for the thread.
    join_timeout: float = 5

    def __init__(
        self,
        bus: Bus,
        interval: float = 1,
        match: str = '.*',
        files: Iterable[Path] | Mapping[str, Signature] = (),
        ignore: Iterable[str] = (),
        *,
        poll: bool = False,
        quiet: float = 0.025,
    ) -> None:
        super().__init__(bus)
        bus.listeners.setdefault('changed', set())
        self.interval, self.poll, self.quiet = interval, poll, quiet
        #: What the site's threads add to, and what the one that watches looks at.
        self.learnt, self.files = Files(), Files(ignore)
        self.recorder = Recorder(self.learnt, match, reload=bus.restart, stop=bus.exit)
        for path in files:
            self.learnt.add(path)
        self.files.merge(self.learnt.news())
        if hasattr(files, 'items'):
            self.files.merge(
                [['file', os.path.abspath(k), v] for k, v in files.items()]
            )
        self.thread: threading.Thread | None = None
        self.watcher: Watcher | None = None
        self._lock = threading.RLock()

    def subscribe(self) -> None:
        """Plug in: from now on, each import is noted."""
        super().subscribe()
        self.recorder.install()

    def unsubscribe(self) -> None:
        """Unplug, and watch no more."""
        super().unsubscribe()
        self.recorder.remove()
        self.stop()

    @on('watch')
    def watch(self, path: Path) -> None:
        """Watch a file, a folder, or what a glob matches, too."""
        self.learnt.add(path)

    @on('start', priority=70)
    def start(self) -> None:
        """Start the thread, if it does not run."""
        with self._lock:
            if self.thread is not None and self.thread.is_alive():
                return
            self.recorder.scan()
            self.watcher = watcher = Watcher(
                Events(),
                self.files,
                self._tell,
                quiet=self.quiet,
                interval=self.interval,
                poll=self.poll,
                log=self.warn,
            )
            self.learnt.on_news = lambda: watcher.events.put(True)
            watcher.add(self.learnt.news())
            self.thread = threading.Thread(
                target=self._run, args=[watcher], name='Autoreloader', daemon=True
            )
            self.thread.start()

    @on('stop')
    def stop(self) -> None:
        """Stop the thread; wait for it, unless this is it."""
        with self._lock:
            watcher, thread = self.watcher, self.thread
            self.watcher = self.thread = None
        if watcher is None or thread is None:
            return
        self.learnt.on_news = lambda: None
        if watcher.pid != os.getpid():  # the thread is the parent's: so is its loop
            self._close(watcher)
            return
        watcher.events.put(False)
        if thread is not threading.current_thread():
            thread.join(0 if self.bus.hurried else self.join_timeout)
            if thread.is_alive():
                stack = stack_of(thread)
                self.bus.log(f'Thread {thread.name!r} does not end:\n{stack}', 40)

    def warn(self, line: str) -> None:
        """Tell what is not as it might be; override it."""
        self.bus.log(line, level=30)

    def react(self, paths: list[str]) -> None:
        """What is done about a change; override it. Runs in the thread that watches.

        :param paths: of the files that changed, came or went; at least one.

        :raises RestartImpossible: it is logged, and watching goes on.
        """
        self.bus.log(f'{what_changed(paths)}: restarting')
        self.bus.restart()

    # The thread's

    def _run(self, watcher: Watcher) -> None:
        try:
            while watcher.events.get():
                watcher.add(self.learnt.news())
        finally:
            self._close(watcher)

    def _close(self, watcher: Watcher) -> None:
        watcher.close()
        watcher.events.close()

    def _tell(self, paths: list[str]) -> None:
        with contextlib.suppress(ChannelFailures):  # each is in the log
            self.bus.publish('changed', paths)
        if self.bus.is_told_to_leave:
            return  # or it would come back
        try:
            self.react(paths)
        except WSPBusError as error:
            self.bus.log(str(error), level=40)
        except Exception:  # it may be anybody's
            self.bus.log('Error after a change', level=40, traceback=True)
