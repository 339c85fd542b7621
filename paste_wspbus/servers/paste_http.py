"""Paste#http: `paste.httpserver`, with or without its thread pool."""

from __future__ import annotations

from paste.httpserver import WSGIHandler, serve

from paste_wspbus.errors import SettingError
from paste_wspbus.servers import ADDRESS
from paste_wspbus.servers.socketserver import SocketServer
from paste_wspbus.settings import boolean, convert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_POOL = (
    'hung_thread_limit',
    'kill_thread_limit',
    'dying_limit',
    'spawn_if_under',
    'max_zombie_threads_before_die',
    'hung_check_period',
    'max_requests',
)


def _protocol(text: str) -> str:
    if text not in ('HTTP/0.9', 'HTTP/1.0', 'HTTP/1.1'):
        raise SettingError('protocol_version', f'{text!r} is not HTTP/1.0 or HTTP/1.1')
    return text


class PasteServer(SocketServer):
    """``use = egg:Paste#http``, with all of its settings."""

    known: dict[str, Callable[[str], Any]] = {
        **ADDRESS,
        'ssl_pem': str,
        'server_version': str,
        'protocol_version': _protocol,
        'socket_timeout': int,
        'threadpool_workers': int,
        'request_queue_size': int,
        'use_threadpool': boolean,
        'daemon_threads': boolean,
        'threadpool_error_email': str,
        **{f'threadpool_{name}': int for name in _POOL},
    }

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """As Paste converts them; ``host`` may hold the port."""
        converted = convert(conf, self.known)
        host = converted.get('host', '')
        if 'port' not in converted and host.count(':') == 1:
            converted['host'], port = host.split(':')
            converted.update(convert({'port': port}, self.known))
        return converted

    def handler_class(self) -> type[Any]:
        """Paste's handler."""
        return WSGIHandler  # type: ignore[no-any-return]

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Let Paste make it on a port of no importance."""
        conf = {key: value for key, value in self.conf.items() if key not in ADDRESS}
        conf.pop('request_queue_size', None)
        pool = {
            key.removeprefix('threadpool_'): conf.pop(key)
            for key in list(conf)
            if key.startswith('threadpool_') and key != 'threadpool_workers'
        }
        if 'error_email' in self.global_conf:
            pool.setdefault('error_email', self.global_conf['error_email'])
        return serve(
            app,
            host='127.0.0.1',
            port=0,
            handler=handler,
            start_loop=False,
            threadpool_options=pool,
            **conf,
        )

    def end(self) -> None:
        """Also end the pool's threads, unless they still work."""
        super().end()
        pool = getattr(self._server, 'thread_pool', None)
        if pool is not None and not self._open:
            pool.shutdown()  # kills what is not done within half a second

    @classmethod
    def knows(cls, conf: Mapping[str, str]) -> bool:
        """Not pyOpenSSL's sockets."""
        return 'ssl_pem' not in conf and 'ssl_context' not in conf
