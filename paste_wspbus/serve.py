"""The command: ``wspserve CONFIG_FILE [var=value …]``, in the place of ``paster serve``."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import io
import logging
import os
import signal
import socket
import sys
import threading
import time

from paste_wspbus.arguments import Options, parse
from paste_wspbus.bus import EX_SOFTWARE, Bus, ChannelFailures, State
from paste_wspbus.deadlines import call_after
from paste_wspbus.errors import ConfigError, SettingError, UsageError, WSPBusError
from paste_wspbus.hosts import WSPSERVE
from paste_wspbus.inheritance import Inheritance
from paste_wspbus.loader import SERVER, Config, Site, StartFailed, Terminated, site_path
from paste_wspbus.plugins import Plugin, restart
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
from paste_wspbus.plugins.threads import ThreadManager
from paste_wspbus.process import Process, abandon
from paste_wspbus.report import Report
from paste_wspbus.servers import BlockingServer, Server
from paste_wspbus.settings import working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any, NoReturn, TextIO

    from paste_wspbus.supervisor import (
        Configuration,
        Plan,
        Supervisor,
        SupervisorBus,
    )

#: 128 + SIGTERM, as a shell reports it.
TERMINATED = 128 + signal.SIGTERM
#: 128 + SIGINT.
INTERRUPTED = 128 + signal.SIGINT


def main(
    argv: list[str] | None = None,
    prog: str = 'wspserve',
    make_process: Callable[[Config, Options, Inheritance], Process] = Process,
) -> int:
    """Run the command.

    :param argv: the arguments, without the program's name; sys.argv's if None.
    :param make_process: makes the `Process`; a host's may add to it.
    :returns: the exit code: 0 clean stop, 1 the site failed to start or
        stopped with failures, 2 usage or configuration, 143 SIGTERM before
        the site was composed; of `status` those of LSB; of `stop` 3 if the
        site does not die. 70, forced out, does not return.
    """
    options: Options | None = None
    _open_standard_streams()
    try:
        with _handling_signals() as early:
            options = parse(sys.argv[1:] if argv is None else argv, prog)
            options.report, options.early = Report(), early
            return _run(options, make_process)
    except WSPBusError as error:
        return _complain(error, options)
    except Terminated:
        return _left(TERMINATED, options)
    except KeyboardInterrupt:
        return _left(INTERRUPTED, options)
    finally:
        _flush()


#: Seconds that atexit handlers have, after the site has stopped.
LINGER = 10.0


def limit_the_end() -> None:
    """For a process that ends with the command: it does, whatever the site left running.

    multiprocessing waits, by atexit, for child processes without end.
    """

    def leave() -> None:
        multiprocessing = sys.modules.get('multiprocessing')
        children = multiprocessing.active_children() if multiprocessing else []
        names = ', '.join(f'{child.name} (process {child.pid})' for child in children)
        what = (
            f'child processes do not end: {names}' if names else 'atexit handlers hang'
        )
        _print(f'The site has stopped, but {what}; leaving without them', sys.stderr)
        os._exit(EX_SOFTWARE)

    call_after(LINGER, leave)


def _open_standard_streams() -> None:
    """Where one is closed, a pipe or socket of ours would get its number, and be written to."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, fd in (('stdout', 1), ('stderr', 2)):
        if getattr(sys, name) is None:  # a log file may take its place
            file = io.FileIO(fd, 'w', closefd=False)
            stream = io.TextIOWrapper(io.BufferedWriter(file), line_buffering=True)
            setattr(sys, name, stream)


def _print(text: str, stream: TextIO | None = None) -> None:
    """Print, unless nobody reads it, or the disk is full: no reason to end a site."""
    with contextlib.suppress(OSError, ValueError):
        out = stream or sys.stdout
        out.write(f'{text}\n')  # at once, for other processes write there, too
        out.flush()


