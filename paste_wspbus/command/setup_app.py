"""The subcommand ``setup-app``: it prepares what an application needs, as its package says.

A package says it in a module ``websetup`` with a function ``setup_app(command, conf, vars)``,
or by an entry point of the group ``paste.app_install`` (PasteScript's `Installer`).
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

from paste_wspbus.command.answer import print_answer
from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.exits import DONE
from paste_wspbus.ini.factories import APP, at_place, one_line, translating

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.options import Options

#: Installers that do what this module does. They import pkg_resources, so they are not used.
STANDARD = frozenset(
    ['paste.script.appinstall:Installer', 'pylons.util:PylonsInstaller']
)

#: The protocol of a section that has several applications, in its two spellings.
COMPOSITE = ('paste.composite_factory', 'paste.composit_factory')


def setup_app(config: Config, options: Options) -> int:
    """Prepare the application of an .ini: create its tables, folders, first users.

    :returns: 0, also if its package has nothing to prepare.
    :raises ConfigError: if the .ini is wrong, or names more than one application.
    :raises FactoryError: if the code of the package fails.
    """
    if config.file is None:
        raise ConfigError(config.uri, 'setup-app needs an .ini')
    config.configure_logging()
    name = options.app_name or config.app_name
    context = config.loader.get_context(APP, name, dict(config.vars))
    while context.object is None:  # filters stand around it
        context = getattr(context, 'next_context', None) or context.app_context
    if context.protocol in COMPOSITE:
        problem = 'it has several applications: name one with --app-name'
        raise ConfigError(config.file, problem, section=context.section)
    section = getattr(context, 'section', None) or f'app:{name or "main"}'
    command = SimpleNamespace(
        command_name='setup-app',
        args=[config.file],
        options=options,
        verbose=options.verbosity,
        interactive=False,
        simulate=False,
    )
    done = []
    for where, prepare in _steps(context, config.file, section):
        made = SimpleNamespace(object=prepare, object_type=SimpleNamespace(name='site'))
        with translating(made, config.file, section):
            prepare(command)
        done.append(where)
    if options.verbosity > 0:
        print_answer(
            f'{options.config} [{section}]: {", ".join(done)} has prepared it'
            if done
            else f'{options.config} [{section}]: its package has no websetup, so there is '
            'nothing to do'
        )
    return DONE


def _steps(
    context: Any, file: str, section: str
) -> Iterator[tuple[str, Callable[[Any], object]]]:
    """Yield what is to be done: its name, and a function of the command."""
    dist, name = context.distribution, context.entry_point_name or 'main'
    entries = dist.entry_points if dist is not None else ()
    for entry in entries:
        is_ours = (entry.group, entry.name) == ('paste.app_install', name)
        if is_ours and entry.value not in STANDARD:
            with _importing(entry.value, file, section):
                installer = entry.load()(dist, context.protocol, name)
            yield entry.value, _with(installer.setup_config, file, section, {})
            return
    conf = context.config()
    conf.filename = file
    for top in _packages(context, dist):
        found = find_spec(top)
        if found is None or found.submodule_search_locations is None:
            continue  # not a package
        if find_spec(f'{top}.websetup') is None:
            continue
        with _importing(f'{top}.websetup', file, section):
            module = import_module(f'{top}.websetup')
        if hasattr(module, 'setup_app'):
            yield module.__name__, _with(module.setup_app, conf, {})
        elif hasattr(module, 'setup_config'):
            yield module.__name__, _with(module.setup_config, file, section, {})


@contextlib.contextmanager
def _importing(name: str, file: str, section: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        problem = f'{name} cannot be imported: {one_line(error)}{at_place(error)}'
        raise FactoryError(file, problem, section=section) from error


def _with(function: Any, *args: Any) -> Callable[[Any], object]:
    def prepare(command: Any) -> object:
        return function(command, *args)

    prepare.__qualname__ = f'{function.__module__}.{function.__qualname__}'
    return prepare


def _packages(context: Any, dist: Any) -> list[str]:
    """Return the names of the packages of a distribution, or of a factory without one."""
    listed = (dist.read_text('top_level.txt') or '') if dist is not None else ''
    names = [line.strip() for line in listed.splitlines()]
    of_factory = str(getattr(context.object, '__module__', '')).partition('.')[0]
    return [one for one in names if one and one[0] != '#'] or [of_factory]
