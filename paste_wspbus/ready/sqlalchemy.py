"""`egg:paste_wspbus#sqlalchemy`: an engine of SQLAlchemy as a resource of the site."""

from __future__ import annotations

from paste_wspbus.forks import close_in_child
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
    """Check what the types of the settings do not say: whether the library is installed.

    :raises SettingError: if it is not.
    """
    need('sqlalchemy', 'SQLAlchemy', 'sqlalchemy')


class SQLAlchemy(Resource):
    """Makes an engine of SQLAlchemy a resource of the site.

    The engine is ``bus.resources[NAME]`` while the site is started, and
    ``bus.plugins[NAME].engine`` at any time. It is made when the site is loaded, and
    connects when it is used. A forked process has connections of its own. Any other key
    is an argument of `sqlalchemy.create_engine`.
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        url: Url,
        required: bool = True,
        timeout: Seconds = 10,  # type: ignore[assignment]
        pool_size: int | None = None,
        max_overflow: int | None = None,
        pool_recycle: Seconds | None = None,
        pool_pre_ping: bool = False,
        echo: bool = False,
        **settings: Any,
    ) -> None:
        settings |= {'pool_size': pool_size, 'max_overflow': max_overflow}
        settings |= {'pool_recycle': pool_recycle and int(pool_recycle)}
        settings = {key: one for key, one in settings.items() if one is not None}
        settings |= {'pool_pre_ping': pool_pre_ping, 'echo': echo}
        super().__init__(bus, 'sqlalchemy', None, [], required, timeout)
        self._library = self.library('sqlalchemy', 'SQLAlchemy', 'sqlalchemy')
        self.engine = self.resource = self._make(url, settings)
        secret = self.engine.url.password
        self._secrets += [str(secret)] if secret else []
        #: How the engine is shown: its URL without the password and the query.
        self.shown = self.engine.url.set(query={}).render_as_string(hide_password=True)
        # A connection that two processes use mixes up the answers of the server.
        close_in_child(self.engine, _forget)

    def _make(self, url: str, settings: dict[str, Any]) -> Any:
        exc, key, secrets = self._library.exc, 'url', [url]
        try:
            parsed = self._library.make_url(url)
            secrets += [str(parsed.password)] if parsed.password else []
            parsed.get_dialect().import_dbapi()
            if parsed.get_backend_name() == 'sqlite' and _is_in_memory(parsed.database):
                # Each thread has a connection of its own, and the stop closes them all.
                settings = {'connect_args': {'check_same_thread': False}, **settings}
            key = 'use'
            return self._library.engine_from_config({'url': url, **settings}, prefix='')
        except ModuleNotFoundError as error:
            problem = (
                f'its driver {error.name} is not installed: pip install {error.name}'
            )
            raise self.wrong('url', problem) from None
        except (exc.SQLAlchemyError, TypeError, ValueError) as error:
            text = without(secrets, one_line(error)).partition(', using config')[0]
            raise self.wrong(key, text) from None

    def ask(self) -> None:
        """Connect, and select 1.

        :raises Exception: if the database does not answer.
        """
        with self.engine.connect() as connection:
            connection.scalar(self._library.select(1))

    def close(self) -> None:
        """Close the connections of the pool that nobody uses; the others when they return."""
        self.engine.dispose()

    def safe(self, error: BaseException) -> str:
        """Return an error as one line, without passwords: the driver's own error."""
        own = getattr(error, 'orig', None) or error
        return f'{self.shown}: {super().safe(own)}'

    def wspbus_status(self) -> dict[str, Any]:
        """Return what `status` shows: how many connections are used."""
        pool = self.engine.pool
        used = pool.checkedout() if hasattr(pool, 'checkedout') else None
        size = pool.size() if hasattr(pool, 'size') else None
        text = self.shown + self.note
        if used is not None:
            most = '' if size is None else f'; up to {size} are kept open'
            text += f': {used} connections in use{most}'
        return {'text': text, 'ok': True, 'used': used, 'size': size}


def _is_in_memory(database: str | None) -> bool:
    return database in (None, '', ':memory:')


def _forget(engine: Any) -> None:
    """Let a forked process make connections of its own, and leave its parent's open."""
    engine.dispose(close=False)
