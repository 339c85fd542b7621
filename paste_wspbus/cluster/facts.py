"""What a member reports of itself to the others: the keys, their limits, and how they are read."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from paste_wspbus.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from paste_wspbus.cluster.engine import Seen
    from paste_wspbus.ini.config import Config

#: The number of bytes that the JSON of the facts has at most, and that of one text in them.
MAX_FACTS, MAX_TEXT = 1024, 200

#: The number of machines that are shown at most.
MAX_MACHINES = 1000

#: Distributions whose applications are used by many sites: their version is not that of
#: the site.
_OF_ANY_SITE = 'paste-wspbus', 'paste', 'pastescript', 'pastedeploy'

#: The keys of facts that are texts, numbers, and true or false.
_TEXTS, _NUMBERS = ('release', 'version', 'state'), ('generation', 'serving', 'wanted')
_TIMES, _FLAGS = ('since', 'ttl'), ('renewing', 'drained')


class Release(NamedTuple):
    """Which code a generation runs; None stands for what is not known.

    ``release`` is the name of the folder to which the link in the path of the .ini leads:
    ``42`` for /srv/shop/current/site.ini, where ``current`` leads to releases/42.
    ``version`` is that of the distribution that has the application.
    """

    release: str | None = None
    version: str | None = None


def release_of(config: Config, ini: str, app: str) -> Release:
    """Return which code an .ini serves now.

    :param ini: the path of the .ini as it was given, with the links in it.
    :param app: the name of its application.
    """
    return Release(folder_of(ini), _version_of(config, app))


def folder_of(path: str) -> str | None:
    """Return the name of the folder to which the link in a path leads; None without a link.

    Of several links, the one counts that leads to a folder below its own folder, as
    ``current`` does with most deployment tools; if there is none, the last one.
    """
    found, place = None, ''
    for name in os.path.dirname(path).split(os.sep):
        folder, place = place, f'{place}{name}/'
        link = place.rstrip(os.sep)
        if not name or not os.path.islink(link):
            continue
        real = os.path.realpath(link)
        found = os.path.basename(real)
        own = os.path.realpath(folder or os.curdir)
        if own != os.sep and real.startswith(f'{own}{os.sep}'):
            break
    return found or None


def _version_of(config: Config, app: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        name = _distribution_of(config, app)
        return version(name) if name else None
    except (PackageNotFoundError, ValueError, ConfigError):
        return None


def _distribution_of(config: Config, app: str) -> str:
    """Return the name of the distribution that has the application; '' if it is not known.

    That is the one behind ``egg:``; behind ``call:`` and ``paste.app_factory``, the module
    has often the name of its distribution.
    """
    loader, steps = config.loader, 20
    sections = loader.parser.sections()
    while steps:
        steps -= 1
        pipeline = f'pipeline:{app}'
        if pipeline in sections:
            *_, app = config.section(pipeline).get('pipeline', '').split() or ['']
            continue
        own = config.section(f'app:{app}')
        scheme, _, rest = own.get('use', '').partition(':')
        if 'paste.app_factory' in own:
            scheme, rest = 'call', own['paste.app_factory']
        if scheme == 'egg':
            found = re.match(r'[\w.-]+', rest)
        elif scheme == 'call':
            found = re.match(r'\w+', rest)
        elif not rest and scheme:  # another section
            app = scheme
            continue
        else:
            return ''
        name = found[0] if found else ''
        return '' if re.sub('[-_.]+', '-', name.lower()) in _OF_ANY_SITE else name
    return ''


def bounded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts whose JSON has at most MAX_FACTS bytes: texts are cut, names left out."""
    kept = {
        key: cut(value) if isinstance(value, str) else value
        for key, value in facts.items()
        if key != 'leads'
    }
    kept['leads'] = leads = []
    for name in facts.get('leads', ()):
        leads.append(cut(name))
        if len(json.dumps(kept)) > MAX_FACTS - len(', "…"') * 2:
            leads[-1] = '…'
            break
    return kept


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return a text whose JSON has at most so many bytes; … stands for the rest."""
    if len(json.dumps(text)) <= most:
        return text
    text = text[:most]
    while len(json.dumps(f'{text}…')) > most:
        text = text[:-1]
    return f'{text}…'


def described(found: Sequence[Seen]) -> list[dict[str, Any]]:
    """Return what `Engine.members` has found as the supervisor gets it, with a limit."""
    return [
        {
            'machine': cut(one.member.machine),
            'id': cut(one.member.id),
            'age': round(one.age, 3),
            **read(one.facts),
        }
        for one in found[:MAX_MACHINES]
    ]


def read(facts: Any) -> dict[str, Any]:
    """Return the facts of another member, which may be of another version, or nonsense.

    :returns: all keys; None stands for a value that is missing or of another kind.
    """
    given = facts if isinstance(facts, dict) else {}

    def kept(key: str, *kinds: type) -> Any:
        value = given.get(key)
        return value if type(value) in kinds else None

    found: dict[str, Any] = {}
    for key in _TEXTS:
        value = kept(key, str)
        found[key] = cut(value) if value else None
    for key in _NUMBERS:
        value = kept(key, int)
        found[key] = value if value is not None and abs(value) < 1 << 53 else None
    for key in _TIMES:
        value = kept(key, int, float)
        found[key] = value if value is not None and abs(value) < 1e15 else None
    found |= {key: kept(key, bool) for key in _FLAGS}
    leads = kept('leads', list)
    found['leads'] = leads and [cut(one) for one in leads[:50] if type(one) is str]
    return found
