"""The runner of one process: it composes the site, starts it, and waits for its end."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading

from paste_wspbus.bus import Bus, ChannelFailures, State, ending
from paste_wspbus.bus.host import WSPSERVE
from paste_wspbus.command.announcing import Announcement
from paste_wspbus.command.defaults import DefaultPlugins
from paste_wspbus.command.leaving import (
    LINGER,
    complain,
    end_at_once,
    limit_handlers,
    run_exit_handlers,
    without,
)
from paste_wspbus.command.site_handlers import contain, postponed
from paste_wspbus.command.terminal import one_line, print_line
from paste_wspbus.errors import NeedError, TooManyFiles, WSPBusError, shortage
from paste_wspbus.exits import DONE, EX_SOFTWARE, FAILED, exit_code_of
from paste_wspbus.ini.config import Site, StartFailed
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.process.early_signals import (
    hold_those_of_other_threads,
    replaces_itself,
)
from paste_wspbus.streams import fill_numbers
from paste_wspbus.unix.holding import hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, NoReturn

    from paste_wspbus.command.smoke import Rehearsal
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

#: Seconds that the threads of a site have to end if a process reloads itself.
RELOAD_JOIN = 1.0


class Single:
    """Runs the site in this process, alone or as a supervisor's worker.

    :param process: the process, which has opened everything.
    """

    def __init__(self, launch: Launch, process: Process) -> None:
        self.launch, self.options, self.process = launch, launch.options, process
        self.defaults = DefaultPlugins(launch, process)
        self.announcement = Announcement(launch, process)
        #: Whether the .ini has set up logging.
        self.is_configured = False

    def run(self) -> int:
        """Compose the site and run it to its end.

        :returns: the exit code.
        :raises WSPBusError: if the site does not start.
        """
        code = FAILED
        try:
            self.launch.loads()
            with self.launch.early.raising():
                site = self.compose_in_role()
            if site is None:
                return DONE
            fill_numbers()  # the site may have closed them while it was loaded
            if self.process.opens_late:
                self._open_late(site.bus)
            if self.launch.early.wish is not None:  # the site has caught the exception
                _exit(site.bus)
                self.launch.early.check()
            code = self._serve(site)
        except WSPBusError as error:
            code = error.exit_code
            if self.process.answers is not None:
                self.process.answers.failure = one_line(error)
            self.show(error)
            raise
        finally:
            self.process.finish(code)
        report = self.launch.report
        if not report.outcome_sent and report.fd is not None:
            from paste_wspbus.ini.exited import EARLY, gave_up

            early = gave_up(site) or WSPBusError(EARLY)
            early.exit_code = code or FAILED
            complain(early, self.launch)
        self.end(code)
        return code

    # -- what `Development` does in another way -------------------------------

    def show(self, error: WSPBusError) -> None:
        """Show in the place of the site why it does not start; this class shows nothing."""

    def end(self, code: int) -> None:
        """End the process at once; in this class, it ends when the command returns."""

    def before_ready(self) -> None:
        """Report what the supervisor must know before READY; this class reports nothing."""

    def plug_in(self, bus: Bus) -> None:
        """Plug in the plugin that reloads the site; this class has none."""

    def compose_in_role(self) -> Site | None:
        """Return the site when it is time to start it.

        :returns: None if the supervisor does not need this process any more.
        """
        worker = self.process.worker
        if worker is None:
            return self.compose()
        if worker.role.kind == 'preload':
            from paste_wspbus.command.preloading import preload

            site = preload(self.compose, worker)
            worker = self.process.worker  # after the fork, it is another object
        else:
            site = self.compose()
        site.bus.drained = self.process.is_drained
        return site if worker is None or worker.waits_to_go() else None

    def _open_late(self, bus: Bus) -> None:
        from paste_wspbus.command.restart import check_not_stopped

        self.launch.early.check()
        check_not_stopped(self.launch)
        self.process.open_late(bus)

    # -- composing ------------------------------------------------------------

    def compose(self) -> Site:
        """Make the bus and its plugins, and load the site."""
        config, options, process = self.process.config, self.options, self.process
        process.follow_link()
        configured = self.is_configured = self._configure_logging()
        bus = config.make_bus()
        bus.host, bus.drained = WSPSERVE, process.is_drained
        self.defaults.plug_in(bus, configured)
        self.plug_in(bus)
        if process.worker is not None and process.worker.runs_plugins:
            site = config.compose_plugins(bus, process.worker.runs_plugins)
        else:
            server = self.make_server(bus)
            server.plug_in(bus)
            site = config.compose(
                bus, server, options.app_name, with_site_plugins=not process.name
            )
        if isinstance(signals := bus.plugins['signals'], SignalHandler):
            signals.look_at_the_site()
        return site

    def _configure_logging(self) -> bool:
        config = self.process.config
        if 'logging' not in config.settings['defaults']:
            return config.configure_logging()
        from paste_wspbus.ini.defaults import replaced

        return replaced(config, 'logging', config.configure_logging)() is not False

    def make_server(self, bus: Bus) -> Server | BlockingServer:
        """Return the server of this process; if wspserve has no adapter for it, make it now."""
        options, process = self.options, self.process
        return process.server or process.config.make_server(
            bus, options.server_name, options.server, options.listen
        )

    # -- running --------------------------------------------------------------

    def _serve(self, site: Site) -> int:
        """Run the site until it has stopped; `paster serve` called ``server(app)`` for this."""
        bus, process = site.bus, self.process
        sitelog = bus.plugins['sitelog']
        with self.defaults.naming('signals'):
            self.launch.early.give_to(bus.plugins['signals'])
        hold(False)  # the site may have blocked signals while it was composed
        if logging.getLogger('paste_wspbus').isEnabledFor(logging.INFO):
            sitelog.quiet = False  # the site wants the lines of the bus in its log
        process.ride(bus)
        bus.before_stop = functools.partial(self.before_stop, bus)
        bus.before_execv = functools.partial(self.before_execv, bus)
        bus.startup_folder = process.folder
        bus.end_process = self.end_without_server
        if 'gevent' in sys.modules or 'eventlet' in sys.modules:
            from paste_wspbus.bus import greenlets

            greenlets.adapt(
                bus, site.server is not None and site.server.passes_connections
            )
        # A request may ask for an exit before this thread is in block().
        bus.turn.keep_for(threading.get_ident())
        self._start(site)
        broken: BaseException | None = None
        try:
            if bus.state is State.STARTED:
                self._announce(site)
            bus.block(states=State.STOPPED)
        except BaseException as error:
            if bus.pid != os.getpid():
                raise  # a listener has forked, and this is the child, which ends
            # Not an interrupt, which block() turns into a stop: a signal handler of the
            # site has raised something else.
            contain(bus)
            broken = error
            is_exit = isinstance(error, SystemExit)
            code = exit_code_of(error) if is_exit else FAILED  # type: ignore[arg-type]
            bus.exit_code = bus.exit_code or code
            if process.worker is not None:
                process.worker.crashes()
            bus.log(
                f'This process stops: {type(error).__name__} in the main thread',
                40,
                True,
            )
        bus.turn.keep_for(threading.get_ident())
        _exit(bus)
        if broken is not None and shortage(broken) is not None:
            raise broken
        return self._leave(bus)

    def _start(self, site: Site) -> None:
        """Start the bus with the server."""
        bus, server, app, process = site.bus, site.server, site.app, self.process
        if process.worker is not None:
            bus.start_timeout = process.worker.time_to_start
            process.worker.limit_stop(bus)
            if process.worker.role.number:
                app = _in_many_processes(app)
        if server is not None:
            bus.subscribe('start', server, app)
        if hasattr(site.app, 'record_first') and hasattr(bus, 'calls'):
            site.app.record_first()
        sitelog = bus.plugins['sitelog']
        # With a server that blocks, start() returns only when the server stops.
        rehearsal = self._rehearse(site)
        if server is not None and server.blocking and not rehearsal:
            announce = functools.partial(self._announce, site)
            bus.subscribe('start', announce, priority=float('inf'))
            sitelog.until_started = False  # if it fails later, one line says it
        with _failing(site):
            bus.start()
            if bus.state is State.STARTED:
                _check_descriptors()
            if rehearsal is not None:
                rehearsal.run(app)
        if not (bus.was_started or self._is_asked_to_stop(bus)):
            from paste_wspbus.ini.exited import gave_up

            if failed := gave_up(site):
                _exit(bus)
                raise failed
        # A signal may come while this thread is printing. With 0, its handler only
        # queues the command, and block() carries it out.
        bus.turn.keep_for(0)
        sitelog.tracebacks = sitelog.reports_failure = True
        sitelog.quiet = False

    def _rehearse(self, site: Site) -> Rehearsal | None:
        """Prepare the requests of warm_up and smoke; return None if there are none."""
        process, settings = self.process, self.process.config.settings
        is_asked_for = settings['warm_up'] or settings['smoke']
        if not is_asked_for or site.server is None or self.options.reload:
            return None
        from paste_wspbus.command.smoke import Rehearsal

        smokes = process.worker is None or process.worker.role.smokes
        announce = functools.partial(self._announce, site)
        logs = self.is_configured or bool(self.process.log_file)
        logs |= self.options.verbosity > 1
        rehearsal = Rehearsal(site, settings, smokes, logs, announce)
        rehearsal.prepare()
        return rehearsal

    def _announce(self, site: Site) -> None:
        """Say that the site serves: from then on, commands find it."""
        with postponed():
            self.process.is_renewed()
            self.process.register(site.bus)
            self.announcement.make(site.server, self.before_ready)
            _import_for_later(site.server)

    # -- leaving --------------------------------------------------------------

    def _is_asked_to_stop(self, bus: Bus) -> bool:
        """Whether a signal, a command or the supervisor may have asked for the stop."""
        answers = self.process.answers
        by_signal = getattr(bus.plugins.get('signals'), 'asked_to_leave', 0)
        by_command = answers is not None and answers.asks_to_stop
        return bool(by_signal or by_command or self.process.is_worker)

    def _leave(self, bus: Bus) -> int:
        process = self.process
        if bus.execv and not process.is_worker:  # 'restart' has no listeners
            bus.replace_process()
        hold(False)
        running = ending.end_threads(bus)
        limit_handlers(bus.deadline.time_for(LINGER))
        if running:
            print_line(without(running), 'stderr')
            process.finish(EX_SOFTWARE)
            process.close()
            end_at_once(EX_SOFTWARE)
        return bus.exit_code

    def end_without_server(self) -> NoReturn:
        """End the process from another thread: the main thread does not leave the server."""
        self.process.finish(EX_SOFTWARE)
        self.process.close()
        end_at_once(EX_SOFTWARE)

    def before_stop(self, bus: Bus) -> None:
        """End a trial of new code; let no handler of the site cut the stop; wait for no debugger."""
        trials = self.process.trials
        if trials is not None and bus.pid == os.getpid():
            trials.cancel()
        contain(bus)
        if 'bdb' in sys.modules:
            from paste_wspbus.command.debugging import hurry_past_prompts

            hurry_past_prompts(bus)

    def before_execv(self, bus: Bus) -> list[int]:
        """End this program.

        :returns: the descriptors that the next program gets.
        """
        process = self.process
        if process.trials is not None:
            process.trials.wait()
        if self.options.reload:
            bus.join_timeout = min(bus.join_timeout, RELOAD_JOIN)
        ending.end_threads(bus)
        hold(True)
        replaces_itself()
        if not process.is_worker:  # a worker gets orders from its supervisor
            hold_those_of_other_threads()
        process.succession.repeat_stop()
        if os.name == 'nt':
            process.close()  # a new process begins, and inherits nothing
            return []
        run_exit_handlers()  # otherwise multiprocessing's children would continue to run
        from paste_wspbus.process.bequeathing import leave_to_next_program

        return leave_to_next_program(process.succession)


@contextlib.contextmanager
def _failing(site: Site) -> Generator[None]:
    """If the start fails, exit the bus, and raise an error with one line on the failure."""
    try:
        yield
    except ChannelFailures as failures:
        _exit(site.bus)
        listener, error = failures.listener or '', failures.get_instances()[0]
        raise StartFailed(site.place_of(listener), listener, error) from error
    except NeedError as error:
        _exit(site.bus)
        from paste_wspbus.ini.needs import in_its_section

        raise in_its_section(site, error) from None
    except WSPBusError:  # no descriptor is free, or a request of smoke has failed
        _exit(site.bus)
        raise
    except SystemExit as error:
        from paste_wspbus.ini.exited import failure_of

        failed = failure_of(site, error)
        _exit(site.bus)
        if failed is None:
            raise
        raise failed from error
    except KeyboardInterrupt:
        _exit(site.bus)
        raise


def _import_for_later(server: object) -> None:
    """Import what later events need, see `ending.import_rest`."""
    ending.import_rest()
    with contextlib.suppress(OSError):
        from paste_wspbus.ops import status  # noqa: F401
        from paste_wspbus.plugins import log_files  # noqa: F401
        from paste_wspbus.process import bequeathing, renewal  # noqa: F401
        from paste_wspbus.servers.server import Server

        if isinstance(server, Server):
            server.requests_in_flight()  # imports for a cut


def _check_descriptors() -> None:
    """Check that the bus will be able to make the pipe that it needs in block().

    :raises TooManyFiles: if no descriptors are free.
    """
    try:
        for fd in os.pipe():
            os.close(fd)
    except OSError as error:
        raise TooManyFiles(error) from None


def _exit(bus: Bus) -> None:
    with contextlib.suppress(ChannelFailures):  # see the log, and bus.exit_code
        bus.exit()


def _in_many_processes(app: Any) -> Any:
    """Set wsgi.multiprocess (PEP 3333): no server knows that it is one of several."""

    def multiprocess(environ: dict[str, Any], start_response: Any) -> Any:
        environ['wsgi.multiprocess'] = True
        return app(environ, start_response)

    return multiprocess
