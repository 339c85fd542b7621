"""`egg:paste_wspbus#redis`: a client of Redis or Valkey as a resource of the site."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from paste_wspbus.errors import SettingError
from paste_wspbus.ini.factories import one_line
from paste_wspbus.ready.part import need
from paste_wspbus.ready.resource import Resource, without

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.plugins.kinds import Seconds, Url


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what the types of the settings do not say: the library, and its URLs.

    :raises SettingError: if it is not installed, or does not accept the URL.
    """
    need('redis', 'redis', 'redis')
    if 'url' not in settings:
        return
    from redis.connection import parse_url

    url = settings['url']
    try:
        parse_url(url)
        database = urlsplit(url).path.strip('/')
        if database and not (url.startswith('unix') or database.isdecimal()):
            raise ValueError(f'{database!r} is not the number of a database')
    except (ValueError, TypeError) as error:
        problem = without([url, *_passwords_of(url)], str(error))
        raise SettingError('url', problem) from None


def _passwords_of(url: str) -> list[str]:
    password = url.partition('://')[2].rpartition('@')[0].partition(':')[2]
    return [one for one in {password, unquote(password)} if one]


def _checks_of(url: str) -> dict[str, Any]:
    """Return what redis-py 5 must be told over TLS: it does not look at the server's name."""
    parts = urlsplit(url)
    asks = parse_qs(parts.query).get('ssl_cert_reqs')
    if parts.scheme != 'rediss' or asks == ['none']:
        return {}
    return {'ssl_check_hostname': True}


class Redis(Resource):
    """Makes a client of Redis or Valkey a resource of the site.

    The client is ``bus.resources[NAME]`` while the site is started, and
    ``bus.plugins[NAME].client`` at any time. It is made when the site is loaded, and
    connects when it is used. A forked process has connections of its own: redis-py sees
    to that. The query of the URL may have further arguments, such as max_connections
    (`redis.Redis.from_url`).
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        url: Url,
        required: bool = True,
        timeout: Seconds = 5,  # type: ignore[assignment]
        decode_responses: bool = False,
    ) -> None:
        super().__init__(bus, 'redis', None, [], required, timeout)
        library = self.library('redis', 'redis', 'redis')
        parts = urlsplit(url)
        self._secrets += _passwords_of(url)
        #: How the server is shown: its URL without user, password and query.
        self.shown = f'{parts.scheme}://{parts.netloc.rpartition("@")[2]}{parts.path}'
        try:
            self.client = self.resource = library.Redis.from_url(
                url,
                decode_responses=decode_responses,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                **_checks_of(url),
            )
        except (ValueError, TypeError) as error:
            problem = without([url, *self._secrets], one_line(error))
            raise self.wrong('url', problem) from None

    def ask(self) -> None:
        """Send PING.

        :raises Exception: if the server does not answer.
        """
        self.client.ping()

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
        self.client.connection_pool.disconnect()

    def safe(self, error: BaseException) -> str:
        """Return an error as one line, without passwords."""
        return f'{self.shown}: {super().safe(error)}'

    def wspbus_status(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return {'text': self.shown + self.note, 'ok': True}
