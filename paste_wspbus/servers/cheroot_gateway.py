"""How cheroot calls the application: its gateways, which here close every response."""

from __future__ import annotations

from cheroot import wsgi

from paste_wspbus.servers.containing import RaisedInRequest


def contained(base: type[wsgi.Gateway]) -> type[wsgi.Gateway]:
    """Return a class of gateways that closes each response, whatever the application raises."""

    class Gateway(base):  # type: ignore[misc]
        """Calls the application, and always closes its response; answers 500 after an error."""

        def respond(self) -> None:
            try:
                self._respond()
            except Exception:
                raise
            except BaseException as error:
                raise RaisedInRequest(self.env, error) from error

        def _respond(self) -> None:
            response = self.req.server.wsgi_app(self.env, self.start_response)
            try:
                for chunk in filter(None, response):
                    if not isinstance(chunk, bytes):
                        raise TypeError(f'The application yields bytes, not {chunk!r}')
                    self.write(chunk)
                if not self.started_response:
                    raise RuntimeError('The application did not call start_response')
                # cheroot's own gateway does this after an error, too, so that the client
                # gets no 500; and if the client has gone, it does not close the response.
                self.req.ensure_headers_sent()
                # A response without a body is whole: close() may take long.
                self.req.conn.wfile.flush()
            finally:
                if hasattr(response, 'close'):
                    response.close()

    return Gateway
