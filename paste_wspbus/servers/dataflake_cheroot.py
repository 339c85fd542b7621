"""Adapts cheroot as dataflake.wsgi.cheroot runs it."""

from __future__ import annotations

import logging

from paste_wspbus.servers.cheroot import CherootServer
from paste_wspbus.values import boolean


class DataflakeCheroot(CherootServer):
    """The adapter for ``use = egg:dataflake.wsgi.cheroot#main``: its settings, its logger."""

    default_host = '0.0.0.0'
    known = {
        **CherootServer.known,
        'shutdown_timeout': int,
        'peercreds_resolve_enabled': boolean,
    }

    def _error_log(
        self, msg: str = '', level: int = 20, traceback: bool = False
    ) -> None:
        logging.getLogger('cheroot.error').log(level, msg, exc_info=traceback)
