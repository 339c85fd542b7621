"""What a report shows of settings and messages: no password, no secret, no query."""

import pytest

from paste_wspbus.ini.masking import masked_text, masked_value


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('db.password', 'hunter2'),
        ('PASSWD', 'hunter2'),
        ('sentry_dsn', 'hunter2'),
        ('ops_token', 'hunter2'),
        ('session.secret', 'hunter2'),
        ('aws_access_key_id', 'hunter2'),
        ('auth_tkt', 'hunter2'),
        ('url', 'postgresql://me:hunter2@db/shop'),
        ('url', 'postgresql://me:p@ss/hunter2@db/shop'),
        ('url', 'https://hunter2@example.org/'),
        ('smoke', '/health?key=hunter2 /other'),
        ('db', 'host=db user=me password=hunter2 port=1'),
        ('db', "password = 'hunter2 and more'"),
        ('more', '{"token": "hunter2 x"}'),
    ],
)
def test_a_secret_is_not_shown(key, value):
    assert 'hunter2' not in masked_value(key, value)
    assert '***' in masked_value(key, value)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('workers', '4'),
        ('url', 'http://127.0.0.1:8080/path'),
        ('unix_socket', '/run/site.sock'),
        ('plugins', 'db scheduler'),
        ('url', '%(ENV_DATABASE)s'),
        ('password', ''),
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(key, value):
    assert masked_value(key, value) == value


def test_messages_keep_their_words():
    line = 'Worker 1 (process 4711) failed to start: is it there? Ask root@example.org'
    assert masked_text(line) == line
    assert masked_text('could not connect to redis://:pw@host/0?db=1 at all') == (
        'could not connect to redis://***@host/0?*** at all'
    )
