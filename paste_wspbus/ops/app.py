"""The application `egg:paste_wspbus#health`: the probes, for an .ini that wants them in the site."""

from __future__ import annotations

import json
import os

from webob import Response

from paste_wspbus.errors import ConfigError, SettingError, WSPBusError
from paste_wspbus.handoff import get_bus
from paste_wspbus.ini.masking import secrets_of
from paste_wspbus.ops.found import check_of
from paste_wspbus.ops.health import Checked, checks_of, masked
from paste_wspbus.ops.pages import Asked, as_json, healthy, live, ready, startup
from paste_wspbus.ops.requests import Request
from paste_wspbus.ops.snapshot import Snapshot, State
from paste_wspbus.reference import KEY
from paste_wspbus.servers.settings import convert
from paste_wspbus.values import boolean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

#: How an .ini names this application.
USE = 'egg:paste_wspbus#health'

#: The number of bytes that the file of the version has at most.
MAX_VERSION = 1 << 16

#: From the last segment of a path to its page. The names with underscores are those of
#: Dockerflow (github.com/mozilla-services/Dockerflow).
PAGES: dict[str, Callable[[Asked], Response]] = {
    'live': live,
    'ready': ready,
    'startup': startup,
    'health': healthy,
    '__lbheartbeat__': live,
    '__heartbeat__': healthy,
}


class Health:
    """A WSGI application that answers probes from the bus of its process.

    The last segment of the path names the page, so it works wherever it is mounted: at
    ``/health``, or at ``/__heartbeat__``.

    :param details: whether it shows the texts of the checks to everybody.
    :param secrets: what these texts do not show: see `ini.masking.secrets_of`.
    :param version: the text of Dockerflow's version.json; None if there is none.
    """

    def __init__(
        self, bus: Bus, details: bool, secrets: list[str], version: str | None
    ) -> None:
        self._bus, self._details, self._version = bus, details, version
        self._secrets = secrets

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request; it does not count for ``max_requests``, nor as one that was served."""
        requests: Any = self._bus.plugins.get('requests')
        if hasattr(requests, 'not_counted'):
            requests.not_counted += 1
        response = self._answer(environ)
        response.headers['Cache-Control'] = 'no-store'
        return response(environ, start_response)  # type: ignore[no-any-return]

    def _answer(self, environ: dict[str, Any]) -> Response:
        method, below = environ['REQUEST_METHOD'], environ.get('PATH_INFO', '')
        if method not in ('GET', 'HEAD'):
            response = as_json({'error': 'only GET and HEAD'}, 405)
            response.allow = ('GET', 'HEAD')
            return response
        name = (environ.get('SCRIPT_NAME', '') + below).rstrip('/').rpartition('/')[2]
        if name == '__version__':
            return self._about_version()
        page = PAGES.get(name)
        if page is None and below.strip('/'):
            return as_json({'error': 'there is no such page'}, 404)
        request = Request(method, f'/{name}')
        asked = Asked(request, self._snapshot(), self._details)
        return (page or healthy)(asked)

    def _about_version(self) -> Response:
        if self._version is None:
            return as_json({'error': 'there is no version.json'}, 404)
        return Response(self._version, content_type='application/json', charset='UTF-8')

    def _snapshot(self) -> Snapshot:
        bus = self._bus
        checks = checks_of(bus)
        if self._details:
            checks = masked(checks, self._secrets)
        state = State(bus.state.name, True, bus.drained, bus.execv)
        return Snapshot(state, {}, [Checked('site', True, checks)])


def make_health(global_conf: Mapping[str, str], **local_conf: str) -> Health:
    """Make the application of ``use = egg:paste_wspbus#health``.

    Its entry point is in the group paste.app_factory. ``details = true`` shows the texts of
    the checks; ``version`` is the path of Dockerflow's version.json, which is beside the
    .ini if nothing is said.

    :raises ConfigError: if a key is unknown or wrong, or the file is no JSON object.
    """
    folder = global_conf.get('here', os.curdir)
    try:
        conf = convert(local_conf, {'details': _boolean, 'version': str})
        named = conf.get('version')
        version = _read(os.path.join(folder, named or 'version.json'), bool(named))
    except SettingError as error:
        file, problem = global_conf.get('__file__'), f'{error.problem} ({USE})'
        raise ConfigError(file, problem, key=error.key) from None
    bus = get_bus(global_conf)
    bus.make_checks().find = check_of
    details = conf.get('details', False)
    return Health(bus, details, _secrets(global_conf) if details else [], version)


def _secrets(global_conf: Mapping[str, str]) -> list[str]:
    from paste_wspbus.ini.config import Config

    file = global_conf.get('__file__')
    if not file:
        return []
    own = (KEY, 'here', '__file__')
    vars = {key: value for key, value in global_conf.items() if key not in own}
    try:
        return secrets_of(Config(file, vars, os.curdir))
    except WSPBusError:  # the program that serves this .ini accepts it
        return []


def _boolean(text: str) -> bool:
    try:
        return boolean(text)
    except ValueError:
        raise SettingError('details', f'{text!r} is not true or false') from None


def _read(path: str, is_named: bool) -> str | None:
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read(MAX_VERSION + 1)
        if len(text) > MAX_VERSION or not isinstance(json.loads(text), dict):
            raise ValueError(path)
    except FileNotFoundError:
        if is_named:
            raise SettingError('version', f'there is no file {path}') from None
        return None
    except (OSError, ValueError, RecursionError):
        raise SettingError(
            'version', f'{path} is not a file with a JSON object'
        ) from None
    return text
