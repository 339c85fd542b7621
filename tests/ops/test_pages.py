"""The pages of the ops listener, made from snapshots."""

import json

import pytest

from paste_wspbus.ops.pages import HANGS_AFTER, PAGES, Asked
from paste_wspbus.ops.requests import Request
from paste_wspbus.ops.snapshot import Snapshot, State
from paste_wspbus.ops.status import cut_path, limited, public

STARTED = State('STARTED', was_started=True, serving=2, wanted=2)


def page(path, state=STARTED, **more):
    snapshot = Snapshot(state, {}, **more)
    response = PAGES[path].make(Asked(Request('GET', path), snapshot, False))
    return response.status_code, json.loads(response.body)


@pytest.mark.parametrize(
    'state, why',
    [
        (STARTED, None),
        (STARTED._replace(serving=1), None),
        (STARTED._replace(serving=None), None),
        (STARTED._replace(renewing=True, serving=0), None),
        (STARTED._replace(name='STOPPING', renewing=True), None),
        (STARTED._replace(serving=0), 'no worker serves'),
        (STARTED._replace(drained=True), 'an operator has drained the site'),
        (STARTED._replace(name='DRAINING'), 'the site stops'),
        (STARTED._replace(name='STOPPING'), 'the site stops'),
        (State('STARTING'), 'the site starts'),
        (State('STOPPED'), 'the site starts'),
    ],
)
def test_a_site_is_ready_while_it_wants_requests(state, why):
    status, body = page('/ready', state)
    assert (status, body.get('why')) == (503 if why else 200, why)
    assert body['ready'] is (why is None)


def test_startup_is_over_when_the_site_was_started():
    assert page('/startup', State('STARTING'))[0] == 503
    assert page('/startup', STARTED._replace(name='STOPPING')) == (
        200,
        {'started': True},
    )


def test_only_a_supervisor_that_hangs_is_not_live():
    assert page('/live', State('STOPPING'))[0] == 200
    assert page('/live', waits_for=HANGS_AFTER - 1)[0] == 200
    status, body = page('/live', waits_for=HANGS_AFTER + 1)
    assert status == 503
    assert body['why'] == 'the supervisor has not answered for 11 s'


@pytest.mark.parametrize(
    'path, cut',
    [
        ('/', '/'),
        ('/cart', '/cart'),
        ('/cart/', '/cart/'),
        ('/reset/token-123', '/reset/…'),
        ('/reset/user/token-123', '/reset/…'),
        ('//x//y', '//…'),
        ('', ''),
    ],
)
def test_a_path_is_cut_after_its_first_segment(path, cut):
    assert cut_path(path) == cut


def test_a_status_shows_no_whole_path_and_no_secret():
    request = {'method': 'GET', 'path': '/a/b/c', 'age': 1.0}
    status = {
        'failure': 'no route to db://shop:pw@db, hunter22',
        'requests': [request] * 500,
        'health': [],
        'workers': [
            {'requests': [request] * 50, 'last_crash': {'requests': [request]}}
        ],
    }
    shown = public(limited(status), ['hunter22'])
    assert shown['failure'] == 'no route to db://***@db, ***'
    assert len(shown['requests']) == 100 and len(shown['workers'][0]['requests']) == 20
    assert (
        '/a/b/c' not in json.dumps(shown) and status['requests'][0]['path'] == '/a/b/c'
    )
