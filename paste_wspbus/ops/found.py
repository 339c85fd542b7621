"""Checks of objects that plugins yield: engines, databases, clients and caches of others."""

from __future__ import annotations

import functools
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def check_of(resource: object) -> Callable[[], object] | None:
    """Return a check of an object of a known class; None if its class is not known.

    This imports nothing: the library of an object is imported already.
    """
    for module, name, check in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(resource, kind):
            return functools.partial(check, resource)
    return None


def _sqlalchemy(engine: Any) -> str:
    select = sys.modules['sqlalchemy'].select
    with engine.connect() as connection:
        connection.execute(select(1))  # the words that this database takes
    return str(engine.dialect.name)


def _zodb(database: Any) -> None:
    """Load an object, not from the cache. A client of ZEO knows whether it is connected."""
    is_connected = getattr(database.storage, 'is_connected', None)
    if is_connected is not None and not is_connected():
        raise ConnectionError('the storage is not connected')
    transaction = sys.modules['transaction']
    connection = database.open(transaction.TransactionManager())
    try:
        connection.cacheMinimize()
        connection.root()._p_activate()  # noqa: SLF001  (the interface of persistent)
    finally:
        connection.close()


def _redis(client: Any) -> None:
    if client.ping() is not True:
        raise ConnectionError('it does not answer PING with PONG')


def _beaker(manager: Any) -> None:
    """Write to the cache, and read what was written."""
    cache, now = manager.get_cache('paste_wspbus.health'), str(time.time())
    cache.put('checked', now)
    if cache.get('checked') != now:
        raise ConnectionError('what was written to the cache is not there')


#: The module and the class of an object, and its check.
_KNOWN: tuple[tuple[str, str, Callable[[Any], object]], ...] = (
    ('sqlalchemy.engine', 'Engine', _sqlalchemy),
    ('ZODB.DB', 'DB', _zodb),
    ('redis.client', 'Redis', _redis),
    ('valkey.client', 'Valkey', _redis),
    ('beaker.cache', 'CacheManager', _beaker),
)
