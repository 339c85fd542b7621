"""A site in a process that another program owns: composed, started and stopped once in it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time

from paste_wspbus.bus import ChannelFailures, State
from paste_wspbus.errors import RestartImpossible, WSPBusError
from paste_wspbus.handoff import composing
from paste_wspbus.hosts import host_of
from paste_wspbus.loader import Config, Site, StartFailed, site_path
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
from paste_wspbus.plugins.threads import ThreadManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.hosts import Host

#: Seconds between two looks at the requests in flight of a process that stops.
LOOK = 0.01


class NotStarted(WSPBusError):
    """The site stopped as soon as it was started: a listener asked for that."""

    def __init__(self, file: str | None) -> None:
        super().__init__(f'{file}: the site stopped as soon as it was started')
        self.file = file


class HostedSite:
    """A site that its host starts and stops: each once per process, from any thread.

    ``app``: the WSGI application, with the bus in environ; None of a bus that has no
    .ini. ``bus``. ``patience``: the seconds that requests in flight have to end before
    'stop' listeners run, for a host that stops accepting but does not wait for them;
    0: no wait. ``leave``: set by a host that can end this process in its own way: it is
    called, without arguments, when a component asks for an exit, stop or restart.
    """

    def __init__(self, site: Site) -> None:
        self.file, self.bus, self.app = site.file, site.bus, site.app
        self.patience = 0.0
        self.leave: Callable[[], object] | None = None
        self._site = site
        self._lock = threading.RLock()
        self._started: int | None = None
        self._stopped: int | None = None
        self.bus.exits_with_process = True
        # A request that comes before the start waits for it: see the filter.
        self.bus.starter = self.start
        self.bus.subscribe('drain', self._finish_requests)

    def start(self) -> None:
        """Start the bus in this process; once it is started, do nothing.

        :raises StartFailed: if a listener failed; what had started was stopped, and
            the filter lets no request pass, but tries again to start with each.
        :raises NotStarted: if a listener had the site stopped while it started.
        """
        if self._started == os.getpid():  # no wait for a stop under way
            return
        with self._lock:
            if self._started == os.getpid():
                return
            try:
                self.bus.start()
            except ChannelFailures as failures:
                listener, error = failures.listener or '', failures.get_instances()[0]
                place = self._site.place_of(listener)
                raise StartFailed(place, listener, error) from error
            except SystemExit as left:
                failed = self._site.failure_of(left)
                if failed is None:
                    raise
                raise failed from left
            if self.bus.state is not State.STARTED:
                raise NotStarted(self.file)
            self._started = os.getpid()
            self._leave_to_host()
        # Registered after the bus's own, it is called before that.
        at_exit(self.stop, 'process exit')

    @property
    def is_started(self) -> bool:
        """Whether it was started in this process, and not stopped."""
        return self._started == os.getpid() != self._stopped

    def stop(self, reason: str = '') -> int:
        """Drain and stop the bus in the process that started it; once it is, do nothing.

        :param reason: becomes ``bus.stop_reason``, for listeners.
        :returns: what the process should exit with: 0, or 1 if listeners failed.
        """
        with self._lock:
            if not self.is_started:
                return self.bus.exit_code
            self._stopped = os.getpid()
        for name in ('stop', 'exit'):
            self.bus.__dict__.pop(name, None)
        self.bus.stop_reason = reason
        self.bus.execv, self.bus.restarter = False, None
        with contextlib.suppress(ChannelFailures):  # in the log
            self.bus.exit()
        self.bus.wait(State.EXITING)
        with self.bus._turn:  # another thread had the turn, and is at it
            return self.bus.exit_code

    def add_plugins(self, config: Config) -> None:
        """Make the plugins of an .ini whose application somebody else composes.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        with composing(self.bus):
            config._make_plugins(self._site, 'plugins')
        _warn_of_site_plugins(self.bus, config)

    def _leave_to_host(self) -> None:
        """Who asks the bus for an exit asks the host, which stops the site in its own way."""
        if self.leave is not None:
            self.bus.restarter = self.leave
            self.bus.__dict__.update(stop=self.leave, exit=self.leave)

    def _finish_requests(self) -> None:
        requests = self.bus.plugins.get('requests')
        until = time.monotonic() + self.patience
        # Nothing tells of the end of a request without a line of Python behind each.
        while requests and time.monotonic() < until and not self.bus.hurried:
            time.sleep(LOOK)


def stand_down(bus: Bus, host: Host) -> None:
    """The process is another program's: its signals, its end, its restart.

    Before anything is composed: a component may ask what the host can do.
    """
    bus.host = host
    bus.stop_reason = None
    bus.owns_signals = bus.owns_alarm = 'signals' in host.capabilities
    bus.drain_delay = 0  # the host has stopped accepting when it tells
    bus.restart_checks.append(lambda: _refuse_restart(bus))


def _refuse_restart(bus: Bus) -> None:
    raise RestartImpossible(f'the process belongs to {host_of(bus)}')


def compose(
    uri: str | os.PathLike[str],
    host: Host,
    vars: Mapping[str, str] | None = None,
    app_name: str | None = None,
    *,
    relative_to: str | None = None,
    configure_logging: bool = True,
    logger: str = 'paste_wspbus',
    site_plugins: bool = False,
) -> HostedSite:
    """Compose the site of an .ini for a host: the bus, the plugins, the application; no server.

    :param uri: the path of an .ini, ``PATH#name`` or ``egg:Dist#name``.
    :param vars: what ``var=value`` sets on the command line.
    :param app_name: ``[app:NAME]`` instead of ``[app:main]``.
    :param relative_to: the folder that a relative path starts from, the working
        directory if None.
    :param configure_logging: whether logging is set up as the .ini says.
    :param logger: the name of the logger that gets what the bus says.
    :param site_plugins: whether this process is the only one of the site: then its
        site_plugins run here. Otherwise they do not run, and a warning says so.
    :returns: the site, not started.
    :raises ConfigError: if the .ini is wrong.
    :raises FactoryError: if a factory fails.
    """
    config = Config(os.fspath(uri), vars or {}, relative_to or os.getcwd())
    site_path(config.file)
    if configure_logging:
        config.configure_logging()
    bus = config.make_bus()
    stand_down(bus, host)
    plug_in(bus, config, logger)
    site = config.compose(bus, None, app_name, with_site_plugins=site_plugins)
    if not site_plugins:
        _warn_of_site_plugins(bus, config)
    return HostedSite(site)


def plug_in(bus: Bus, config: Config, logger: str) -> None:
    """The default plugins; a site finds them in ``bus.plugins``."""
    bus.plugins['sitelog'] = SiteLog(bus, logger)
    bus.plugins['sitelog'].subscribe()
    # For plugins that look for it; the signals stay whose they are.
    bus.plugins['signals'] = SignalHandler(bus, config.settings['signals'])
    bus.plugins['threads'] = ThreadManager(bus)
    bus.plugins['threads'].subscribe()


def _warn_of_site_plugins(bus: Bus, config: Config) -> None:
    left = config.settings['site_plugins']
    if left:
        bus.log(
            f'site_plugins = {" ".join(left)}: {host_of(bus)} has no process for what '
            'there is once per site; they do not run',
            logging.WARNING,
        )


def at_exit(function: Callable[..., object], *args: Any) -> None:
    """Call it when the main thread ends; while other threads, a server's, still live."""
    try:
        threading._register_atexit(function, *args)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        atexit.register(function, *args)
