"""The ends of error messages that say what a mistyped name may mean.

Only an error needs this module. A supervisor meets errors, too, and keeps what it has imported:
so what only some of them need is imported in functions.
"""

from __future__ import annotations

import os
import re
import sys
from difflib import get_close_matches
from signal import Signals

from paste_wspbus.ini.syntax import IS_INDENTED
from paste_wspbus.unreadable import unreadable_folder
from paste_wspbus.values import NEAR, closest, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

#: From the name of a kind of PasteDeploy to the arguments of its factory, and what the
#: factory returns.
SIGNATURES = {
    'application': ('(global_conf, **settings)', 'the application'),
    'composite': ('(loader, global_conf, **settings)', 'the application'),
    'filter': ('(global_conf, **settings)', 'a function of the application'),
    'server': ('(global_conf, **settings)', 'a function that serves the application'),
    'plugin': ('(bus, global_conf, **settings)', 'the plugin'),
    'bus': ('(global_conf)', 'the bus'),
}


def indented(value: str) -> str:
    """Return the message for a value whose further line is meant as a key, or ''."""
    line = next((one for one in value.splitlines()[1:] if '=' in one), '').strip()
    return line and f'{line!r} {IS_INDENTED}'


def distribution_hint(name: str) -> str:
    """Return why a distribution is not found, or which one is meant: the end of a message."""
    from importlib import metadata

    if hint := unreadable_hint():
        return hint
    names = {str(one.metadata['Name']) for one in metadata.distributions()}
    return near_one(name, names)


def file_hint(name: str, folder: str) -> str:
    """Say which .ini of a folder is meant, or that this one is a link; '' if neither."""
    try:
        names = os.listdir(folder or '.')
    except OSError:
        return ''
    if name in names:
        return ': it is a link to nothing'
    if f'{name}.ini' in names:
        return f"; did you mean '{name}.ini'?"
    if name == 'help':
        return '; wspserve --help explains the command'
    return near_one(name, [one for one in names if one.endswith('.ini')])


def module_hint(name: str, file: str | None) -> str:
    """Return why a module is not found, or which one is meant, as the end of a message, or ''.

    :param name: the dotted name of a module that does not exist.
    :param file: the .ini: modules beside it come first.
    """
    if hint := unreadable_hint():
        return hint
    package, _, last = name.rpartition('.')
    if last == 'py':
        return f'; did you mean {package!r}?'
    if package:
        folders = [*getattr(sys.modules.get(package), '__path__', ())]
        return _no_file(last, folders) or nearest(last, _modules(folders))
    folders = [os.path.dirname(os.path.abspath(file))] if file else []
    near = _no_file(name, folders) or nearest(name, _modules(folders))
    return near or near_one(name, _modules(None))


def _no_file(name: str, folders: Iterable[str]) -> str:
    for path in (os.path.join(folder, f'{name}.py') for folder in folders):
        if os.path.lexists(path) and not os.path.isfile(path):
            return f': {path} is not a file, or a link to nothing'
    return ''


def unreadable_hint() -> str:
    """Return that this user cannot read a folder of modules, as the end of a message, or ''."""
    folder = unreadable_folder()
    return f'; this user cannot read {folder}' if folder is not None else ''


def more_of(error: BaseExceptionGroup | ModuleNotFoundError) -> str:
    """Return what the message of an exception lacks: a group does not name its exceptions."""
    if isinstance(error, ModuleNotFoundError):
        return unreadable_hint()
    from paste_wspbus.ini.factories import one_line

    return f': {one_line(error.exceptions[0])}'


def hidden_hint(
    module: str, file: str | None, found: str | None, anywhere: bool = False
) -> str:
    """Return that a module beside the .ini cannot be imported, as the end of a message.

    :param found: the file that is imported instead; None if nobody knows it.
    :param anywhere: whether the module that is imported lacks what is wanted: then it may
        be an installed one.
    :returns: '' if no other module has its name.
    """
    top = module.partition('.')[0]
    beside = os.path.join(os.path.dirname(os.path.abspath(file or '')), top)
    is_pythons = top in sys.stdlib_module_names
    if (found or '').startswith(beside) or not (is_pythons or (anywhere and found)):
        return ''
    if not (os.path.isfile(f'{beside}.py') or os.path.isdir(beside)):
        return ''
    if is_pythons:
        whose = f'Python has a module {top!r} of its own'
    else:
        whose = f'a package that is installed has a module {top!r}, too ({found})'
    return f': {whose}: rename the one beside the .ini'


