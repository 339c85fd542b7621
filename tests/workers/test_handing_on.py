"""A worker that hangs is killed: another one answers what it has not begun, for real."""

import contextlib
import json
import re

import pytest

from tests.kit import eventually
from tests.kit.processes import has_ended
from tests.kit.workers import FILES, INI, Workers

#: A page that waits until the test makes a file, and then holds the GIL.
HANGS = """
import re

def match_later(environ):
    say('waits')
    while not os.path.exists('gil'):
        time.sleep(0.001)
    re.match('(a*)*b', 'a' * 100)

PAGES.update({'/match': match_later})
"""

TCP = 'host = 127.0.0.1\nport = 0\n'


@pytest.mark.parametrize(
    ('server', 'keeps'),
    [
        # It has read the request that waits for a thread.
        ('egg:waitress\nthreads = 1\n', True),
        # They have not.
        ('egg:paste_wspbus#cheroot\nnumthreads = 1\n', True),
        # Each of its threads has a connection.
        (
            'egg:Paste#http\nthreadpool_workers = 1\nthreadpool_spawn_if_under = 0\n',
            False,
        ),
    ],
    ids=['waitress', 'cheroot', 'paste'],
)
def test_what_a_worker_that_hangs_has_not_begun_is_answered_by_its_successor(
    tmp_path, server, keeps
):
    files = {
        'webapp.py': FILES['webapp.py'] + HANGS,
        'site.ini': re.sub(
            '(?s)(?<=use = )egg:waitress.*?(?=\n\n)', server + TCP, INI
        ).replace('soak = 0', 'soak = 0\nhung_after = 1\n'),
    }
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Workers(tmp_path, count=1, files=files))
        if keeps:
            kept = stack.enter_context(site.connect())
            kept.get('/')
        hangs = stack.enter_context(site.connect())
        hangs.send('/match')
        site.expect('waits ')
        old = int(re.search(r'waits (\d+)', site.err.text)[1])
        waits = stack.enter_context(site.connect())
        waits.send('/')
        eventually(lambda: site.workers()[0]['queued'] == 1)
        (tmp_path / 'gil').touch()
        if keeps:
            kept.send('/')
        answers = [waits.receive(), *([kept.receive()] if keeps else [])]
        assert [one.status for one in answers] == [200] * len(answers)
        assert old not in {json.loads(one.body)['pid'] for one in answers}
        eventually(lambda: has_ended(old))
        if keeps:
            assert waits.get('/').status == 200
        with pytest.raises(ConnectionError):
            hangs.receive()  # it had begun
        assert site.stop()[0] == 0
