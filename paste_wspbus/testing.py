"""Sites in tests: composed or served in this process, and the pytest plugin that does so."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections import Counter
from functools import cached_property, partial

from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from typing import Any

    import pytest

    from paste_wspbus.bus import Bus
    from paste_wspbus.loader import Config, Site
    from paste_wspbus.middleware import WSGIApp
    from paste_wspbus.servers import Server

    Ini = str | os.PathLike[str]

# pytest imports this module in every run where the package is installed: what
# composes a site is imported when there is one to compose.

#: Where a live server listens: the system chooses a free port.
LOOPBACK = '127.0.0.1:0'


class NotStarted(WSPBusError):
    """The site stopped as soon as it was started: a listener asked for that."""

    def __init__(self, file: str | None) -> None:
        super().__init__(f'{file}: the site stopped as soon as it was started')
        self.file = file


class StopFailed(WSPBusError):
    """`wspserve` would have left with ``exit_code``; the log says why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            f'The site failed, or stopped with failures (exit code {exit_code}); '
            'they are in the log'
        )
        self.exit_code = exit_code


class RunningSite:
    """What an .ini describes, its bus STARTED.

    ``app``: the WSGI application, with the bus in environ. ``bus``: whose
    transitions the thread of the ``with`` block runs. ``plugins``: what the
    [plugin:NAME] sections made, by name.
    """

    def __init__(self, site: Site) -> None:
        self.app: WSGIApp = site.app
        self.bus: Bus = site.bus
        self.plugins: dict[str, Any] = site.plugins

    @property
    def resources(self) -> dict[str, Any]:
        """What the lifespans yielded, by name: ``bus.resources``."""
        return self.bus.resources