def _flush() -> None:
    """What cannot be written now cannot be when the interpreter ends: no error then."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except ValueError:
            pass  # closed


def _complain(error: WSPBusError, options: Options | None) -> int:
    verbose = options is not None and (options.verbosity > 1 or options.later)
    if options is not None and options.reload and options.report.told:
        return error.exit_code  # the supervisor shows it
    if verbose:
        import traceback

        traceback.print_exception(error)
    line = _told(error)
    supervised = options is not None and options.report.lasting
    if options is not None and options.took_over and not supervised:
        line += '; the old site has stopped'
    if error.__cause__ is not None and not verbose:
        line += ' (-v shows the traceback)'
    told_by_others = options is not None and _is_told_by_others(options)
    if not told_by_others:
        _print(line, sys.stderr)
    if options is not None and options.terminal is not None and not told_by_others:
        with contextlib.suppress(OSError):
            os.write(options.terminal, f'{line}\n'.encode())
    return _left(error.exit_code, options, line)


def _told(error: WSPBusError) -> str:
    line = ' '.join(str(error).split('\n'))
    with contextlib.suppress(FileNotFoundError):
        line = line.replace(os.getcwd() + os.sep, '')
    return line


def _is_told_by_others(options: Options) -> bool:
    """Whether whoever gets the report prints it: the launcher on its stderr, a supervisor."""
    report = options.report
    launched = options.daemon and not options.logs and report.fd is not None
    return launched or (report.lasting and report.fd is not None)


def _left(code: int, options: Options | None, line: str = '') -> int:
    """Whoever waits for this start gets to know why it comes to nothing."""
    if options is not None:
        options.report.failed(code, line)
    return code


#: What else an operator may send to a site that is not composed yet.
_LATER = [
    getattr(signal, name)
    for name in ('SIGHUP', 'SIGUSR1', 'SIGUSR2')
    if hasattr(signal, name)
]


@contextlib.contextmanager
def _handling_signals() -> Generator[list[int]]:
    """Signals until the site has its own handlers.

    SIGTERM ends the composition, with the clean-up that an exception gets;
    so does SIGHUP if a terminal sends it. The others are kept for later: by
    themselves they would kill the process.
    """
    early: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield early
        return

    told_to_stop = False

    def terminate(signum: int, frame: object) -> None:
        nonlocal told_to_stop
        if not told_to_stop:  # it may come twice; what cleans up is not to be disturbed
            told_to_stop = True
            early.append(signum)
            raise Terminated(TERMINATED)

    def keep(signum: int, frame: object) -> None:
        if signum == getattr(signal, 'SIGHUP', None) and _has_terminal():
            raise Terminated(128 + signum)
        early.append(signum)

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    for number in _LATER:
        if signal.getsignal(number) is signal.SIG_DFL:
            previous[number] = signal.signal(number, keep)
    _hold_signals(False)  # the program before this one held them over execv
    try:
        yield early
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _hold_signals(hold: bool) -> None:
    """Have signals wait (also over execv, sigprocmask(2)), or wait no longer."""
    if hasattr(signal, 'pthread_sigmask'):
        how = signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, [signal.SIGTERM, signal.SIGINT, *_LATER])


def _hold_those_of_other_threads() -> None:
    """A signal that another thread gets is held by this one, for the next program."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, 'pthread_kill'):
        return
    here = threading.get_ident()
    for number in [signal.SIGTERM, signal.SIGINT, *_LATER]:
        if callable(signal.getsignal(number)):
            signal.signal(number, lambda number, _: signal.pthread_kill(here, number))


def _run(options: Options, make_process: Callable[..., Process]) -> int:
    if options.version:
        from importlib.metadata import version

        print(f'paste_wspbus {version("paste_wspbus")}')
        return 0
    if options.subcommand in ('status', 'stop', 'graceful'):
        return _run_subcommand(options, options.subcommand)
    inheritance = Inheritance.from_environ(os.environ)
    if inheritance.worker is not None:
        connection = os.dup(inheritance.worker[0])
        options.report = Report(connection, lasting=True)
    config = _read(options, inheritance)
    if options.check:
        return _check(config, options)
    if inheritance.report is not None:
        options.report = Report(inheritance.report)
    settings = None
    if inheritance.worker is None:
        settings = _hand_over_settings(config, options)
        if options.daemon and not inheritance.daemon:
            _daemonize(options)
    process = make_process(config, options, inheritance)
    try:
        if inheritance.worker is not None:
            return _work(process, *inheritance.worker)
        return _own(process, settings)
    finally:
        process.close()