def section_hint(prefixes: Sequence[str], own: str, sections: Iterable[str]) -> str:
    """Return the section that may be meant, as the end of a message, or ''.

    :param prefixes: what may stand before the colon of the section that does not exist.
    :param own: what stands after it.
    """
    kinds = {one: one.partition(':')[0] for one in sections}
    for one in kinds:
        # As [app.main] of TOML, [app main], [[app:main]], [App:Main].
        plain = re.sub(r'\W', '', one).lower()
        if plain in [f'{prefix}{own}'.lower() for prefix in prefixes]:
            return f'; did you mean [{prefixes[0]}:{own}], and not [{one}]?'
    same = [one for one in kinds if one.partition(':')[2].strip() == own]
    named = {kinds[one].lower(): one for one in same}
    for prefix in prefixes:
        # [filter:…] is another kind, and no typo of [filter-app:…].
        for one in get_close_matches(prefix, named, 1, 0.8):
            return f'; did you mean [{prefixes[0]}:{own}], and not [{named[one]}]?'
    # Sections of each kind are called main, so this name alone says nothing.
    alike = [one for one in kinds if kinds[one] in prefixes]
    there = alike if own == 'main' else [*same, *alike]
    return f'; there is a section [{there[0]}]' if there else ''


#: How to do without a [server:main].
NO_SERVER = 'add one, or start the site with --listen HOST:PORT'


def server_hint(sections: Iterable[str]) -> str:
    """Return the section that is meant by a missing [server:main], or how to do without."""
    near = get_close_matches('server:main', list(sections), 1, NEAR)
    if near:
        return f'did you mean [server:main], and not [{near[0]}]?'
    return NO_SERVER


