"""The names of new distributions, and of their packages."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder

from paste_wspbus.errors import UsageError

#: What a distribution may be called: letters, digits, and between them ``.``, ``_``, ``-``
#: (the core metadata specification of PyPA).
DISTRIBUTION = r'[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?'

#: Names that the new package itself needs for something else.
TAKEN = frozenset(['paste', 'paste_wspbus', 'pytest', 'tests'])

#: The names of the default plugins: a plugin of the same name would take their place.
DEFAULT_PLUGINS = frozenset(
    ['autoreload', 'restart', 'signals', 'sitelog', 'systemd', 'threads']
)


def package_of(name: str) -> str:
    """Return the name of the package of a distribution: acme_cache for Acme-Cache.

    :raises UsageError: if there can be no such distribution or package; the text says why.
    """
    if not re.fullmatch(DISTRIBUTION, name):
        raise UsageError(
            f'{name!r} is no name of a distribution: letters, digits, and ., _ or - '
            'between them'
        )
    package = re.sub('[._-]+', '_', name).lower()
    if not package.isidentifier():
        why = 'the name of its package begins with a digit'
    elif keyword.iskeyword(package) or package.capitalize() in keyword.kwlist:
        why = f'{package} is a keyword of Python'
    elif package in sys.stdlib_module_names:
        why = f"{package} is a module of Python's standard library"
    elif package in TAKEN:
        why = f'its package would need the name {package} itself'
    elif package in DEFAULT_PLUGINS:
        why = f'{package} is the name of a default plugin'
    elif _is_installed(package):
        why = f'a module {package} is installed already'
    else:
        return package
    raise UsageError(f'{name!r} cannot be the name: {why}')


def _is_installed(package: str) -> bool:
    """Whether Python would find another package, but for those in the working folder."""
    found = PathFinder.find_spec(package, [one for one in sys.path if one])
    # A folder without __init__.py is found, too, and its loader has no file.
    return found is not None and found.origin is not None