def _run_subcommand(options: Options, name: str) -> int:
    from paste_wspbus import subcommands

    run = subcommands.SUBCOMMANDS[name]
    if options.verbosity > 0:
        return run(options)
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
        return run(options)


def _read(options: Options, inheritance: Inheritance) -> Config:
    """Read the .ini; if that fails, what was inherited is not to be left behind."""
    if options.reload:
        _watch_file(options)
    try:
        config = Config(options.config, options.vars, working_folder())
        site_path(config.file)
        if options.reload:
            _watch_more(options, config)
    except WSPBusError:
        abandon(inheritance, options.pid_file)
        raise
    return config


def _own(process: Process, settings: dict[str, Any] | None) -> int:
    """Have the process, and run the site, or what does.

    :param settings: of a server that does it in this command's place; None: no such.
    """
    try:
        process.open()
    except WSPBusError as error:
        if process.options.subcommand != 'start':
            raise
        return _runs_already(error, process, asks=settings is None)
    if settings is not None:
        from paste_wspbus.hosts.handover import hand_over

        return hand_over(process, settings)
    if process.is_supervised:
        code = _supervise(process)
        if code is not None:
            return code
    return _run_site(process)


def _hand_over_settings(config: Config, options: Options) -> dict[str, Any] | None:
    """What a server that owns its process is to do in this command's place; None: no such."""
    factory = config.loader.factory_name(SERVER, options.server_name) or ''
    if not factory.startswith('gunicorn.'):
        return None
    from paste_wspbus.hosts.handover import settings_for

    return settings_for(config, options)


def _watch_file(options: Options) -> None:
    """Note what the .ini is, before it is read."""
    from paste_wspbus.sources import Files

    options.files = Files()
    options.files.add(options.config.removeprefix('config:').partition('#')[0])


def _watch_more(options: Options, config: Config) -> None:
    """Note what else the .ini is made of, and what its [pserve] asks for."""
    from paste_wspbus.pserve import reload_settings
    from paste_wspbus.sources import Files

    assert options.files is not None
    before, here = options.files.news(), os.path.dirname(config.file or '')
    try:
        settings = reload_settings(config.section('pserve'), here)
    except SettingError as error:
        raise ConfigError(
            config.file, error.problem, section='pserve', key=error.key
        ) from None
    options.ignore, options.files = settings.ignore, Files(settings.ignore)
    options.files.merge(before)
    for path in [*config.files, *settings.watch]:
        options.files.add(path)


def _work(process: Process, connection: int, role: list[Any]) -> int:
    """Do a supervisor's work, in an interpreter of its own."""
    from paste_wspbus.worker import Role

    process.open_as_worker(socket.socket(fileno=connection), Role(*role))
    return _run_site(process)


def _daemonize(options: Options) -> None:
    from paste_wspbus.plugins.daemon import daemonize, wait_for_start

    if os.getpid() == 1:
        raise UsageError(
            'process 1 cannot become a daemon: with it, all others end; '
            'leave out start and --daemon'
        )
    # The daemon may not be allowed to, once it is another user.
    clean_up = functools.partial(_clean_up, str(options.pid_file))
    options.report = daemonize(functools.partial(wait_for_start, clean_up=clean_up))


def _clean_up(pid_file: str) -> None:
    from paste_wspbus.plugins.pidfile import PIDLock
    from paste_wspbus.stopping import clean_up

    clean_up(PIDLock(pid_file))


def _runs_already(error: WSPBusError, process: Process, asks: bool) -> int:
    """`start` of what runs: 0, saying so, once it is known that it runs."""
    from paste_wspbus.plugins.pidfile import AlreadyRunning, PIDLock
    from paste_wspbus.subcommands import wait_for_other_start

    if not isinstance(error, AlreadyRunning):
        raise error
    patience = process.config.settings['start_timeout']
    line = f'The site is running already (process {error.pid}).'
    if asks:
        line = wait_for_other_start(PIDLock(error.path), patience)
    options = process.options
    options.report.ready([line] if options.verbosity > 0 else [])
    return 0


