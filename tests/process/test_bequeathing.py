"""What a process leaves to its next program, if the site has closed the standard descriptors."""

import pytest

from tests.kit import Site, eventually, run
from tests.kit.clients import free_port
from tests.kit.daemons import ini
from tests.kit.stand_in import status_json

WEBAPP = """
import os

{at_import}


def make(global_conf, **conf):
    {in_make}
    return lambda environ, start_response: start_response('200 OK', []) and []
"""


@pytest.mark.parametrize('log', [[], ['--log-file=site.log']], ids=['', 'log file'])
@pytest.mark.parametrize('where', ['at_import', 'in_make'])
def test_a_site_that_closes_1_and_2_restarts_with_its_sockets(tmp_path, where, log):
    code = {'at_import': '', 'in_make': '', where: 'os.close(1); os.close(2)'}
    files = {'webapp.py': WEBAPP.format(**code)}
    # The port is fixed: a program that lost its socket could not bind it again.
    text = ini(port=free_port())
    with Site(tmp_path, text, *log, files=files, wait=False) as site:
        eventually(lambda: status_json(tmp_path)[1].get('state') == 'STARTED')
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert status_json(tmp_path)[1]['pid'] == site.process.pid
        assert site.stop()[0] == 0, site.report()
