"""A pytest plugin: CherryPy's own tests find our Bus where they look for theirs."""

import socket
import sys

from riding import replace_wspbus

from paste_wspbus.bus import Bus

replace_wspbus(Bus())


def pytest_collection_finish():
    """Have CherryPy's test helper serve on a port that is free."""
    helper = sys.modules.get('cherrypy.test.helper')
    if helper is None:
        return
    supervisor = helper.CPWebCase.available_servers['wsgi']
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    helper.CPWebCase.available_servers['wsgi'] = lambda **conf: supervisor(
        **{**conf, 'port': port}
    )