def _check(config: Config, options: Options) -> int:
    from paste_wspbus.checking import check  # serving has no use for it

    warnings = check(config, options.server_name, options.app_name, options.listen)
    for warning in warnings:
        print(f'{options.config}: warning: {warning}')
    print(
        f'{options.config}: {"no mistakes found" if not warnings else "can be served"}'
    )
    return 0


def _compose(process: Process) -> Site:
    config, options = process.config, process.options
    configured = config.configure_logging()
    bus = config.make_bus()
    bus.host = WSPSERVE
    _plug_in(bus, process, configured)
    if options.learner is not None:
        options.learner.ride(bus)
    elif options.reload:
        _plug_in_autoreloader(bus, process)
    if process.runs_site_plugins:
        return config.compose_site_plugins(bus)
    server: Server | BlockingServer | None = process.server
    if server is None:
        server = config.make_server(
            bus, options.server_name, options.server, options.listen
        )
    server.plug_in(bus)
    return config.compose(
        bus, server, options.app_name, with_site_plugins=not process.name
    )


def _plug_in(bus: Bus, process: Process, configured: bool) -> None:
    """The default plugins; a site finds them in ``bus.plugins``."""
    verbosity = process.options.verbosity
    sitelog = _log_to_logging(bus, process, configured)
    # While the site starts, the command tells of a failure itself.
    sitelog.tracebacks = verbosity > 1
    first = process.options.reload or not process.options.later
    sitelog.quiet = first and not configured and verbosity <= 1
    handler = process.signal_handler
    bus.plugins['signals'] = handler(bus, process.config.settings['signals'])
    threads = bus.plugins['threads'] = ThreadManager(bus)
    threads.subscribe()
    process.plug_in(bus)
    restarter = bus.plugins['restart'] = _restarter(bus, process)
    restarter.subscribe()
    _tell_systemd(bus)


def _restarter(bus: Bus, process: Process) -> Plugin:
    if process.is_worker and not process.options.reload:
        return restart.GracefulRestarter(bus, lambda: process.options.report.renew())
    styles = {
        'execv': restart.ExecvRestarter,
        'child': restart.ChildRestarter,
        'fork': restart.ForkRestarter,
    }
    return styles[process.restarter if process.is_worker else 'execv'](bus)


def _tell_systemd(bus: Bus) -> None:
    if 'NOTIFY_SOCKET' not in os.environ:
        return
    from paste_wspbus.plugins.systemd import SystemdNotifier

    notifier = bus.plugins['systemd'] = SystemdNotifier(bus)
    notifier.subscribe()


def _log_to_logging(bus: Bus, process: Process, configured: bool) -> SiteLog:
    if not configured:
        level = logging.INFO if process.options.verbosity > 1 else logging.WARNING
        parts = ['%(asctime)s'] if process.log_file else []  # a terminal's needs none
        parts += ['%(levelname)-5.5s']
        parts += ['[%(processName)s]'] if process.name else []
        parts += ['[%(name)s] %(message)s']
        # A worker's root logger has the supervisor's handler.
        force = bool(process.name)
        logging.basicConfig(level=level, format=' '.join(parts), force=force)
    sitelog = bus.plugins['sitelog'] = SiteLog(bus)
    if process.name:
        sitelog.name(process.name)
    if process.log_file is not None:
        sitelog.files.append((process.log_file, (1, 2)))
    sitelog.subscribe()
    for note in process.notes:
        bus.log(note, 30)
    process.notes.clear()
    return sitelog


#: Seconds after which a server that is not known is taken to serve.
BINDING = 0.5


