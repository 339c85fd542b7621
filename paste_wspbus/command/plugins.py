"""The subcommand ``plugins``: which plugins are installed, and what their sections may have."""

from __future__ import annotations

import ast
import json
from importlib.metadata import EntryPoint, entry_points

from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.errors import UsageError
from paste_wspbus.exits import DONE
from paste_wspbus.ini.factories import PLUGIN
from paste_wspbus.ini.pastedeploy import loadwsgi
from paste_wspbus.ini.plugins import NEEDS
from paste_wspbus.ini.sources import definition_of, problem_of
from paste_wspbus.ini.typed import (
    COMPUTED,
    Setting,
    Settings,
    settings_in_source,
)
from paste_wspbus.unix.importing import put_last
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

HEADING = ('PLUGIN', 'USE', 'WHAT IT IS')
KEYS = ('KEY', 'TYPE', 'DEFAULT', 'EXAMPLE')


def plugins(options: Options) -> int:
    """Print the installed plugins; with a name, the keys, types and defaults of one.

    No plugin is imported: its text is read.

    :returns: 0.
    :raises UsageError: if there is no plugin of that name.
    """
    # Otherwise root would not find a package that is installed from the working folder.
    put_last()
    found = installed()
    name = options.args[1] if options.args[1:] else None
    chosen = [one for one in found if name in (None, one.name, _use(one))]
    if not chosen and name is not None:
        hint = nearest(name, [one.name for one in found])
        problem = f'no installed distribution has a plugin {name!r}'
        raise UsageError(f'{problem}{hint}; "wspserve plugins" lists them')
    if options.json:
        said = json.dumps([_as_json(one) for one in chosen], indent=2)
    elif name is None:
        rows = [(one.name, _use(one), _summary(one)) for one in chosen]
        said = '\n'.join(in_columns([HEADING, *rows])) if rows else NONE
    else:
        said = '\n\n'.join(map(_described, chosen))
    print_answer(said, absolute=True)
    return DONE


NONE = 'No installed distribution has a plugin (an entry point of paste_wspbus.plugin_factory)'


def installed() -> list[EntryPoint]:
    """Return the entry points of all plugins, by name."""
    found = {
        (one.name, one.value): one
        for group in loadwsgi._flatten(PLUGIN.egg_protocols)
        for one in entry_points(group=group)
    }
    return [found[key] for key in sorted(found)]


def _use(one: EntryPoint) -> str:
    dist = one.dist.name if one.dist is not None else '?'
    return f'egg:{dist}' if one.name == 'main' else f'egg:{dist}#{one.name}'


def _definition(one: EntryPoint) -> ast.FunctionDef | ast.ClassDef | None:
    """Return the factory's text; None if it cannot be found without importing something."""
    return definition_of(one.module, one.attr)


def _settings(one: EntryPoint) -> Settings | None:
    definition = _definition(one)
    return None if definition is None else settings_in_source(definition)


def _docstring(one: EntryPoint) -> str:
    definition = _definition(one)
    return (ast.get_docstring(definition) or '') if definition is not None else ''


def _summary(one: EntryPoint) -> str:
    return _docstring(one).partition('\n')[0] or problem_of(one.module, one.attr)


def _described(one: EntryPoint) -> str:
    """Return everything about a plugin, with a section that can be copied into an .ini."""
    parts = [f'{_use(one)} ({one.value})']
    if text := _docstring(one):
        parts.append(text)
    settings = _settings(one)
    if settings is None:
        unknown = 'Its keys cannot be read from the text of its factory'
        problem = problem_of(one.module, one.attr)
        parts.append(f'{unknown}: {problem}' if problem else f'{unknown}.')
    elif settings.known:
        rows = [
            (s.name, _type(s), _default(s), s.kind.sample if s.kind else '')
            for s in settings.known.values()
        ]
        parts.append('\n'.join(in_columns([KEYS, *rows])))
    if settings is not None and settings.takes_more:
        parts.append('It takes other keys, too.')
    parts.append(
        f'Any plugin also takes {" and ".join(NEEDS)}: names of other plugins.\n'
        'With workers, plugins run in each of them, and site_plugins once for the site.'
    )
    name = one.name if one.name != 'main' else 'NAME'
    lines = ['[wspbus:main]', f'plugins = {name}', '', f'[plugin:{name}]']
    lines.append(f'use = {_use(one)}')
    for setting in settings.known.values() if settings is not None else ():
        mark = '' if setting.is_required else '# '
        value = _value(setting).replace('%', '%%')  # as an .ini writes a %
        lines.append(f'{mark}{setting.name} = {value}'.rstrip())
    parts.append('\n'.join(lines))
    return '\n\n'.join(parts)


def _value(setting: Setting) -> str:
    """Return the default, or a sample if there is none that an .ini can write."""
    sample = setting.kind.sample if setting.kind else ''
    if setting.is_required or setting.default is COMPUTED or setting.default is None:
        return sample
    return _default(setting) or sample


def _type(setting: Setting) -> str:
    return setting.kind.name if setting.kind else 'str'


def _default(setting: Setting) -> str:
    """Return the default as an .ini writes it."""
    default = setting.default
    if setting.is_required:
        return 'required'
    if default is COMPUTED:
        return 'see the code'
    if default is None:
        return 'none'
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (list, tuple)):
        return ' '.join(map(str, default))
    return str(default)


def _as_json(one: EntryPoint) -> dict[str, Any]:
    settings = _settings(one)
    return {
        'name': one.name,
        'use': _use(one),
        'factory': one.value,
        'problem': problem_of(one.module, one.attr) or None,
        'help': _docstring(one),
        'takes_more': None if settings is None else settings.takes_more,
        'settings': None
        if settings is None
        else [
            {
                'key': setting.name,
                'type': _type(setting),
                'required': setting.is_required,
                'default': None if setting.is_required else _default(setting),
            }
            for setting in settings.known.values()
        ],
    }
