"""The option --check: mistakes of the .ini, and with --compose those of the site's code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

from paste_wspbus.bus.deadlines import call_after
from paste_wspbus.bus.host import WSPSERVE
from paste_wspbus.bus.places import place_in_site
from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.command.defaults import DefaultPlugins
from paste_wspbus.command.leaving import LINGER, complain, end_at_once
from paste_wspbus.command.terminal import flush, print_line
from paste_wspbus.control.timeline import LOAD, own_seconds, rows_of
from paste_wspbus.errors import (
    BindError,
    ConfigError,
    FactoryError,
    SettingError,
    WSPBusError,
)
from paste_wspbus.exits import DONE, FAILED, INTERRUPTED
from paste_wspbus.forks import close_in_child, fork
from paste_wspbus.hosts import gunicorn
from paste_wspbus.ini import sources
from paste_wspbus.ini.check import check
from paste_wspbus.ini.config import Terminated, site_folder, site_path
from paste_wspbus.ini.listed import is_clustered
from paste_wspbus.ini.settings import section_of
from paste_wspbus.ops.holding import check as check_ops
from paste_wspbus.process.idle import idle_keys
from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.servers.asked import asked_of
from paste_wspbus.unix.processes import OtherProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config, Site
    from paste_wspbus.listening.written import Address
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

    MakeProcess = Callable[[Config, Launch, Inheritance], Process]
    #: The work of the child: it gets a function that loads the site, and returns what
    #: the parent gets.
    Work = Callable[[Callable[[], Site]], dict[str, Any]]

#: Seconds that the process has to end after its deadline, or after an interrupt.
PATIENCE = 1.0

#: If the child has sent something that is not a report: how many characters of it a
#: message quotes.
QUOTED = 40


def run_check(config: Config, launch: Launch, make_process: MakeProcess) -> int:
    """Check the .ini; with --compose, load the site, too, but start nothing.

    `plan` and `blame --load` load it in the same way, and show something else.

    :returns: the exit code.
    :raises ConfigError: if the site could not be served.
    """
    options = launch.options
    if options.load:
        if options.subcommand == 'plan':
            from paste_wspbus.command.plan import plan as show
        else:
            from paste_wspbus.command.import_times import show
        return show(config, launch, make_process)
    sources.site_folders[:] = [site_folder(config.file)]  # root has it not in sys.path
    warnings = check(config, options.server_name, options.app_name, options.listen)
    if not options.server and gunicorn.is_server(config, options.server_name):
        warnings += gunicorn.check_settings(config, options.server_name).values()
    _check_cluster(config)
    if config.settings['workers'] and config.settings['site_metrics'] != 'off':
        from paste_wspbus.metrics.folder import check as check_metrics

        check_metrics(config.file, section_of(config.loader))
    addresses = _addresses_of_site(config, launch)
    warnings += _check_folders_of_sockets(addresses)
    warnings += check_ops(config, options.ops, addresses)
    warnings += idle_keys(make_process(config, launch, Inheritance()))
    for warning in warnings:
        print_answer(f'{options.config}: warning: {warning}')
    found = 'can be served' if warnings else 'no mistakes found'
    if options.compose:
        flush()
        report = load_in_child(config, launch, make_process, _measure)
        if 'code' in report:
            return int(report['code'])
        if report['times']:  # not for an egg: its application has no section
            _print_times(report['times'])
        found += f'; the site was loaded in {report["total"] * 1000:.0f} ms'
    print_line(f'{options.config}: {found}')
    return DONE


def load_on_trial(config: Config, launch: Launch, make_process: MakeProcess) -> Site:
    """Load the site, but open no socket, PID file or log file, and start nothing.

    :raises WSPBusError: if it cannot be loaded.
    """
    process = make_process(config, launch, Inheritance())
    bus = config.make_bus()
    bus.host = WSPSERVE
    if hasattr(bus, 'trial'):
        bus.trial = True
    DefaultPlugins(launch, process).plug_in(bus, configured=False)
    options = launch.options
    server: Server | BlockingServer | None = None
    try:
        server = process.known_server(config)
    except ConfigError:
        pass  # the check has warned of a missing section
    else:
        server = server or config.make_server(
            bus, options.server_name, options.server, options.listen
        )
    if server is not None:
        server.plug_in(bus)
    site = config.compose(bus, server, launch.options.app_name)
    # They have a process of their own, if the site serves.
    config.make_plugins(site, 'cluster_plugins')
    if server is not None:
        bus.subscribe('start', server, site.app)
    return site


def _addresses_of_site(config: Config, launch: Launch) -> list[Address]:
    options = launch.options
    try:
        server = config.known_server(options.server_name, listen=options.listen)
        return [] if server is None else asked_of(server)
    except ConfigError:  # the check has warned of a missing section
        return []
    except SettingError:  # waitress takes addresses that no other server has
        return []


def _check_folders_of_sockets(addresses: list[Address]) -> Iterator[str]:
    """Refuse a Unix socket in a folder that is not there, or warn of it.

    :raises BindError: the one of a start.
    """
    for one in addresses:
        folder = os.path.dirname(one.place) if one.kind == 'unix' else ''
        if not folder or one.place.startswith('\0') or os.path.isdir(folder):
            continue
        error = BindError(f'unix:{one.place}', 'there is no such folder')
        # A service manager makes these folders when it starts the site.
        if not folder.startswith(('/run/', '/var/run/')):
            raise error
        yield str(error)


def _check_cluster(config: Config) -> None:
    """Check [cluster:main], if there is one.

    :raises ConfigError: if it is wrong, or a library is missing.
    """
    if config.file is not None and is_clustered(config):
        from paste_wspbus.cluster.settings import read

        read(config.loader, config.file)


def _measure(load: Callable[[], Site]) -> dict[str, Any]:
    return {'times': _times(load().bus)}


def _times(bus: Bus) -> dict[str, dict[str, float]]:
    """Return the seconds of 'import' and 'factory' by section, without sections inside it."""
    times: dict[str, dict[str, float]] = {}
    rows = rows_of(bus, *LOAD)
    for row, seconds in own_seconds(rows):
        section = row.name.strip('[]')
        both = times.setdefault(section, {'import': 0.0, 'factory': 0.0})
        both[row.channel] += seconds
    return times


def _print_times(times: dict[str, dict[str, float]]) -> None:
    rows: list[tuple[str, ...]] = [('SECTION', '   IMPORT', '  FACTORY')]
    for section, row in times.items():
        texts = [f'{row[step] * 1000:6.0f} ms' for step in ('import', 'factory')]
        rows.append((f'[{section}]', *texts))
    for line in in_columns(rows):
        print_answer(line)


def load_in_child(
    config: Config, launch: Launch, make_process: MakeProcess, work: Work
) -> dict[str, Any]:
    """Load the site in a child process, which ends afterwards.

    :param work: is called in the child.
    :returns: what ``work`` has returned, with ``total``, the seconds; or ``code`` if the
        child has printed why it failed.
    :raises FactoryError: if the child takes too long, or ends without a result.
    :raises WSPBusError: if the system starts no more processes.
    """
    limit = config.settings['start_timeout']
    ours, theirs = socket.socketpair()
    pid = fork()
    if pid == 0:
        ours.close()
        _be_child(config, launch, make_process, theirs, limit, work)
    theirs.close()
    child, line = OtherProcess(pid), b''
    try:
        with ours, ours.makefile('rb') as lines:
            ours.settimeout(limit + PATIENCE)
            with contextlib.suppress(ConnectionResetError):
                line = lines.readline()
    except TimeoutError:
        problem = f'it was not loaded within {limit:g} s, and its code lets no other thread run'
        raise FactoryError(config.file, problem) from None
    finally:
        code = _end(child, LINGER if line else 0)
    if line.endswith(b'\n'):
        return _read(config, line)
    from paste_wspbus.unix.processes import how

    end = f'the process that loaded it ended with {how(code)}'
    raise FactoryError(config.file, end)


def _read(config: Config, line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line)
        if isinstance(report, dict) and ('code' in report or 'total' in report):
            return report
    except ValueError:
        pass
    text = line.decode(errors='replace').strip()[:QUOTED]
    problem = f'its code writes to descriptors that are not its own ({text!a})'
    raise FactoryError(config.file, f'it was not checked: {problem}')


def _end(child: OtherProcess, seconds: float) -> int:
    """Wait for the end of a process; end it when the seconds are over.

    :returns: its exit code, or the negative number of a signal.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.is_gone_within(seconds):
            break
        child.signal(number)
        seconds = PATIENCE
    child.close()
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def _change_user(config: Config, launch: Launch) -> None:
    if launch.options.identity is not None:
        launch.options.identity.take()
        importing = sys.modules.get('paste_wspbus.unix.importing')
        if importing is not None:
            importing.give_back()
        site_path(config.file)