def _run_site(process: Process) -> int:
    """Compose the site and run it to its end; its exit code."""
    code = 1
    try:
        site = _compose_in_role(process)
        if site is None:
            return 0
        if process.was_told_to_stop:  # and the site's code swallowed that
            _exit(site.bus)
            raise Terminated(TERMINATED)
        code = _serve(site, process)
    except WSPBusError as error:
        code = error.exit_code
        if process.options.reload:
            _tell_problem(process, error)
        raise
    finally:
        process.finish(code)
    report = process.options.report
    if not report.told and report.fd is not None:
        report.failed(code or 1, 'The site stopped before it was started.')
    if process.is_worker and process.options.reload:
        # Waits for threads, as the interpreter's end would.
        threading._shutdown()  # type: ignore[attr-defined]
        _end_at_once(code)
    return code


def _tell_problem(process: Process, error: WSPBusError) -> None:
    """Have the traceback served in the place of the site."""
    from paste_wspbus.errorpage import problem_of, trace_of

    options, (trace, file), line = process.options, trace_of(error), _told(error)
    problem = problem_of(error, line)
    if process.is_worker:
        if options.learner is not None:
            options.learner.tell(options.report)
        options.report.failed(error.exit_code, line, trace, file, problem)
    elif process.problem is None:
        _print(f'{trace}{line}', sys.stderr)
        process.problem = problem, _own_files(process)
        process.reload = process.inheritance.reload
        process.bequeath()
        bus = Bus()
        bus.before_execv = functools.partial(_before_execv, process)
        bus._do_execv()


def _own_files(process: Process) -> dict[str, Any]:
    """The files that may be to blame, each as it was when it was read."""
    from paste_wspbus.sources import is_installed

    if process.autoreloader is None:
        return {}
    learnt = process.autoreloader.learnt.signatures.items()
    return {path: was for path, was in learnt if not is_installed(path)}


def _compose_in_role(process: Process) -> Site | None:
    """The site, when it is time to start it; None if a supervisor has no use for it."""
    if process.options.reload:
        return _compose_for_development(process)
    role = process.role
    if role is None:
        return _compose(process)
    if role.kind != 'preload':
        site = _compose(process)
        return site if process.waits_for_the_word() else None
    gc.disable()  # what it would move about, the workers share
    site = _compose(process)
    _warn_of_threads(site.bus)
    if not process.fork_workers(site.bus):
        _end_at_once(0)
    gc.enable()
    return site


def _compose_for_development(process: Process) -> Site | None:
    from paste_wspbus.learning import Learner
    from paste_wspbus.packages import own_memory

    options, role = process.options, process.role
    if role is None:
        return (
            _show(process, process.problem[0]) if process.problem else _compose(process)
        )
    if role.problem:
        return _show(process, role.problem)
    options.learner = Learner()
    is_forked = role.kind == 'packages'
    if is_forked and not process.fork_from_packages():
        _end_at_once(0)
    is_spare = process.role is not None and process.role.spare
    if is_spare:
        own_memory()
        if not process.waits_for_the_word():
            return None
    if is_forked and options.files is not None and options.files.changed():
        process.reconfigure()  # the .ini was read by the process that has forked it
    for path in process.config.files:
        options.learner.files.add(path)
    site = _compose(process)
    return site if is_spare or process.waits_for_the_word() else None


def _plug_in_autoreloader(bus: Bus, process: Process) -> None:
    """For a process that reloads itself."""
    from paste_wspbus.plugins.autoreload import Autoreloader
    from paste_wspbus.reloading import QUIET
    from paste_wspbus.watching import what_changed

    class Reloader(Autoreloader):
        def react(self, paths: list[str]) -> None:
            since = time.monotonic()
            try:  # the next program begins with it, and has nothing to show instead
                Config(options.config, options.vars, process.folder)
            except WSPBusError as error:
                why = (
                    f'{what_changed(paths)}: cannot be read, the site goes on as it is'
                )
                _print(f'{_told(error)}\n{why}', sys.stderr)
                return
            if self.bus.is_told_to_leave:  # meanwhile
                return
            process.reload, process.problem = (what_changed(paths), since), None
            self.bus.restart()

        def warn(self, line: str) -> None:
            # Once, not after each reload; the log is quiet while the site starts.
            if options.verbosity > 0 and not process.inheritance.reload:
                _print(line, sys.stderr)

    options = process.options
    assert options.files is not None
    files = {**options.files.signatures}
    if process.problem:
        for path, was in process.problem[1].items():
            files[path] = was and tuple(was)
    reloader = Reloader(
        bus, options.reload_interval, files=files, ignore=options.ignore, quiet=QUIET
    )
    bus.plugins['autoreload'] = process.autoreloader = reloader
    reloader.subscribe()


