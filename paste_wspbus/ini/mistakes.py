"""The words for mistakes in an .ini: errors of configparser and PasteDeploy become ConfigErrors.

Only an error needs this module.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from difflib import get_close_matches

from paste_wspbus.bus import exit_code_of
from paste_wspbus.bus.places import place_of_error
from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.ini.factories import (
    APP,
    NO_NAME,
    at_place,
    making,
    name_of_factory,
    one_line,
)
from paste_wspbus.ini.hints import (
    call_meant,
    call_problem,
    distribution_hint,
    entry_points,
    hidden_hint,
    indented,
    missing_key,
    module_hint,
    near_one,
    section_hint,
)
from paste_wspbus.ini.pastedeploy import importlib_metadata, loadwsgi
from paste_wspbus.values import NEAR, nearest, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from paste_wspbus.ini.file import ConfigLoader

#: The prefix of ``%(ENV_NAME)s``.
ENV = 'ENV_'

#: How many names of applications it shows.
NAMES = 5


#: What Python raises of a module that is there, before the first line of it runs: a file that
#: this user may not read, a null byte, a library for another version of Python.
UNREADABLE = (OSError, SyntaxError, ImportError, EOFError)


#: The kinds of sections that no .ini of uWSGI alone has.
NOT_OF_UWSGI = re.compile(
    r'(?m)^\[(app|application|composit|composite|pipeline|filter-app|server|wspbus)\b'
)


# -- reading ---------------------------------------------------------------------------


def refuse_uwsgi(path: str, text: str) -> None:
    """Refuse an .ini that only uWSGI can read, and say how it becomes one for wspserve.

    :raises ConfigError: if it is one.
    """
    if re.search(r'(?m)^\[uwsgi\]', text) and not NOT_OF_UWSGI.search(text):
        how = f'"wspserve --from {path}" prints what says the same here'
        raise ConfigError(path, f'it is for uWSGI alone: {how}')


# -- interpolation -----------------------------------------------------------------------


def in_interpolation(
    file: str,
    error: configparser.InterpolationError,
    parser: Any,
) -> ConfigError:
    """Return the ConfigError for an error of configparser about ``%(name)s``.

    :param parser: that of the file, which has the names that the value may use.
    """
    reference = getattr(error, 'reference', None)
    section, key = _place_of_reference(parser, error.section, error.option, reference)
    own = {*parser._sections.get(section, ())} - {key}
    names = {*own, *parser._defaults, *getattr(parser._interpolation, 'vars', ())}
    if reference and reference.startswith(ENV):
        name = reference[len(ENV) :]
        hint = near_one(name, os.environ)
        problem = f'the environment variable {name} is not set{hint}'
    elif reference and (hint := near_one(reference, names)):
        meant = hint.split("'")[1]
        problem = f'%({reference})s has no value; did you mean %({meant})s?'
    elif reference:
        problem = (
            f'%({reference})s has no value: set {reference} in [DEFAULT], or write '
            f'{reference}=VALUE after the file name; for a percent sign, write %%'
        )
    elif f'%({error.option})s' in str(error.args[-1]):
        problem = (
            f'%({error.option})s has no value: write {error.option}=VALUE after the file '
            'name'
        )
    elif isinstance(error, configparser.InterpolationDepthError):
        problem = 'the value names itself, or others that name it'
    else:
        # What follows the percent sign is not shown: it may be the rest of a password.
        problem = (
            "'%' must be followed by '%' or '(NAME)s'; for a percent sign, write %%"
        )
    line = _line_of(file, section, key, parser.optionxform)
    return ConfigError(file, problem, section=section, key=key, line=line)


def _place_of_reference(
    parser: Any, section: str, key: str, reference: str | None
) -> tuple[str, str]:
    """Return the section and the key that have ``%(reference)s``.

    The value that was asked for may use other keys of its section or of [DEFAULT], and one
    of these may have it.
    """
    own, defaults = parser._sections.get(section, {}), parser._defaults
    asked = [key]
    for name in asked:
        text = own.get(name, defaults.get(name)) or ''
        if not reference or f'%({reference})s' in text:
            return section if name in own else parser.default_section, name
        asked += [one for one in re.findall(r'%\((.+?)\)s', text) if one not in asked]
    return section, key


def _line_of(
    file: str, section: str, key: str, as_key: Callable[[str], str]
) -> int | None:
    """Return the number of the line of a key; None if it is not in this file.

    The file is read again, because configparser keeps no numbers.

    :param as_key: makes what configparser uses as a key, which may be lower case.
    """
    try:
        with open(file, encoding='utf-8-sig', errors='replace') as lines:
            inside = False
            for number, line in enumerate(lines, 1):
                if line.startswith('['):
                    inside = line.partition(']')[0] == f'[{section}'
                elif inside and as_key(re.split('[=:]', line)[0].rstrip()) == key:
                    return number
    except OSError:
        pass
    return None


# -- loading -----------------------------------------------------------------------------


def in_loading(
    file: str,
    section: str,
    own: Mapping[str, str],
    known: Mapping[str, str],
    error: BaseException,
) -> ConfigError:
    """Return the error for a section whose factory cannot be found or imported.

    :param own: the keys of the section.
    :param known: the keys of [DEFAULT].
    :returns: a FactoryError (exit code 1) if code was imported and has failed; a
        ConfigError (exit code 2) if the .ini names something that does not exist.
    """
    key = 'use' if 'use' in own else next((k for k in own if _is_explicit(k)), None)
    use = own[key] if key else None
    if use and (line := indented(use)):
        return ConfigError(file, line, section=section, key=key)
    place = place_of_error(error)
    at = f', at {place}' if place else ''
    if isinstance(error, SystemExit):
        why = error.code if isinstance(error.code, str) else ''
        why = why or f'exit code {exit_code_of(error)}'
        problem = f'its module exited while it was imported: {why}{at}'
        return FactoryError(file, problem, section=section, key='use')
    module = (use or '').removeprefix('call:').partition(':')[0]
    if type(error) is AttributeError and (hidden := _hidden(module, file)):
        return ConfigError(file, f'{use}{hidden}', section=section, key=key)
    if place:
        problem = f'{use or section}: {one_line(error)}{at}'
        return FactoryError(file, problem, section=section, key=key)
    missing = _missing_key(own, known, error)
    if missing:
        name, key = missing
        problem = f'[DEFAULT] has no key {name!r}{nearest(name, known)}'
    else:
        key, problem = _in_words(file, own, key, use, section, error)
        if isinstance(error, UNREADABLE) and not isinstance(error, ModuleNotFoundError):
            return FactoryError(file, problem, section=section, key=key)
    return ConfigError(file, problem, section=section, key=key)


#: From the kinds of objects in PasteDeploy to their names in messages.
_MADE = {'filtered_with': 'application', 'filter_app': 'application'}


def returned_none(context: Any, file: str | None, section: str | None) -> FactoryError:
    """Return the error for a factory that has returned nothing."""
    kind = context.object_type.name
    problem = f'returned None instead of the {_MADE.get(kind, kind)}'
    return FactoryError(file, f'{name_of_factory(context)} {problem}', section=section)


def in_factory(context: Any, error: BaseException) -> str:
    """Return what is wrong with a factory that has raised an error, or has exited.

    :param context: the context of its section.
    """
    name, problem = name_of_factory(context), f'failed: {one_line(error)}'
    at = at_place(error)
    if isinstance(error, TypeError) and not at:
        name, problem = call_problem(context, error, name, problem)
    if isinstance(error, SystemExit):
        called = '' if error.code is None else repr(error.code)
        made = context.object_type.name
        problem = f'called sys.exit({called}) instead of returning the {made}'
    return f'{name} {problem}{at}'


def _hidden(module: str, file: str) -> str:
    """Return that a module was imported from elsewhere than beside the .ini, or ''."""
    loaded = sys.modules.get(module)
    # A package without an __init__.py has folders alone.
    folders = [*getattr(loaded, '__path__', ()), None]
    found = getattr(loaded, '__file__', None) or folders[0]
    return hidden_hint(module, file, found, anywhere=True)


def _is_explicit(key: str) -> bool:
    """Whether a key, such as paste.app_factory, names a factory without ``use``."""
    return key.startswith(('paste.', 'paste_wspbus.'))


def _missing_key(
    own: Mapping[str, str], known: Mapping[str, str], error: BaseException
) -> tuple[str, str] | None:
    """Return the name that a key ``get NAME`` asks for, and this key, if it is missing."""
    if type(error) is KeyError and error.args and error.args[0] not in known:
        for key, value in own.items():
            if key.startswith('get ') and value == error.args[0]:
                return value, key
    return None


def _in_words(
    file: str,
    own: Mapping[str, str],
    key: str | None,
    use: str | None,
    section: str,
    error: BaseException,
) -> tuple[str | None, str]:
    """Return the key that is wrong, and what is wrong with it."""
    said = str(error).strip('"') or type(error).__name__
    if isinstance(error, ValueError) and _names_nothing(use):
        return key, f'{use}: {NO_NAME}'
    if isinstance(error, ModuleNotFoundError):
        return key, f'{use}: {_not_found(file, use or "", error, said)}'
    if isinstance(error, AttributeError) and use:
        return key, f'{use}{_no_name(file, key, use, error, said)}'
    if isinstance(error, IndexError) and not own.get('pipeline', ' ').split():
        return (
            'pipeline',
            'it names no application: filters first, the application last',
        )
    if type(error) is LookupError:
        return _in_pastedeploys_words(own, key, use or '', said)
    return key, f'{use or section}: {one_line(error)}'


def _not_found(file: str, use: str, error: ModuleNotFoundError, said: str) -> str:
    """Return which distribution or module is missing."""
    if isinstance(error, importlib_metadata.PackageNotFoundError):
        name = error.name or said
        hint = value_hint(use) or distribution_hint(name)
        return f'the distribution {name!r} is not installed{hint}'
    return f'there is no module {error.name!r}{module_hint(error.name or "", file)}'


def _no_name(
    file: str, key: str | None, use: str, error: AttributeError, said: str
) -> str:
    """Return that a module lacks what an entry names: the end of a message."""
    if key != 'use' and not importlib_metadata.EntryPoint.pattern.match(use):
        return ': write MODULE:FUNCTION'
    if hidden := _hidden(use.removeprefix('call:').partition(':')[0], file):
        return hidden
    near = value_hint(use) or nearest(error.name or '', dir(error.obj))
    return f': {said}{near}'


def _in_pastedeploys_words(
    own: Mapping[str, str], key: str | None, use: str, said: str
) -> tuple[str | None, str]:
    """Return what `_in_words` does, for a LookupError that PasteDeploy raises itself."""
    if said.startswith('Entry point'):
        return key, f'{use}: {entry_points(said)}'
    if said.startswith('No loader given'):
        return 'use', missing_key('use', own)
    if said.startswith('URI scheme not known'):
        return key, f'{use}: {bad_scheme(use)}'
    if said.startswith('Configuration not in'):
        meant = call_meant(use.removeprefix('call:'))
        return key, f'{use}: write call:MODULE:FUNCTION{meant}'
    lacks = re.search(r"missing a '(.+?)' setting", said)
    if lacks:
        return lacks[1], missing_key(lacks[1], own)
    return key, re.sub(r' in \S+ ', ' ', said)


def bad_scheme(uri: str) -> str:
    """Return what is wrong with a URI that has no known scheme."""
    scheme = uri.partition(':')[0]
    hint = '' if '/' in uri else f'; did you mean call:{uri}?'
    return f'it must begin with config:, egg: or call:, not with {scheme}:{hint}'


def call_in_filter_app(file: str, section: str, use: str) -> ConfigError:
    """Return the error of ``use = call:`` in a [filter-app:…]: PasteDeploy fails there."""
    return ConfigError(
        file,
        f'{use}: PasteDeploy takes no call: in a [filter-app:…]. Write it into a section '
        '[filter:NAME], and use = NAME here',
        section=section,
        key='use',
    )


def _names_nothing(use: str | None) -> bool:
    """Whether it is an ``egg:`` without a distribution."""
    scheme, _, rest = (use or '').partition(':')
    return scheme.lower() == 'egg' and not rest.partition('#')[0]


def in_circle(file: str, steps: Sequence[tuple[str, str]]) -> ConfigError:
    """Return the error for sections that use each other.

    :param steps: the file and the name of each section; the last one is the first.
    """
    several = len({one for one, _ in steps}) > 1
    names = [
        f'{os.path.basename(one)} [{section}]' if several else f'[{section}]'
        for one, section in steps
    ]
    problem = f'sections use each other in a circle: {" → ".join(names)}'
    return ConfigError(file, problem)


def no_included(loader: ConfigLoader, uri: str, error: ConfigError) -> ConfigError:
    """Return the error for a ``config:`` URI in an .ini, which names it if there is no file."""
    if os.path.isfile(error.file or ''):
        return error
    section = loader.resolving[-1][2] if loader.resolving else None
    own = loader.parser._sections.get(section, {})
    key = next((key for key, value in own.items() if uri in value.split()), None)
    names = uri.partition(':')[2].partition('#')[0].strip()
    problem = f'{uri}: {error.problem if names else "write config:FILE"}'
    return ConfigError(loader.filename, problem, section=section, key=key)


def _section_meant(
    loader: ConfigLoader,
    prefixes: Sequence[str],
    name: str,
    known: Sequence[str],
    asks: str | None,
) -> str:
    """Return what is meant by a section that does not exist, as the end of a message, or ''.

    :param known: the names of the sections of its kind.
    :param asks: the section that names it; None if it is the command line.
    """
    if name[:1] in '\'"“”„‘’«':
        return '; a value has no quotes'
    if name.endswith(','):
        return '; spaces separate the names, and no commas'
    near = nearest(name, known)
    if not asks and name == 'main' and prefixes[0] == 'app':
        # The section is wrong, and not the name.
        for found in get_close_matches(name, known, 1, NEAR):
            return f'; did you mean [app:main], and not [app:{found}]?'
        if known:
            return _served_by_name(loader, known)
    if hint := near or (call_meant(name) if asks else ''):
        return hint
    others = [one for one in loader.parser.sections() if one != asks]
    what = '; it names a section, egg:DIST#NAME, call:MODULE:FUNCTION or config:FILE'
    hint = section_hint(prefixes, name, others) or (what if asks else '')
    if hint.endswith(f':{name}]') and 'pipeline' in loader.parser._sections.get(
        asks, {}
    ):
        hint += '; filters stand first, the application last'
    return hint


def _is_same(file: str, other: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(other)


def _served_by_name(loader: ConfigLoader, known: Sequence[str]) -> str:
    """Return how to serve an application that is not called main, as the end of a message.

    :param known: the names of all applications. An application may be a part of another.
    """
    prefixes, sections = loadwsgi._flatten(APP.config_prefixes), loader.parser._sections
    asking = [own for s, own in sections.items() if s.partition(':')[0] in prefixes]
    parts = {word for own in asking for text in own.values() for word in text.split()}
    whole = [one for one in dict.fromkeys(known) if one not in parts] or [*known]
    file = os.path.basename(loader.filename)
    if len(whole) == 1:
        return f'; to serve another one, write {file}#{whole[0]}'
    others = ', …' if len(whole) > NAMES else ''
    names = ', '.join(whole[:NAMES])
    return f'; to serve another one, write {file}#NAME ({names}{others})'


def no_section(
    loader: ConfigLoader, object_type: Any, name: str, error: LookupError
) -> ConfigError:
    """Return the error for a section that PasteDeploy has not found.

    :param object_type: PasteDeploy's kind of object.
    """
    parser = loader.parser
    section = loader.resolving[-1][2] if loader.resolving else None
    if section is None and making:  # the factory of a composite asks for its parts
        section = making[-1][1]
    own = parser._sections.get(section, {})
    key = next((key for key, value in own.items() if name in value.split()), None)
    asks = ''
    file = loader.resolving[-1][0] if loader.resolving else making and making[-1][0]
    if section and not key and file and not _is_same(file, loader.filename):
        asks, section = f', which {os.path.basename(file)} [{section}] names', None
    if section and own.get('use') == '':
        key, problem = 'use', missing_key('use', own)
    elif 'Ambiguous' in str(error):
        problem = str(error).partition(' found in')[0]
    else:
        prefixes = loadwsgi._flatten(object_type.config_prefixes)
        known = [
            one.partition(':')[2] or 'main'
            for one in parser.sections()
            if one.partition(':')[0] in prefixes
        ]
        hint = _section_meant(loader, prefixes, name, known, section)
        problem = f'there is no section [{prefixes[0]}:{name}]{asks}{hint}'
    return ConfigError(loader.filename, problem, section=section, key=key)
