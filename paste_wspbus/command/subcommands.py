"""The subcommands that ask a running site: where the function of each one is."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.process.options import Options

#: The module and the function of each, if they do not have the name of the subcommand.
PLACES = {
    'undrain': ('drain', 'drain'),
    'watch': ('watch', 'watch'),  # it is status --watch
    '--from': ('from_uwsgi', 'from_uwsgi'),
    '--completion': ('completion', 'completion'),
}


def prepare(options: Options, args: list[str]) -> None:
    """Read what follows a subcommand: the file of `timeline`; `plan` loads the site."""
    options.load = options.load or options.subcommand == 'plan'
    if options.subcommand != 'timeline':
        return
    for arg in [one for one in args[1:] if '=' not in one][:1]:
        options.timeline = arg
        args.remove(arg)


def find(name: str, watches: bool) -> Callable[[Options], int]:
    """Import and return the function of a subcommand.

    :param watches: whether it was called with --watch.
    """
    module, function = PLACES.get('watch' if watches else name, (name, name))
    found = getattr(import_module(f'paste_wspbus.command.{module}'), function)
    return found  # type: ignore[no-any-return]