def _show(process: Process, problem: str) -> Site:
    """What is served in the place of a site that does not start."""
    from paste_wspbus.errorpage import make_app

    bus = Bus()
    bus.host = WSPSERVE
    _plug_in(bus, process, configured=False)
    if not process.is_worker:
        _plug_in_autoreloader(bus, process)
    options, config = process.options, process.config
    server = process.server or config.make_server(
        bus, options.server_name, options.server, options.listen
    )
    server.plug_in(bus)
    site = Site(config.file, bus, server)
    site.app = make_app(problem)
    return site


def _end_at_once(code: int) -> NoReturn:
    """Leave, with the handlers of atexit, but without the threads that the site has started.

    And without taking apart all that was imported, which costs as much as a reload.
    """
    limit_the_end()
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def _warn_of_threads(bus: Bus) -> None:
    names = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]
    sitelog = bus.plugins['sitelog']
    quiet, sitelog.quiet = sitelog.quiet, False
    if names:
        bus.log(
            'preload: the site has started threads while it was composed, which its '
            f'workers will not have: {", ".join(names)}',
            30,
        )
    sitelog.quiet = quiet


def _serve(site: Site, process: Process) -> int:
    """Run the site: what `paster serve` did by ``server(app)``."""
    bus, server, app = site.bus, site.server, site.app
    signals, sitelog = bus.plugins['signals'], bus.plugins['sitelog']
    announce = functools.partial(_announce, server, process)
    signals.subscribe()
    _hold_signals(False)  # whatever the site has had blocked
    if logging.getLogger('paste_wspbus').isEnabledFor(logging.INFO):
        sitelog.quiet = False  # the site has set up its log by itself
    process.ride(bus)
    bus.before_execv = functools.partial(_before_execv, process)
    if process.role is not None:
        bus.start_timeout = process.time_to_start
        if process.role.number:
            app = _in_many_processes(app)
    try:
        # A request can come, and ask for an exit, before this thread is in block().
        bus.home = threading.get_ident()
        if server is not None:
            bus.subscribe('start', server, app)
        if isinstance(server, BlockingServer):  # start() returns when it stops
            bus.subscribe('start', announce, priority=float('inf'))
        with _failing(site):
            bus.start()
        sitelog.tracebacks, sitelog.quiet = True, False
        if bus.state is State.STARTED:
            announce()
        bus.block(states=State.STOPPED)
        _exit(bus)
        return _leave(bus, process)
    finally:
        signals.unsubscribe()


def _in_many_processes(app: Any) -> Any:
    """No server knows that it is one of several: wsgi.multiprocess (PEP 3333)."""

    def multiprocess(environ: dict[str, Any], start_response: Any) -> Any:
        environ['wsgi.multiprocess'] = True
        return app(environ, start_response)

    return multiprocess


def _repeat_early(options: Options) -> None:
    """Signals that came before there was a handler for them."""
    while options.early:
        os.kill(os.getpid(), options.early.pop(0))


@contextlib.contextmanager
def _failing(site: Site) -> Generator[None]:
    """If the start fails: exit, and say in one line what failed."""
    try:
        yield
    except ChannelFailures as failures:
        _exit(site.bus)
        listener, error = failures.listener or '', failures.get_instances()[0]
        raise StartFailed(site.place_of(listener), listener, error) from error
    except SystemExit as left:
        failed = site.failure_of(left)
        _exit(site.bus)
        if failed is None:
            raise
        raise failed from left
    except KeyboardInterrupt:
        _exit(site.bus)
        raise


def _exit(bus: Bus) -> None:
    with contextlib.suppress(ChannelFailures):  # in the log, and in bus.exit_code
        bus.exit()


