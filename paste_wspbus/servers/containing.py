"""Errors of an application that are not Exceptions: they end one request, not the site."""

from __future__ import annotations

from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


#: The number of characters of a path that the log shows.
LENGTH = 200


class RaisedInRequest(WSPBusError):
    """An application raised SystemExit, KeyboardInterrupt or the like: this is ``__cause__``.

    Servers treat such an error as an order: cheroot ends the site, and waitress forgets
    the connection. `RaisedInRequest` is an Exception, and servers treat it as any other
    error of an application: they log it, and answer 500 or close the connection.

    ``method`` and ``path`` are those of the request.
    """

    def __init__(self, environ: dict[str, Any] | None, error: BaseException) -> None:
        environ = environ or {}
        self.method = str(environ.get('REQUEST_METHOD', ''))
        self.path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        request = f'{self.method!a} {self.path[:LENGTH]!a}' if environ else 'a response'
        super().__init__(
            f'The application raised {type(error).__name__} in {request}; '
            'only this request ends'
        )


class Contained:
    """An application that raises `RaisedInRequest` in place of errors that are not Exceptions.

    Adapters use it if their server has no better place for this.
    """

    #: Whether lists are wrapped, too. No code of the application runs between the items
    #: of a list; but a wrapped list calls `has_ended`.
    wraps_lists = False

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer one request (PEP 3333)."""
        try:
            body = self.app(environ, start_response)
        except Exception:
            raise
        except BaseException as error:
            self.refuse(error, environ)
        file_wrapper = environ.get('wsgi.file_wrapper')
        if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
            return body  # the server needs its type
        if isinstance(body, list) and not self.wraps_lists:
            return body
        return (_SizedBody if hasattr(body, '__len__') else Body)(body, environ, self)

    def refuse(self, error: BaseException, environ: dict[str, Any]) -> NoReturn:
        """Raise the error that the server sees in place of ``error``."""
        raise RaisedInRequest(environ, error) from error

    def has_ended(self, environ: dict[str, Any]) -> None:
        """React to the end of a response that was wrapped."""


class Body:
    """The body of a response, as `Contained` gives it to a server.

    PEP 3333 asks the server to call close(). Some servers never do it, or not after an
    error. So the body closes itself when the server has dropped it.
    """

    __slots__ = ('_app', '_body', '_environ', '_is_closed', '_next')

    def __init__(self, body: Any, environ: dict[str, Any], app: Contained) -> None:
        self._body, self._environ, self._app = body, environ, app
        self._next: Callable[[], Any] | None = None
        self._is_closed = False

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> Any:
        try:
            if self._next is None:
                self._next = iter(self._body).__next__
            return self._next()
        except Exception:
            raise
        except BaseException as error:
            self._app.refuse(error, self._environ)

    def close(self) -> None:
        """Close the body that the application returned."""
        self._is_closed = True
        try:
            if hasattr(self._body, 'close'):
                self._body.close()
        except Exception:
            raise
        except BaseException as error:
            self._app.refuse(error, self._environ)
        finally:
            self._app.has_ended(self._environ)

    def __del__(self) -> None:
        if not self._is_closed:
            self.close()


class _SizedBody(Body):
    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)