def _be_child(
    config: Config,
    launch: Launch,
    make_process: MakeProcess,
    report: socket.socket,
    limit: float,
    work: Work,
) -> NoReturn:
    """Load the site, report the result or the exit code, and end this process."""

    def send(message: dict[str, Any]) -> None:
        try:
            report.sendall(json.dumps(message).encode() + b'\n')
        except OSError:  # the parent waits no longer, and has said so
            os._exit(FAILED)

    def is_late() -> None:
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        problem = f'it was not loaded within {limit:g} s, now at {place_in_site(main)}'
        send({'code': FAILED})
        complain(FactoryError(config.file, problem), launch)
        flush()
        os._exit(FAILED)

    code = FAILED
    close_in_child(report, socket.socket.close)
    try:
        launch.early.begin_anew()
        call_after(limit, is_late)
        os.environ.pop('NOTIFY_SOCKET', None)
        _change_user(config, launch)
        began = time.perf_counter()
        if launch.options.load:
            os.dup2(2, 1)  # what the site prints does not belong to the answer
        message = work(lambda: load_on_trial(config, launch, make_process))
        total = time.perf_counter() - began
        code = DONE
        send({'total': total, **message})
    except WSPBusError as error:
        code = error.exit_code
        send({'code': code})
        complain(error, launch)
    except (KeyboardInterrupt, Terminated):
        code = INTERRUPTED  # the parent prints that
        send({'code': code})
    end_at_once(code)