def _announce(server: Server | BlockingServer | None, process: Process) -> None:
    """The site is STARTED: tell the terminal, and whoever waits for it."""
    options, report = process.options, process.options.report
    lines = _what_to_tell(server, process)
    process.announced = True

    def ready() -> None:
        if options.learner is not None:
            options.learner.tell(report)
        report.ready(lines)

    if isinstance(server, BlockingServer) and report.fd is not None:
        # It binds by itself, and may fail to: then it does not run that long.
        call_after(BINDING, ready)
    else:  # first, for who reads the lines may end this process at once
        ready()
    if lines:
        _print('\n'.join(lines))
    _repeat_early(options)


def _what_to_tell(
    server: Server | BlockingServer | None, process: Process
) -> list[str]:
    """The lines for the terminal; those of a process that was reloaded go there at once."""
    options = process.options
    # Of the program, not of a worker that it has begotten.
    reloaded = process.inheritance.reload if process.role is None else None
    if reloaded and options.verbosity > 0:
        _print(_reloaded(*reloaded, served=not process.problem), sys.stderr)
    stays = process.server is None or process.server.where == process.inheritance.where
    if (reloaded and stays) or (options.reload and options.later):
        return []  # or the supervisor tells
    if server is None or process.name:  # of several, the supervisor tells
        return []
    if process.role is None and (url := _url_to_show(process)):
        import webbrowser

        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
    return _lines(server.urls, options)


def _reloaded(why: str, since: float, served: bool) -> str:
    took = (time.monotonic() - since) * 1000
    return f'{why}: {f"reloaded in {took:.0f} ms" if served else "cannot be served"}'


def _url_to_show(process: Process) -> str | None:
    """With --browser: what [pserve] open_url says, or the site."""
    if not process.options.browser:
        return None
    urls = process.server.urls if process.server is not None else []
    url = process.config.section('pserve').get('open_url') or next(iter(urls), None)
    if url is None:
        _print('--browser: which URL? Set open_url in [pserve]', sys.stderr)
    return url


def _lines(urls: Iterable[str], options: Options) -> list[str]:
    if options.verbosity <= 0:
        return []
    lines = [f'Starting server in PID {os.getpid()}.']
    return lines + [f'Serving on {url}' for url in urls]


def _before_execv(process: Process) -> list[int]:
    """The end of this program; the descriptors that the next one gets."""
    _hold_signals(True)
    if not process.is_worker:  # that hears its supervisor
        _hold_those_of_other_threads()
    process.repeat_stop()
    if os.name == 'nt':
        process.close()  # a new process begins, and inherits nothing
        return []
    # execv(2) runs none: multiprocessing's children would live on.
    limit_the_end()
    atexit._run_exitfuncs()
    return process.leave_to_next_program()


def _leave(bus: Bus, process: Process) -> int:
    if bus.execv and not process.is_worker:  # nobody listens to 'restart'
        bus._do_execv()
    _hold_signals(False)
    if bus.join_threads():
        _print('Threads are left that do not end; leaving without them', sys.stderr)
        process.finish(EX_SOFTWARE)
        process.close()
        _flush()
        os._exit(EX_SOFTWARE)
    return bus.exit_code


def _supervise(process: Process) -> int | None:
    """Have other processes run the site, and look after them.

    :returns: the exit code; in a child, which is to do its part, None.
    """
    from paste_wspbus import supervisor as supervision
    from paste_wspbus.children import BecomeWorker

    bus = supervision.SupervisorBus()
    supervisor = _make_supervisor(bus, process)
    bus.plugins['supervisor'] = supervisor
    sitelog = _log_to_logging(bus, process, configured=False)
    # A failure of the first start is told in one line.
    sitelog.quiet = process.options.verbosity <= 1
    _prepare(bus, process, supervisor)
    code = 1
    try:
        code = supervisor.run(lambda lines: _supervised(supervisor, process, lines))
        process.options.report.failed(code or 1)  # unless it was ready, and said so
        return code
    except BecomeWorker as became:
        child = became
        connection, role = child.connection, child.role
    except WSPBusError as error:
        code = error.exit_code
        raise
    finally:
        bus.plugins['signals'].unsubscribe()
        if bus._pid == os.getpid():
            process.finish(code)
    supervisor.close_in_child()
    if child.fresh:
        _hold_signals(True)
        process.start_afresh(bus, connection, role)
    process.become(connection, role)
    return None


