"""preload = true: what workers share, none of them has for itself."""

from pathlib import Path

import pytest

from tests.kit import Site
from tests.kit.sites import SERVED, ask

CODE = """
import json
import os
import sys

AT_FORK = []


def app(environ, start_response):
    new = [name for name in sys.modules if name not in AT_FORK]
    body = json.dumps({'new': new, 'pid': os.getpid()}).encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


def make(global_conf):
    os.register_at_fork(after_in_child=lambda: AT_FORK.extend(sys.modules))
    return app
"""

INI = SERVED + '[wspbus:main]\nworkers = 1\npreload = true\n'

#: kB. A worker has some 6,000 to 7,000: what Python and its start write to. A supervisor has
#: some 10,000.
MOST, MOST_OF_SUPERVISOR = 9_000, 12_288


def private(pid):
    """Return the kB of memory that only this process has; 0 where the system does not say it."""
    try:
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private_'))


@pytest.mark.parametrize(
    'server',
    ['waitress', 'Paste#http', 'paste_wspbus#cheroot', 'paste_wspbus#wsgiref'],
)
def test_a_preloaded_worker_imports_nothing_for_itself(tmp_path, server):
    ini = INI.replace('egg:waitress', f'egg:{server}')
    with Site(tmp_path, ini, files={'webapp.py': CODE}) as site:
        told = ask(site)
        assert told['new'] == []
        assert private(told['pid']) < MOST
        assert private(site.pid) < MOST_OF_SUPERVISOR
        assert site.stop()[0] == 0, site.report()