class ComposedSite(RunningSite):
    """A site without a server: ``app`` is called by the test."""

    @cached_property
    def client(self) -> Any:
        """A `webtest.TestApp` that calls ``app``; it keeps cookies.

        :raises ModuleNotFoundError: if WebTest is not installed.
        """
        try:
            with _changing, warnings.catch_warnings():
                # WebOb imports cgi, which says on Python 3.11 and 3.12 that it is old.
                warnings.simplefilter('ignore', DeprecationWarning)
                from webtest import TestApp  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            if error.name != 'webtest':
                raise
            raise ModuleNotFoundError(
                'Requests to a composed site are made by WebTest: '
                "pip install 'paste_wspbus[testing]'",
                name=error.name,
            ) from None
        return TestApp(self.app)

    def get(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """``client.get``: a GET request; takes and returns what WebTest does.

        :raises webtest.AppError: for a status of 400 and above, unless
            ``status`` says that it is expected.
        """
        return self.client.get(url, *args, **kwargs)

    def post(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """``client.post``: a POST request; see `get`."""
        return self.client.post(url, *args, **kwargs)


class ServedSite(RunningSite):
    """A site with its server: ``url``, such as 'http://127.0.0.1:40000'."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.url: str = site.server.urls[0]


@contextlib.contextmanager
def composed(
    ini: Ini,
    vars: Mapping[str, str] | None = None,
    *,
    relative_to: Ini | None = None,
    configure_logging: bool = False,
) -> Generator[ComposedSite]:
    """Compose a site and start its bus; without the server.

    At the end of the block the site is stopped as `wspserve` stops it.

    :param ini: the path of an .ini, ``PATH#name`` or ``egg:Dist#name``; or an
        .ini's text, which has more than one line and may be indented.
    :param vars: what ``var=value`` sets on the command line.
    :param relative_to: the folder that a relative path starts from, the
        working directory if None; of a text, the folder it is taken to be in
        (``here``), one that goes with the site if None.
    :param configure_logging: whether logging is set up as the .ini says,
        until the end of the block.
    :raises ConfigError: if the .ini is wrong.
    :raises FactoryError: if a factory fails.
    :raises ChannelFailures: if a listener fails to start, what had started
        being stopped; or, at the end, if listeners fail to stop.
    :raises NotStarted: if a listener had the site stopped while it started.
    :raises StopFailed: at the end, if it failed otherwise.
    """
    with _configured(ini, vars, relative_to, configure_logging) as config:
        site = _compose(config, None)
        with _started(site):
            yield ComposedSite(site)


@contextlib.contextmanager
def served(
    ini: Ini,
    vars: Mapping[str, str] | None = None,
    *,
    relative_to: Ini | None = None,
    configure_logging: bool = False,
) -> Generator[ServedSite]:
    """The same with a live server, on a free port of 127.0.0.1.

    It is the one of [server:main], if that is one that stops with the bus
    (waitress, Paste#http, cheroot, CherryPy's, wsgiref), else waitress.

    :raises BindError: if there is no port to be had.
    """
    with _configured(ini, vars, relative_to, configure_logging) as config:
        server = _server(config)
        try:
            server.bind()
            site = _compose(config, server)
            site.bus.subscribe('start', server, site.app)
            with _started(site):
                yield ServedSite(site)
        finally:
            server.close()


def _server(config: Config) -> Server:
    from paste_wspbus.servers import find_adapter

    server = config.known_server(listen=LOOPBACK)
    if server is not None:
        return server
    waitress = find_adapter('waitress:serve_paste')
    assert waitress is not None
    return waitress({'listen_on': LOOPBACK}, config.vars)


# -- composing -------------------------------------------------------------------


@contextlib.contextmanager
def _configured(
    ini: Ini,
    vars: Mapping[str, str] | None,
    relative_to: Ini | None,
    configure_logging: bool,
) -> Generator[Config]:
    """The configuration; modules beside the .ini are found until the block ends."""
    from paste_wspbus.loader import Config

    with contextlib.ExitStack() as stack:
        uri = os.fspath(ini)
        folder = os.getcwd() if relative_to is None else os.fspath(relative_to)
        if '\n' in uri:
            uri = stack.enter_context(_written(uri, relative_to))
        config = Config(uri, vars or {}, folder)
        stack.enter_context(_importable(config.file))
        if configure_logging:
            stack.enter_context(_logging(config))
        yield config


@contextlib.contextmanager
def _written(text: str, folder: Ini | None) -> Generator[str]:
    """The path of a file with this text."""
    from tempfile import NamedTemporaryFile, TemporaryDirectory
    from textwrap import dedent

    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix='wspbus-'))
        with NamedTemporaryFile(
            'w', dir=folder, prefix='site-', suffix='.ini', delete=False
        ) as file:
            stack.callback(os.unlink, file.name)
            file.write(dedent(text))
        yield file.name


#: How many sites need a folder that is in sys.path for their sake alone.
_folders: Counter[str] = Counter()
_changing = threading.RLock()


@contextlib.contextmanager
def _importable(file: str | None) -> Generator[None]:
    """Have modules beside the .ini found, as under the command."""
    from paste_wspbus.loader import site_path

    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
    with _changing:
        ours = folder in _folders or folder not in sys.path
        site_path(file)
        if ours:
            _folders[folder] += 1
    try:
        yield
    finally:
        if ours:
            _forget(folder)


def _forget(folder: str) -> None:
    with _changing:
        _folders[folder] -= 1
        if _folders[folder]:
            return
        del _folders[folder]
        for index in reversed(range(len(sys.path))):
            if sys.path[index] == folder:  # the last: ours was put at the end
                del sys.path[index]
                return


def _compose(config: Config, server: Server | None) -> Site:
    """What the command does, but for what concerns the whole process."""
    from paste_wspbus.hosts import TESTING
    from paste_wspbus.plugins.signals import SignalHandler
    from paste_wspbus.plugins.sitelog import SiteLog
    from paste_wspbus.plugins.threads import ThreadManager

    with _changing:  # PasteDeploy's factories are called one site after another
        bus = config.make_bus()
        bus.host = TESTING
        bus.drain_delay = 0  # nobody balances load here
        # A deadline must not end the process: it is the tests'.
        bus.force_exit = partial(_hurry, bus)  # type: ignore[method-assign]
        bus.plugins['sitelog'] = SiteLog(bus)
        bus.plugins['sitelog'].subscribe()
        # For plugins that look for it; the signals stay whose they are.
        bus.plugins['signals'] = SignalHandler(bus, config.settings['signals'])
        bus.plugins['threads'] = ThreadManager(bus)
        bus.plugins['threads'].subscribe()
        if server is not None:
            server.plug_in(bus)
        return config.compose(bus, server)


def _hurry(bus: Bus, why: str) -> None:
    """In the place of `Bus.force_exit`: skip every wait, and fail at the end."""
    from paste_wspbus.bus import EX_SOFTWARE
    from paste_wspbus.deadlines import call_after, stacks

    bus.exit_code = EX_SOFTWARE
    # The log may wait for a lock that the thread which hangs holds.
    cancel = call_after(2, bus.hurry)
    bus.log(f'{why}; skipping every wait. Stacks:\n{stacks()}', level=50)
    cancel()
    bus.hurry()


# -- starting and stopping ---------------------------------------------------------


@contextlib.contextmanager
def _started(site: Site) -> Generator[None]:
    from paste_wspbus.bus import ChannelFailures, State

    bus = site.bus
    # What requests and timers ask for is this thread's to do, as under the command.
    bus.home = threading.get_ident()
    try:
        bus.start()
        if bus.state is not State.STARTED:
            raise NotStarted(site.file)
    except BaseException:
        with contextlib.suppress(ChannelFailures):  # in the log
            bus.exit()
        raise
    try:
        yield
    finally:
        _leave(bus)


def _leave(bus: Bus) -> None:
    """Stop and exit, and raise what fails, also in a stop that another thread asked for."""
    from paste_wspbus.bus import State

    bus.home = threading.get_ident()
    asked = list(bus._leaving)
    bus.exit()
    bus.wait(State.EXITING)
    with bus._turn:  # another thread may have been in block(), and be at it
        pass
    for request in asked:
        if request.error is not None:
            raise request.error
    if bus.exit_code:
        raise StopFailed(bus.exit_code)


# -- logging -------------------------------------------------------------------------


@contextlib.contextmanager
def _logging(config: Config) -> Generator[None]:
    """Logging as the .ini says, until the block ends; then as it was."""
    import logging

    registry: Any = logging
    before = {logger: _settings_of(logger) for logger in _loggers()}
    references, names = registry._handlerList[:], dict(registry._handlers)
    # fileConfig closes every handler that is there; these are needed again.
    registry._handlerList.clear()
    made: list[Any] = []
    try:
        try:
            config.configure_logging()
        finally:
            made = registry._handlerList[:]
        yield
    finally:
        logging.shutdown(made)  # while somebody refers to them
        for logger in _loggers():
            logger.__dict__.update(before.get(logger) or _untouched())
        others = [one for one in registry._handlerList if one not in made]
        registry._handlerList[:] = references + others
        registry._handlers.update(names)
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]


def _loggers() -> list[Any]:
    import logging

    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]


def _settings_of(logger: Any) -> dict[str, Any]:
    names = ('level', 'propagate', 'disabled')
    kept = {name: getattr(logger, name) for name in names}
    return {**kept, 'handlers': logger.handlers[:]}


def _untouched() -> dict[str, Any]:
    """Of a logger that nobody configured."""
    return {'level': 0, 'propagate': True, 'disabled': False, 'handlers': []}


# -- pytest --------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest's hook: the setting ``wspbus_ini``."""
    parser.addini(
        'wspbus_ini', "the .ini of wspbus_site and wspbus_server, from pytest's rootdir"
    )


def pytest_configure(config: pytest.Config) -> None:
    """pytest's hook: the fixtures."""
    from types import ModuleType

    import pytest

    fixtures: Any = ModuleType('wspbus_fixtures')
    fixtures.wspbus_ini = pytest.fixture(scope='session')(wspbus_ini)
    fixtures.wspbus_vars = pytest.fixture(scope='session')(wspbus_vars)
    fixtures.wspbus_site = pytest.fixture(wspbus_site)
    fixtures.wspbus_server = pytest.fixture(wspbus_server)
    config.pluginmanager.register(fixtures, fixtures.__name__)


def wspbus_ini(pytestconfig: pytest.Config) -> Ini:
    """The .ini, a path or a text, of wspbus_site and wspbus_server: override it."""
    import pytest

    ini = pytestconfig.getini('wspbus_ini')
    if not ini:
        pytest.fail(
            "Which site? Set wspbus_ini in pytest's configuration, or write a "
            'fixture wspbus_ini that returns the path or the text of an .ini',
            pytrace=False,
        )
    return str(pytestconfig.rootpath / ini)


def wspbus_vars() -> dict[str, str]:
    """The vars of wspbus_site and wspbus_server: override it."""
    return {}


def wspbus_site(
    wspbus_ini: Ini, wspbus_vars: Mapping[str, str], tmp_path: Path
) -> Generator[ComposedSite]:
    """A composed site, its bus started: see paste_wspbus.testing.composed."""
    folder = _folder_of(wspbus_ini, tmp_path)
    with composed(wspbus_ini, wspbus_vars, relative_to=folder) as site:
        yield site


def wspbus_server(
    wspbus_ini: Ini, wspbus_vars: Mapping[str, str], tmp_path: Path
) -> Generator[ServedSite]:
    """A site with a live server: see paste_wspbus.testing.served."""
    folder = _folder_of(wspbus_ini, tmp_path)
    with served(wspbus_ini, wspbus_vars, relative_to=folder) as site:
        yield site


def _folder_of(ini: Ini, tmp_path: Path) -> Path | None:
    """A text of a fixture is taken to be in the test's own folder."""
    return tmp_path if '\n' in os.fspath(ini) else None