def _make_supervisor(bus: SupervisorBus, process: Process) -> Supervisor:
    from paste_wspbus.supervisor import Supervisor

    def configure() -> Configuration:
        return _configure_anew(process, bus, bus.supervisor.plan)

    plan, server, options = _plan(process), process.server, process.options
    if not options.reload:
        fresh = process.restarter == 'child'
        return Supervisor(bus, plan, server, configure, fresh=fresh)
    from paste_wspbus.reloading import Reloading, ReloadingSupervisor

    assert options.files is not None

    def show(text: str) -> None:
        if options.verbosity > 0:
            _print(text, sys.stderr)

    bus.listeners.setdefault('changed', set())
    bus.subscribe('changed', lambda paths: process.tell_of_where(paths, show))
    reloading = Reloading(
        process.restarter, options.files, options.reload_interval, show
    )
    return ReloadingSupervisor(bus, plan, server, configure, reloading)


def _prepare(bus: SupervisorBus, process: Process, supervisor: Supervisor) -> None:
    from paste_wspbus.supervisor import SIGNALS

    table = process.config.settings['signals']
    signals = SignalHandler(bus, {**SIGNALS, **table} if process.workers else table)
    bus.plugins['signals'] = signals
    supervisor.subscribe(signals)
    if process.options.verbosity > 0 and not process.options.reload:
        bus.subscribe('generation_serves', _tell_of_generation)
    _tell_systemd(bus)
    process.ride(bus)
    signals.subscribe()
    _repeat_early(process.options)


def _tell_of_generation(generation: int, pids: list[int]) -> None:
    numbers = ', '.join(map(str, pids))
    _print(f'Generation {generation} serves, workers in PIDs {numbers}.')


def _plan(process: Process) -> Plan:
    from paste_wspbus.supervisor import Plan

    settings, workers = process.config.settings, process.workers
    return Plan(
        workers=workers,
        restarts=bool(workers) or process.options.monitor_restart,
        preload=bool(workers) and settings['preload'] and not process.options.reload,
        site_plugins=bool(workers) and bool(settings['site_plugins']),
        start_timeout=settings['start_timeout'],
        stop_timeout=settings['stop_timeout'] + settings['drain_delay'],
    )


def _configure_anew(process: Process, bus: Bus, plan: Plan) -> Configuration:
    """For a graceful restart, which takes the .ini as it is now.

    :param plan: the one so far.
    """
    from paste_wspbus.supervisor import Configuration

    try:
        undo = process.reconfigure()
    except WSPBusError as error:
        told = WSPBusError(_told(error))
        told.exit_code = error.exit_code
        raise told from None
    new, notes = _plan(process), process.notes
    if bool(new.workers) != bool(plan.workers):
        notes.append(f'workers = {new.workers} takes a restart; one worker serves')
        new = new._replace(workers=1 if plan.workers else 0, restarts=plan.restarts)
    process.notes = []
    for note in notes:
        bus.log(note, 30)
    return Configuration(new, process.server, undo, notes)


def _supervised(supervisor: Supervisor, process: Process, lines: list[str]) -> None:
    """The first generation is READY."""
    supervisor.bus.plugins['sitelog'].quiet = False
    if supervisor.plan.workers:
        lines = _lines(process.server.urls if process.server else (), process.options)
        if lines:
            lines.append(f'Workers in PIDs {", ".join(map(str, supervisor.pids))}.')
            _print('\n'.join(lines))
    process.options.report.ready(lines)
    if url := _url_to_show(process):
        # A program of its own, for this process has no threads; it ends as a child.
        command = [sys.executable, '-m', 'webbrowser', url]
        os.posix_spawn(sys.executable, command, os.environ)


if __name__ == '__main__':
    sys.exit(main())