#: The names that are no keys of [wspbus:main], but options of the command, or keys
#: elsewhere.
NOT_HERE = {
    'user': 'write --user NAME on the command line',
    'group': 'write --group NAME on the command line',
    'daemon': 'write --daemon on the command line',
    'reload': 'write --reload on the command line',
    'server': 'write a section [server:main]',
    **dict.fromkeys(('host', 'port', 'threads'), 'it is a key of [server:main]'),
}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key that [wspbus:main] does not have."""
    elsewhere = NOT_HERE.get(key)
    return f'unknown key{f"; {elsewhere}" if elsewhere else nearest(key, known)}'


def signal_hint(name: str) -> str:
    """Return the signal that is meant by a name that none has, as the end of a message."""
    known = [one.name.removeprefix('SIG') for one in Signals]
    own = name.upper().removeprefix('SIG')
    hint = '' if own in known else nearest(own, known)
    return hint if own == name.upper() else hint.replace("'", "'SIG", 1)


def no_application(result: Any) -> str:
    """Return the message for what a factory has returned instead of a WSGI application, or ''."""
    import inspect

    if inspect.iscoroutine(result):
        result.close()  # Python would warn that nobody has awaited it
        name = result.__qualname__
        return (
            f'{name} is an async function, and wspserve serves WSGI: write def {name}'
        )
    if callable(result):
        name = getattr(result, '__qualname__', type(result).__name__)
        is_function = inspect.isroutine(result)
        if not inspect.iscoroutinefunction(
            result if is_function else type(result).__call__
        ):
            return _takes_no_request(result, name)
        return (
            f'{name} is an async application (ASGI), and wspserve serves WSGI: wrap it, as '
            'a2wsgi.ASGIMiddleware does'
        )
    if inspect.isgenerator(result):
        name = result.__qualname__
        return f'{name} has a yield, so it returns no application: write return'
    return f'{result!r} is not an application: it cannot be called'


def _takes_no_request(app: Any, name: str) -> str:
    import inspect

    try:
        inspect.signature(app).bind({}, None)
    except TypeError as error:
        return (
            f'{name} is not an application, which takes (environ, start_response): '
            f'{error}; is it a filter?'
        )
    except ValueError:  # nobody knows what it takes
        pass
    return ''


def missing_key(key: str, own: Iterable[str]) -> str:
    """Return the message for a section without a key that it needs."""
    near = None if key in own else closest(key, own)
    typo = f'; {near!r} may be a typo of it' if near is not None else ''
    what = '; it names what to load: egg:DIST#NAME or call:MODULE:FUNCTION'
    missing = 'this key has no value' if key in own else 'this key is missing'
    return f'{missing}{typo}{what if key == "use" else ""}'


def call_problem(
    context: Any, error: BaseException, name: str, problem: str
) -> tuple[str, str]:
    """Return the name and the problem, if the call of a factory raises a TypeError.

    :param context: the context of its section.
    """
    if not callable(factory := context.object):
        return repr(factory), 'is no factory: it cannot be called'
    hint = call_hint(context, error)
    # What PasteDeploy adds to the message are the values that it has passed.
    return name, f'{problem.partition("; got (")[0]}{hint}' if hint else problem


def call_hint(context: Any, error: BaseException) -> str:
    """Return how a factory must look, if it cannot take what PasteDeploy passes, or ''.

    :param context: the context of its section.
    :param error: the error of the call.
    """
    import inspect

    from paste_wspbus.ini.plugins import NEEDS

    kind = context.object_type.name
    if not isinstance(error, TypeError) or kind not in SIGNATURES:
        return ''
    factory, settings = context.object, context.local_conf
    count = 2 if kind in ('plugin', 'composite') else 1
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return ''
    try:
        signature.bind(*[None] * count, **settings)
    except TypeError:
        takes = list(signature.parameters)
    else:
        return ''
    names = [*takes[count:], *NEEDS] if kind == 'plugin' else takes[count:]
    for key in settings:
        if key not in takes and (hint := nearest(key, names)):
            return hint
    if kind == 'application' and takes[:2] == ['environ', 'start_response']:
        name = _named_in(context) or 'MODULE:NAME'
        return f'; it is an application and no factory: write {wsgi_object(name)}'
    wanted, result = SIGNATURES[kind]
    return f'; a factory takes {wanted} and returns {result}'


def _named_in(context: Any) -> str:
    """Return the MODULE:NAME that a section calls, or ''."""
    parser = getattr(context.loader, 'parser', None)
    section = getattr(context, 'section', None)
    if parser is None or not parser.has_section(section):
        return ''
    use = parser._sections[section].get('use', '')
    return use.removeprefix('call:') if use.startswith('call:') else ''


def no_package(package: str) -> str:
    """Return the message for a server that needs a package that cannot be imported."""
    if package in sys.stdlib_module_names:
        return f'this user cannot import {package}, a module of Python itself'
    how = unreadable_hint() or f': pip install {package}'
    return f'this server needs the package {package}, which is not installed{how}'


def call_meant(text: str) -> str:
    """Return the call: that is meant by MODULE:NAME, or by MODULE.NAME, or ''."""
    if re.fullmatch(r'[^\W\d][\w.]*:[^\W\d][\w.]*', text):
        return f'; did you mean call:{text}?'
    module, _, name = text.removesuffix('()').rpartition('.')
    if name != 'py' and re.fullmatch(r'[^\W\d][\w.]*', module):
        return f'; did you mean call:{module}:{name}?'
    return ''


def wsgi_object(name: str) -> str:
    """Return the keys of a section whose application is MODULE:NAME."""
    return f'use = egg:paste_wspbus#wsgi and app = {name}'


def as_elsewhere(argument: str) -> str:
    """Return how an .ini names MODULE:NAME, which other servers take, or ''."""
    if not re.fullmatch(r'[^\W\d][\w.]*:[\w.]+', argument):
        return ''
    keys = wsgi_object(argument)
    return f'; to serve an application, write an .ini whose [app:main] has {keys}'


def _modules(folders: Iterable[str] | None) -> list[str]:
    import pkgutil

    paths = None if folders is None else list(folders)
    return [one.name for one in pkgutil.iter_modules(paths)]


def near_one(name: str, known: Iterable[str]) -> str:
    """Return the one of many names that is meant, as the end of a message, or ''."""
    lower = {one.lower(): one for one in known}
    found = get_close_matches(name.lower(), lower, 1, NEAR)
    return f'; did you mean {lower[found[0]]!r}?' if found else ''


def entry_points(said: str) -> str:
    """Reword PasteDeploy's "Entry point 'x' not found in egg 'y'": name the existing ones."""
    found = re.match(
        r"Entry point '(.*?)' not found in egg '(.*?)' \(protocols: (.*?);", said
    )
    if not found:
        return said
    from importlib import metadata

    name, dist, protocols = found.groups()
    groups = [group.strip() for group in protocols.split(',')]
    names = sorted(
        entry.name
        for entry in metadata.distribution(dist).entry_points
        if entry.group in groups
    )
    there = f'it has {", ".join(names)}' if names else f'it has no {groups[0]}'
    return f'{dist} has no entry point {name!r}; {there}{nearest(name, names)}'
