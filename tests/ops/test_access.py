"""Who may see what on the ops listener."""

import base64

import pytest

from paste_wspbus.ops.access import Access
from paste_wspbus.ops.requests import Request

TOKEN = 'a-token-of-an-operator'


def basic(text):
    return f'Basic {base64.b64encode(text.encode()).decode()}'


def asked(**fields):
    return Request(
        **{'method': 'GET', 'path': '/status', 'host': '127.0.0.1', **fields}
    )


@pytest.mark.parametrize(
    'host',
    [
        '127.0.0.1',
        '127.0.0.1:9100',
        '10.1.2.3:9100',
        '[::1]',
        '[fe80::1]:9100',
        'localhost',
        'LOCALHOST:9100',
        'web1.internal:9100',
        'Web1.Internal.',
        None,
    ],
)
def test_a_host_is_an_address_localhost_or_named(host):
    access = Access(hosts=frozenset(['web1.internal']))
    assert access.refuse(asked(host=host)) is None


@pytest.mark.parametrize(
    'host',
    ['evil.example', '127.0.0.1.evil.example', 'localhost.evil', '', '[', '1.2.3'],
)
def test_a_foreign_host_is_refused(host):
    assert Access().refuse(asked(host=host)).status == 421
    # ssh -L leads a browser to a Unix socket.
    assert Access().refuse(asked(host=host, is_local_socket=True)).status == 421


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE', 'get'])
def test_a_request_only_reads(method):
    refusal = Access().refuse(asked(method=method))
    assert (refusal.status, refusal.headers) == (405, (('Allow', 'GET, HEAD'),))


def test_a_unix_socket_shows_all():
    assert Access().sees_all(asked(is_local_socket=True))


def test_over_tcp_nothing_is_shown_without_a_token_or_ops_pages():
    assert not Access().sees_all(asked(authorization='Bearer '))
    assert Access().demand().status == 403
    assert Access(pages=True).sees_all(asked())


@pytest.mark.parametrize(
    'given, is_right',
    [
        (f'Bearer {TOKEN}', True),
        (f'bearer  {TOKEN}', True),
        (basic(f'anybody:{TOKEN}'), True),
        (basic(f':{TOKEN}').replace('Basic', 'basic'), True),
        (basic(f'{TOKEN}:'), False),
        (basic(f'anybody:{TOKEN}:'), False),
        (basic(TOKEN), False),
        (f'Basic anybody:{TOKEN}', False),
        ('Basic t\xf6ken', False),
        ('Basic', False),
        (f'Basic {TOKEN}', False),
        (f'Bearer {TOKEN}x', False),
        ('Bearer t\xf6ken', False),
        (TOKEN, False),
        ('Bearer', False),
        (None, False),
    ],
)
def test_a_token_is_compared_whole(given, is_right):
    access = Access(token=TOKEN)
    assert access.sees_all(asked(authorization=given)) == is_right
    assert access.demand().status == 401


def test_who_may_not_see_a_page_learns_how_to_send_the_token():
    refusal = Access(token=TOKEN).demand()
    assert refusal.status == 401
    schemes = [value.split()[0] for _, value in refusal.headers]
    assert schemes == ['Bearer', 'Basic']
    assert Access().demand().status == 403
