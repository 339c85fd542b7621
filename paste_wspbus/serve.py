"""The command: ``wspserve CONFIG_FILE [var=value …]``, in the place of ``paster serve``."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading

from paste_wspbus.arguments import Options, parse
from paste_wspbus.bus import EX_SOFTWARE, Bus, ChannelFailures, State
from paste_wspbus.errors import TimedOut, UsageError, WSPBusError
from paste_wspbus.loader import Config, Site, Terminated, one_line, site_path
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
from paste_wspbus.servers import BlockingServer, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

#: 128 + SIGTERM, as a shell reports it.
TERMINATED = 128 + signal.SIGTERM
#: 128 + SIGINT.
INTERRUPTED = 128 + signal.SIGINT


def main(argv: list[str] | None = None, prog: str = 'wspserve') -> int:
    """Run the command.

    :param argv: the arguments, without the program's name; sys.argv's if None.
    :returns: the exit code: 0 clean stop, 1 the site failed to start or
        stopped with failures, 2 usage or configuration, 143 SIGTERM before
        the site was composed. 70, forced out, does not return.
    """
    options: Options | None = None
    try:
        with _sigterm_raises():
            options = parse(sys.argv[1:] if argv is None else argv, prog)
            return _run(options)
    except WSPBusError as error:
        return _complain(error, options)
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: WSPBusError, options: Options | None) -> int:
    verbose = options is not None and options.verbosity > 1
    if verbose:
        import traceback

        traceback.print_exception(error)
    line = ' '.join(str(error).split('\n'))
    with contextlib.suppress(FileNotFoundError):
        line = line.replace(os.getcwd() + os.sep, '')
    if error.__cause__ is not None and not verbose:
        line += ' (-v shows the traceback)'
    print(line, file=sys.stderr, flush=True)
    if options is not None and options.terminal is not None:
        os.write(options.terminal, f'{line}\n'.encode())
    return error.exit_code


@contextlib.contextmanager
def _sigterm_raises() -> Generator[None]:
    """SIGTERM ends the composition, with the clean-up that an exception gets."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(signum: int, frame: object) -> None:
        raise Terminated(TERMINATED)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: Options) -> int:
    if options.version:
        from importlib.metadata import version

        print(f'paste_wspbus {version("paste_wspbus")}')
        return 0
    config = Config(options.config, options.vars, os.getcwd())
    site_path(config.file)
    if options.check:
        return _check(config, options)
    if options.log_file:
        options.terminal = _redirect_output(options.log_file)
    site = _compose(config, options)
    return _serve(site, options.verbosity)


def _check(config: Config, options: Options) -> int:
    from paste_wspbus.checking import check  # serving has no use for it

    warnings = check(config, options.server_name, options.app_name)
    for warning in warnings:
        print(f'{options.config}: warning: {warning}')
    print(
        f'{options.config}: {"no mistakes found" if not warnings else "can be served"}'
    )
    return 0


def _redirect_output(path: str) -> int:
    """Have stdout and stderr, of the process and not of Python alone, appended to a file.

    :returns: a copy of what stderr was.
    """
    try:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f'--log-file {path}: {error.strerror}') from None
    terminal = os.dup(2)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        os.dup2(log, number)
    os.close(log)
    return terminal


def _compose(config: Config, options: Options) -> Site:
    bus: Bus | None = None
    try:
        configured = config.configure_logging()
        bus = config.make_bus()
        _plug_in(bus, config, options.verbosity, configured)
        server = config.make_server(
            bus, options.server_name, options.server, options.listen
        )
        return config.compose(bus, server, options.app_name)
    except BaseException:
        if bus is not None and 'server' in bus.plugins:
            bus.plugins['server'].close()
        raise


def _plug_in(bus: Bus, config: Config, verbosity: int, configured: bool) -> None:
    """The default plugins; a site finds them in ``bus.plugins``."""
    if not configured:
        level = logging.INFO if verbosity > 1 else logging.WARNING
        logging.basicConfig(
            level=level, format='%(levelname)-5.5s [%(name)s] %(message)s'
        )
    sitelog = bus.plugins['sitelog'] = SiteLog(bus)
    # While the site starts, the command tells of a failure itself.
    sitelog.tracebacks = verbosity > 1
    sitelog.quiet = not configured and verbosity <= 1
    sitelog.subscribe()
    bus.plugins['signals'] = SignalHandler(bus, config.settings['signals'])


class StartFailed(WSPBusError):
    """A 'start' listener failed: ``place``, the file and section it came from."""

    def __init__(self, place: str, listener: str, error: BaseException) -> None:
        if isinstance(error, TimedOut):
            what = f'{listener} did not start within {round(error.seconds, 1):g} s'
        elif isinstance(error, WSPBusError):
            what = str(error)
        else:
            what = f'{listener} failed: {one_line(error)}'
        super().__init__(f'{place}: {what}')
        self.place, self.listener, self.error = place, listener, error


def _serve(site: Site, verbosity: int) -> int:
    """Run the site: what `paster serve` did by ``server(app)``."""
    bus, server, app = site.bus, site.server, site.app
    signals, sitelog = bus.plugins['signals'], bus.plugins['sitelog']
    signals.subscribe()
    try:
        # A request can come, and ask for an exit, before this thread is in block().
        bus.home = threading.get_ident()
        bus.subscribe('start', server, app)
        if isinstance(server, BlockingServer):  # start() returns when it stops
            _announce(server, verbosity)
        with _failing(site):
            bus.start()
        sitelog.tracebacks, sitelog.quiet = True, False
        if bus.state is State.STARTED:
            _announce(server, verbosity)
        bus.block(states=State.STOPPED)
        _exit(bus)
        return _leave(bus)
    finally:
        signals.unsubscribe()


@contextlib.contextmanager
def _failing(site: Site) -> Generator[None]:
    """If the start fails: exit, and say in one line what failed."""
    try:
        yield
    except ChannelFailures as failures:
        _exit(site.bus)
        listener, error = failures.listener or '', failures.get_instances()[0]
        raise StartFailed(site.place_of(listener), listener, error) from error
    except (KeyboardInterrupt, SystemExit):
        _exit(site.bus)
        raise


def _exit(bus: Bus) -> None:
    with contextlib.suppress(ChannelFailures):  # in the log, and in bus.exit_code
        bus.exit()


def _announce(server: Server | BlockingServer, verbosity: int) -> None:
    if verbosity > 0:
        print(f'Starting server in PID {os.getpid()}.')
        for url in server.urls:
            print(f'Serving on {url}')
        sys.stdout.flush()


def _leave(bus: Bus) -> int:
    if bus.execv:
        bus._do_execv()
    if bus.join_threads():
        print('Threads are left that do not end; leaving without them', file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(EX_SOFTWARE)
    return bus.exit_code


if __name__ == '__main__':
    sys.exit(main())
