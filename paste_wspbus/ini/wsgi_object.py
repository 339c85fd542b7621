"""``egg:paste_wspbus#wsgi``: the application is an object of a module, as for other servers."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

from paste_wspbus.errors import ConfigError
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The prefix of the keys that set environment variables.
ENV = 'env.'


def make_app(
    global_conf: dict[str, str],
    app: str | None = None,
    file: str | None = None,
    path: str = '',
    **more: str,
) -> Any:
    """Return a WSGI application that a module has ready.

    :param app: ``MODULE:NAME``, or ``MODULE:FUNCTION()`` to call it; NAME is
        ``application`` if it is left out. With ``file``, NAME alone.
    :param file: the path of a Python file, in the place of a module.
    :param path: folders to import from, with spaces between; a relative one starts in the
        folder of the .ini.
    :param more: ``env.NAME``: environment variables, which are set before the import.
    :raises ConfigError: if a key is wrong.
    """
    here = global_conf.get('here', '')
    for key, value in more.items():
        if not key.startswith(ENV) or key == ENV:
            hint = nearest(key, ['app', 'file', 'path', 'env.NAME'])
            raise _wrong(global_conf, key, f'unknown key{hint}')
        os.environ[key.removeprefix(ENV)] = value
    folders = [os.path.normpath(os.path.join(here, one)) for one in path.split()]
    sys.path[:0] = [one for one in folders if one not in sys.path]
    if file is not None:
        module, name = _executed(os.path.join(here, file)), app or 'application'
    elif app:
        of, _, name = app.partition(':')
        module, name = _imported(global_conf, app, of), name or 'application'
    else:
        raise _wrong(global_conf, 'app', 'write app = MODULE:NAME')
    made: Any = module
    for part in name.removesuffix('()').split('.'):
        if not hasattr(made, part):
            from paste_wspbus.ini.hints import hidden_hint  # only an error needs it

            file, found = global_conf.get('__file__'), getattr(made, '__file__', None)
            hint = hidden_hint(module.__name__, file, found) or nearest(
                part, [one for one in dir(made) if one[0] != '_']
            )
            problem = f'{module.__name__} has no {part!r}{hint}'
            raise _wrong(global_conf, 'app', problem)
        made = getattr(made, part)
    return made() if name.endswith('()') else made


def _imported(global_conf: dict[str, str], app: str, module: str) -> Any:
    """Import a module.

    :raises ConfigError: if there is none of this name. What it raises itself stays.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if not f'{module}.'.startswith(f'{error.name}.'):
            raise
        from paste_wspbus.ini.hints import module_hint  # only an error needs it

        hint = module_hint(error.name or '', global_conf.get('__file__'))
        problem = f'{app}: there is no module {error.name!r}{hint}'
        raise _wrong(global_conf, 'app', problem) from None


def _wrong(global_conf: dict[str, str], key: str, problem: str) -> ConfigError:
    from paste_wspbus.ini.factories import making

    file, section = making[-1] if making else (global_conf.get('__file__'), None)
    return ConfigError(file, problem, section=section, key=key)


def _executed(path: str) -> Any:
    """Execute a file as a module; its ending may be .wsgi or anything else."""
    from importlib.machinery import SourceFileLoader

    name = os.path.basename(path).partition('.')[0].replace('-', '_')
    name = f'wsgi_file_{name}'
    loader = SourceFileLoader(name, path)
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    sys.modules[name] = module = module_from_spec(spec)
    loader.exec_module(module)
    return module
