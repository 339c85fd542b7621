"""The command: ``wspserve CONFIG_FILE [var=value …]``, in the place of ``paster serve``."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from paste_wspbus.bus import exit_code_of
from paste_wspbus.command import terminal
from paste_wspbus.command.arguments import SETUP_APP, parse
from paste_wspbus.command.files import choose_files
from paste_wspbus.command.leaving import complain
from paste_wspbus.command.single import Single
from paste_wspbus.errors import UsageError, WSPBusError, shortage
from paste_wspbus.exits import DONE, INTERRUPTED, TERMINATED
from paste_wspbus.ini.config import SERVER, Config, Terminated, site_folder, site_path
from paste_wspbus.ini.file import wait_for_no_pipe
from paste_wspbus.process import early_signals
from paste_wspbus.process.inheritance import TRIAL, Inheritance
from paste_wspbus.process.launch import Launch
from paste_wspbus.process.process import Process
from paste_wspbus.report import Report
from paste_wspbus.values import keep_name_of_folder, working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.command.gunicorn_runner import GunicornRunner
    from paste_wspbus.command.ops import OpsRunner
    from paste_wspbus.command.supervised import Supervised
    from paste_wspbus.process.options import Options

    MakeProcess = Callable[[Config, Launch, Inheritance], Process]


def main(
    argv: list[str] | None = None,
    prog: str = 'wspserve',
    make_process: MakeProcess = Process,
    owns_process: bool = False,
) -> int:
    """Run the command.

    :param argv: the arguments, without the program's name; those of sys.argv if None.
    :param make_process: makes the `Process`; a host may use a subclass.
    :param owns_process: whether the process ends with the command.
    :returns: the exit code (see `exits`). A forced end, with EX_SOFTWARE, does not return.
    """
    launch: Launch | None = None
    try:
        terminal.open_standard_streams()
        with early_signals.handled(owns_process) as early:
            launch = Launch(parse(sys.argv[1:] if argv is None else argv, prog), early)
            return _run(launch, make_process)
    except WSPBusError as error:
        return complain(error, launch)
    except (OSError, RuntimeError, ImportError) as error:
        lack = shortage(error)
        if lack is None:
            raise
        return complain(lack, launch)
    except Terminated as error:
        code = exit_code_of(error)
        if launch is None:
            return code
        has_launcher = launch.options.daemon and not launch.report.lasting
        is_told = has_launcher and code == TERMINATED
        return launch.fail(code, 'SIGTERM ended the start of the site.' * is_told)
    except KeyboardInterrupt:
        terminal.print_line('Interrupted.', 'stderr')
        return INTERRUPTED if launch is None else launch.fail(INTERRUPTED)
    finally:
        terminal.flush()


def _run(launch: Launch, make_process: MakeProcess) -> int:
    options = launch.options
    _enter_folder()
    if options.version:
        from importlib.metadata import version

        terminal.print_line(f'paste_wspbus {version("paste_wspbus")}')
        return DONE
    starts = (None, 'start', 'restart', SETUP_APP)
    if options.subcommand not in starts and not options.load:
        wait_for_no_pipe()
        with launch.early.raising():
            return _ask_site(options, options.subcommand)
    if TRIAL in os.environ:
        from paste_wspbus.command.trial import try_to_load

        try_to_load(launch, lambda: _make_for_trial(launch, make_process))
    inheritance = Inheritance.from_environ(os.environ)
    if inheritance.came_over_execv:
        keep_name_of_folder()
    if inheritance.worker is not None:
        wait_for_no_pipe()
        connection = os.dup(inheritance.worker[0])
        launch.report = Report(connection, lasting=True)
    config = _read(launch, inheritance)
    if options.check or options.load or options.subcommand == SETUP_APP:
        with launch.early.raising():
            return _only_load(config, launch, make_process)
    if inheritance.report is not None:
        launch.report = Report(inheritance.report)
    runs, file_notes = choose_files(launch, config.settings, inheritance)
    if runs is not None:
        if options.verbosity > 0:
            terminal.print_line(runs)
        return DONE
    settings, notes = None, ''
    if inheritance.worker is None:
        settings = _hand_over_settings(config, options)
        if options.daemon and not inheritance.daemon:
            from paste_wspbus.command.daemonizing import become_daemon

            notes = become_daemon(launch, config, inheritance, settings)
            launch.early.check()
    process = make_process(config, launch, inheritance)
    process.notes += file_notes + ([notes] if notes else [])
    try:
        return _open_and_run(launch, process, settings)
    finally:
        process.close()


def _only_load(config: Config, launch: Launch, make_process: MakeProcess) -> int:
    """Carry out what loads a site and does not start it."""
    if launch.options.subcommand == SETUP_APP:
        return _setup_app(config, launch.options)
    from paste_wspbus.command.checking import run_check  # serving does not need it

    return run_check(config, launch, make_process)


def _setup_app(config: Config, options: Options) -> int:
    from paste_wspbus.command.setup_app import setup_app

    if options.identity is not None:
        options.identity.take()
    _make_importable(config)
    return setup_app(config, options)


def _make_for_trial(launch: Launch, make_process: MakeProcess) -> Process:
    nothing, identity = Inheritance(), launch.options.identity
    config = _read(launch, nothing)
    if identity is not None and not identity.is_current:
        identity.take()
    _make_importable(config)
    return make_process(config, launch, nothing)


def _enter_folder() -> None:
    """If the working directory was removed, change to the directory that has its name now.

    The shell may have entered it over a link that a deployment has changed.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        try:
            os.chdir(os.environ.get('PWD', ''))
        except OSError:
            problem = 'the working directory is gone: go to another one, and try again'
            raise UsageError(problem) from None


