"""A site whose page takes a while, and computes nothing meanwhile."""

import os
import time

SECONDS = float(os.environ.get('SPREAD_SECONDS', '1'))


def app(environ, start_response):
    time.sleep(SECONDS if environ['PATH_INFO'] == '/slow' else 0)
    body = str(os.getpid()).encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


def make_app(global_conf):
    return app
