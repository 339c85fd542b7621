"""preload = true: what workers share, none of them has for itself."""

import pytest

from tests.kit import Site
from tests.kit.sites import SERVED, ask

CODE = """
import json
import os
import sys

AT_FORK = []


def private():
    if sys.platform != 'linux':
        return 0
    with open('/proc/self/smaps_rollup') as file:
        sizes = dict(line.split()[:2] for line in file.readlines()[1:])
    return int(sizes['Private_Clean:']) + int(sizes['Private_Dirty:'])


def app(environ, start_response):
    new = [name for name in sys.modules if name not in AT_FORK]
    body = json.dumps({'new': new, 'private': private()}).encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


def make(global_conf):
    os.register_at_fork(after_in_child=lambda: AT_FORK.extend(sys.modules))
    return app
"""

INI = SERVED + '[wspbus:main]\nworkers = 1\npreload = true\n'

#: kB. It is some 6,000 to 7,000: what Python and the start of a worker write to.
MOST = 9000


@pytest.mark.parametrize(
    'server',
    ['waitress', 'Paste#http', 'paste_wspbus#cheroot', 'paste_wspbus#wsgiref'],
)
def test_a_preloaded_worker_imports_nothing_for_itself(tmp_path, server):
    ini = INI.replace('egg:waitress', f'egg:{server}')
    with Site(tmp_path, ini, files={'webapp.py': CODE}) as site:
        told = ask(site)
        assert told['new'] == []
        assert told['private'] < MOST
        assert site.stop()[0] == 0, site.report()
