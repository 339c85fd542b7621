"""The subcommands that need no file: what the command line may say, and what --help says."""

from __future__ import annotations

from paste_wspbus.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options

PS, PLUGINS, NEW = 'ps', 'plugins', 'new'

#: The options that print something, and need no file.
FROM, COMPLETION = '--from', '--completion'

#: Their texts in `--help`.
HELP = {
    PS: 'List the running sites (of all users, for root)',
    PLUGINS: 'List the installed plugins; with a name: its keys, and a section to copy',
    NEW: 'Make a package of a plugin or of a site, a commented .ini, or a copy of a sample',
}

#: The usage of a command line with a file.
USAGE = '%(prog)s [options] CONFIG_FILE [SUBCOMMAND] [var=value …]'

#: The usages of command lines without a file, which follow.
USAGES = f"""
       %(prog)s {PS} [--cluster] [--json]
       %(prog)s {PLUGINS} [NAME] [--json]
       %(prog)s {NEW} plugin NAME | site NAME | ini [FILE] [--from [SAMPLE]]
       %(prog)s {FROM} FILE
       %(prog)s {COMPLETION} bash|zsh|fish"""


def take(options: Options, prog: str) -> None:
    """Take the words of the command line; the first one is the subcommand.

    :raises UsageError: if there are too many.
    """
    name, *more = options.args
    if name == PS and more:
        said = f'ps lists all sites: leave out {" ".join(more)}'
        raise UsageError(f'{prog}: {said}')
    if options.cluster and name != PS:
        raise UsageError(f'{prog}: {name} knows no machines: leave out --cluster')
    if name == PLUGINS and len(more) > 1:
        said = f'plugins takes one name: leave out {" ".join(more[1:])}'
        raise UsageError(f'{prog}: {said}')
    options.subcommand, options.config, options.vars = name, '', {}


def take_option(options: Options, prog: str) -> None:
    """Take the option --from or --completion, beside which only `new` may stand.

    :raises UsageError: if another word does, or if --from has no value.
    """
    option, prints = FROM, 'an .ini'
    if options.completion is None and options.args[:1] == [NEW]:
        take(options, prog)
        return
    if options.completion is not None:
        option, prints = COMPLETION, 'a script for a shell'
        if options.from_file is not None:
            raise UsageError(f'{prog}: give {FROM} or {COMPLETION}, not both')
    if options.args:
        said = f'{option} prints {prints}, and serves nothing: leave out'
        raise UsageError(f'{prog}: {said} {" ".join(options.args)}')
    if options.from_file == '':
        raise UsageError(
            f'{prog}: {FROM} FILE needs the .ini of a uWSGI site; {NEW} ini {FROM} lists '
            'the samples'
        )
    options.subcommand, options.config, options.vars = option, '', {}


def needs_no_file(name: str, prog: str) -> UsageError:
    """Return the error for a subcommand that needs no file, and stands behind one."""
    does = {
        PS: 'lists all sites',
        PLUGINS: 'lists what is installed',
        NEW: 'makes something new',
    }
    return UsageError(f'{prog}: {name} {does[name]}: leave out the file')
