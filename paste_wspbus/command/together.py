"""Which options and subcommands may be given together."""

from __future__ import annotations

from paste_wspbus.command.files import refuse_one_file
from paste_wspbus.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options

#: The subcommands that can print JSON.
SHOWING = ('status', 'stacks', 'plan', 'blame', 'timeline')

#: Those that --cluster lets act on all machines; and ps, which needs no file.
OF_CLUSTER = ('status', 'graceful')


def check(options: Options) -> None:
    """Check that the options fit each other, and the subcommand.

    :raises UsageError: if they do not.
    """
    _check_subcommand(options)
    if options.cluster or options.machine is not None:
        _check_cluster(options)
    _check_watch(options)
    if options.compose and not options.check:
        raise UsageError('--compose works only together with --check')
    _check_reload(options)
    refuse_one_file(options)


def _check_subcommand(options: Options) -> None:
    for option, of, said in (
        ('--no-wait', 'graceful', options.no_wait),
        ('--no-soak', 'graceful', options.no_soak),
        ('--watch', 'status', options.watch),
        ('--load', 'blame', options.load and options.subcommand != 'plan'),
        ('--timeline', 'stop', options.timeline and options.subcommand != 'timeline'),
    ):
        if said and options.subcommand != of:
            raise UsageError(f'{option} works only with the subcommand {of}')
    if options.json and options.subcommand not in SHOWING:
        raise UsageError(f'--json works only with {", ".join(SHOWING)}')
    if options.subcommand == 'graceful' and options.workers is not None:
        raise UsageError(
            'graceful reads the number of workers from the file: leave out --workers'
        )


def _check_cluster(options: Options) -> None:
    if options.cluster and options.subcommand not in OF_CLUSTER:
        raise UsageError(f'--cluster works only with {", ".join(OF_CLUSTER)}, ps')
    if options.machine is not None and not (
        options.cluster and options.subcommand == 'graceful'
    ):
        raise UsageError('--from MACHINE works only with graceful --cluster')
    if options.machine == '':
        raise UsageError('--from needs the name of a machine')
    if options.watch:
        raise UsageError('--watch shows one site: leave out --cluster')


def _check_watch(options: Options) -> None:
    if options.interval is not None and not options.watch:
        raise UsageError('--interval works only together with --watch')
    if options.watch and options.json:
        raise UsageError('--watch is for people: leave out --json')
    if options.watch and options.verbosity < 1:
        raise UsageError('--watch shows the site, and -q shows nothing: leave out one')


def _check_reload(options: Options) -> None:
    if options.reloader is not None and not options.reload:
        raise UsageError('--reloader works only together with --reload')
    if options.reload and options.daemon:
        raise UsageError(
            '--reload is for development, in the foreground: leave out --daemon, start '
            'and restart'
        )