def _ask_site(options: Options, name: str) -> int:
    """Run a subcommand that asks a running site."""
    from paste_wspbus.command.subcommands import find  # a start does not need it

    run = find(name, options.watch)
    if options.verbosity > 0:
        return run(options)
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
        return run(options)


def _read(launch: Launch, inheritance: Inheritance) -> Config:
    """Read the .ini; if that fails, remove the inherited files."""
    options = launch.options
    if options.reload:
        from paste_wspbus.command.development import watch_file, watch_more

        watch_file(launch)
    try:
        with launch.early.raising():
            config = Config(options.config, options.vars, working_folder())
            if launch.changes_user:
                from paste_wspbus.unix.importing import hold_back

                hold_back(site_folder(config.file))
                if config.settings['defaults']:
                    from paste_wspbus.ini.defaults import refuse_untrusted

                    refuse_untrusted(config)
            else:
                _make_importable(config)
            if options.reload:
                watch_more(launch, config)
            if config.logs_json:
                from paste_wspbus.command.json_output import use_json

                use_json(config, prints=not (options.check or options.load))
    except BaseException:
        inheritance.abandon(options.pid_file)
        raise
    return config


def _make_importable(config: Config) -> None:
    """Allow imports of the site's modules: this process does not change its user any more."""
    importing = sys.modules.get('paste_wspbus.unix.importing')
    if importing is not None:
        importing.give_back()
    site_path(config.file)


def _hand_over_settings(config: Config, options: Options) -> dict[str, Any] | None:
    """Return the settings for a server that owns its process and replaces this command.

    :returns: None if [server:main] is not such a server.
    """
    factory = config.loader.factory_name(SERVER, options.server_name) or ''
    if not factory.startswith('gunicorn.'):
        return None
    from paste_wspbus.command.gunicorn_runner import settings_for

    return settings_for(config, options)


def _open_and_run(
    launch: Launch, process: Process, settings: dict[str, Any] | None
) -> int:
    """Open what the site needs; choose a runner, and run it.

    :param settings: those of a server that owns its process; None if it does not.
    """
    if process.inheritance.worker is not None:
        _open_as_worker(process, *process.inheritance.worker)
    else:
        # A server that owns its process runs another program before the site serves.
        process.registers_late = settings is None
        if launch.options.replaces and settings is None:
            from paste_wspbus.command.restart import load_beside

            process.opens_late = load_beside(launch, process)
        while not process.opens_late:
            try:
                process.open()
                break
            except WSPBusError as error:
                if launch.options.subcommand != 'start':
                    raise
                from paste_wspbus.command.start import runs_already

                with launch.early.raising():
                    done = runs_already(error, launch, process, asks=settings is None)
                if done is not None:
                    return done
        _make_importable(process.config)
    if process.inheritance.worker is None and os.isatty(0):
        from paste_wspbus.command.debugging import restore_terminal_at_exit

        restore_terminal_at_exit()
    code = None
    launch.early.check()
    while code is None:  # then run() has forked, and this is a worker, which runs next
        code = choose_runner(launch, process, settings).run()
    return code


def _open_as_worker(
    process: Process, connection: int, role: list[Any], board: int = -1
) -> None:
    """Open what a worker needs that is a fresh interpreter."""
    from paste_wspbus.role import Role
    from paste_wspbus.workers.worker import open_as_worker

    open_as_worker(process, socket.socket(fileno=connection), Role(*role), board)


def choose_runner(
    launch: Launch, process: Process, settings: dict[str, Any] | None
) -> Single | Supervised | GunicornRunner | OpsRunner:
    """Return the runner of the site that the command line and the .ini ask for.

    :param process: the process, which has opened everything.
    :param settings: those of a server that owns its process; None if it does not.
    """
    if settings is not None:
        from paste_wspbus.command.gunicorn_runner import GunicornRunner

        return GunicornRunner(launch, process, settings)
    runner = Single
    if process.role is not None and process.role.kind == 'ops':
        from paste_wspbus.command.ops import OpsRunner

        return OpsRunner(process)
    if launch.options.reload:  # import this before a supervisor forks
        from paste_wspbus.command.development import Development, warn

        runner = Development
        warn(process)
    if process.is_supervised and not process.is_worker:
        from paste_wspbus.command.supervised import Supervised

        return Supervised(launch, process)
    return runner(launch, process)
