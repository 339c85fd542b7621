"""The plugin that restarts the bus when a file of the site changes."""

from __future__ import annotations

import os
import threading

from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.deadlines import stack_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.watching.files import Files, what_changed
from paste_wspbus.watching.imports import Recorder
from paste_wspbus.watching.loop import Events
from paste_wspbus.watching.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from paste_wspbus.bus import Bus
    from paste_wspbus.watching.files import Path, Signature

#: Seconds that a stop waits for the thread if it skips every wait: the thread is idle.
HURRIED = 0.2


class Autoreloader(Plugin):
    """Restarts the bus when a file of the site changes.

    After a change it publishes 'changed' with the list of paths, and calls `react`,
    which logs and restarts; a subclass may override it. A message on 'watch' adds a
    file, a folder or a glob. So do ``paste.reloader`` and ``hupper``, if the site uses
    them.

    :param interval: seconds between two checks of the files, if the system does not
        notify of changes.
    :param match: a regular expression: modules whose names match it are watched.
    :param files: more paths, such as that of the .ini; or a mapping from each path to
        the `signature` that the file had before it was read.
    :param ignore: globs: files whose paths or names match are not watched.
    :param poll: whether to check every ``interval`` seconds in any case: network folders
        do not notify of changes.
    :param quiet: seconds without a change after which a burst of changes is over.
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
        #: ``learnt`` has the files that the site's threads add, ``files`` those that the
        #: watcher watches.
        ignore = list(ignore)
        self.learnt, self.files = Files(ignore), Files(ignore)
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
        """Plug in. From now on, each import is recorded."""
        super().subscribe()
        self.recorder.install()

    def unsubscribe(self) -> None:
        """Unplug, and stop the thread."""
        super().unsubscribe()
        self.recorder.remove()
        self.stop()

    @on('watch')
    def watch(self, path: Path) -> None:
        """Also watch a file, a folder, or the files that match a glob."""
        self.learnt.add(path)

    @on('start', priority=70)
    def start(self) -> None:
        """Start the thread that watches, if it does not run."""
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
            self.learnt.on_news = self.has_news
            watcher.add(self.learnt.news())
            self.thread = threading.Thread(
                target=self._run, args=[watcher], name='Autoreloader', daemon=True
            )
            self.thread.start()

    @on('stop')
    def stop(self) -> None:
        """Stop the thread, and wait for its end, unless the thread itself calls this."""
        with self._lock:
            watcher, thread = self.watcher, self.thread
            self.watcher = self.thread = None
            if watcher is None or thread is None:
                return
            self.learnt.on_news = lambda: None  # a later start() sets it again
        if watcher.pid != os.getpid():  # after a fork, the parent has the thread
            self._close(watcher)
            return
        watcher.events.put(False)
        if thread is not threading.current_thread():
            thread.join(HURRIED if self.bus.hurried else self.join_timeout)
            if thread.is_alive():
                stack = stack_of(thread)
                self.bus.log(f'Thread {thread.name!r} does not end:\n{stack}', 40)

    def warn(self, line: str) -> None:
        """Log a warning about the watching; a subclass may override it."""
        self.bus.log(line, level=30)

    def react(self, paths: list[str]) -> None:
        """Restart the bus after a change; a subclass may override it.

        It is called in the thread that watches.

        :param paths: at least one path of a file that was changed, created or deleted.
        :raises RestartImpossible: if the site cannot be restarted. That is logged, and
            the files are watched as before.
        """
        self.bus.log(f'{what_changed(paths)}: restarting')
        self.bus.restart()

    def has_news(self) -> None:
        """Let the thread watch what is new in ``learnt``; a subclass may do more."""
        watcher = self.watcher
        if watcher is not None:
            watcher.events.put(True)

    def insist(self, paths: list[str]) -> None:
        """React to a change of these paths soon, even if they are as they were by then."""
        watcher = self.watcher
        if watcher is not None:
            watcher.events.put(paths)

    # The code of the thread

    def _run(self, watcher: Watcher) -> None:
        try:
            while (wish := watcher.events.get()) is not False:
                if isinstance(wish, list):
                    watcher.insist(wish)
                watcher.add(self.learnt.news())
        finally:
            self._close(watcher)

    def _close(self, watcher: Watcher) -> None:
        watcher.close()
        watcher.events.close()

    def _tell(self, paths: list[str]) -> None:
        try:
            self.bus.publish('changed', paths)
        except ChannelFailures:  # the log has each error
            pass
        except (
            SystemExit,
            KeyboardInterrupt,
        ) as exited:  # the next change must be seen
            name = type(exited).__name__
            self.bus.log(f"A listener of 'changed' has raised {name}", 40)
        if self.bus.is_told_to_leave:
            return  # a restart would start a site that was asked to stop
        try:
            self.react(paths)
        except WSPBusError as error:
            self.bus.log(str(error), level=40)
            self.bus.post('reload_failed', str(error))
        except Exception as error:  # it may be the method of a subclass
            self.bus.log('Error after a change', level=40, traceback=True)
            self.bus.post('reload_failed', repr(error))
