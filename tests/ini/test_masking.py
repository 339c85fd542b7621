"""What a report shows of settings and messages: no password, no secret, no query."""

import configparser

import pytest

from paste_wspbus.ini.config import Config
from paste_wspbus.ini.masking import (
    masked_text,
    masked_value,
    secrets_of,
    without_secrets,
)
from paste_wspbus.ini.mistakes import in_interpolation


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
        ('url', 'https://chat/T0/hunter2aB3dE5fG7hI'),
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
    assert masked_text('sent Authorization: Bearer hunter2, got 401') == (
        'sent Authorization: ***, got 401'
    )
    assert masked_text('could not connect to redis://:pw@host/0?db=1 at all') == (
        'could not connect to redis://***@host/0?*** at all'
    )


INI = """
[DEFAULT]
smtp_password = from-default
[app:main]
use = egg:shop
beaker.session.key = shop
beaker.session.secret = long-secret
url = postgresql://me:p@ss@db/shop
[logger_root]
key = generic
"""


def test_a_line_for_people_has_no_secret_of_the_ini_and_all_its_other_words(tmp_path):
    (tmp_path / 'site.ini').write_text(INI)
    config = Config('site.ini', {}, str(tmp_path))
    # The file says "shop" openly, too.
    assert secrets_of(config) == ['from-default', 'long-secret', 'p%40ss', 'p@ss']
    line = 'shop.ini [app:main] password: it is no long-secret, at /srv/shop/a.py?x'
    masked = 'shop.ini [app:main] password: it is no ***, at /srv/shop/a.py?x'
    assert without_secrets(line, config) == masked
    line = 'no answer of redis://:other@host/0 and postgresql://me:p@ss@db/shop'
    masked = 'no answer of redis://***@host/0 and postgresql://***@db/shop'
    assert without_secrets(line, config) == masked


def test_secrets_of_the_environment_and_passwords_in_both_forms_are_known(
    tmp_path, monkeypatch
):
    path = tmp_path / 'site.ini'
    path.write_text('[app:main]\nurl = db://me:p%%40ss%%2Fword@host/shop\n')
    monkeypatch.setenv('SHOP_DB_PASSWORD', 'hunter2')
    monkeypatch.setenv('SHOP_URL', 'redis://:hunter3@host/0')
    monkeypatch.setenv('SHOP_AUTH', 'false')
    monkeypatch.setenv('SHOP_DSN', 'sqlite:////srv/shop.db')
    monkeypatch.setenv('PWD', '/srv/shop')
    monkeypatch.setenv('SHOP_KEYS', str(path))
    secrets = secrets_of(Config(str(path), {}, str(tmp_path)))
    assert {'hunter2', 'hunter3', 'p%40ss%2Fword', 'p@ss/word'} <= {*secrets}
    assert not {'false', '/srv/shop', str(path)} & {*secrets}
    text = 'p@ss/word, hunter2 and hunter3 were refused: false'
    assert masked_text(text, secrets) == '***, *** and *** were refused: false'


@pytest.mark.parametrize(
    ('line', 'shown'),
    [
        ('smtp_pass = hunter2', 'hunter2'),
        ('mail.pin = hunter2', 'hunter2'),
        ('signature_of_hook = hunter2', 'hunter2'),
        ('webhook = https://chat/services/hunter2', 'https://chat/services/hunter2'),
        ('sms = AKIAIOSFODNN7EXAMPLE', 'AKIAIOSFODNN7EXAMPLE'),
        ('report_to = https://chat/T0/B0/xY7aB3dE5fG7hI9jK1', 'xY7aB3dE5fG7hI9jK1'),
        ('secrets = first-one\n    hunter2', 'hunter2'),
        ('odbc = Server=h;User=u;Password=hunter2;X=1', 'hunter2'),
        ('urls = redis://:first@h,redis://:hunter2@h', 'hunter2'),
        ('password = a\'b"c\\d\u00fc', repr('a\'b"c\\d\u00fc')[1:-1]),
        ('password = a\'b"c\\d\u00fc', ascii('a\'b"c\\d\u00fc')[1:-1]),
        ('otlp_headers = x-team=first-one,x-other=hunter2', 'hunter2'),
        ('more = {"Authorization": "Bearer hunter2"}', 'Bearer hunter2'),
        ('password = a/b+c d', 'a%2Fb%2Bc%20d'),
    ],
)
def test_secrets_are_known_by_many_names_and_in_each_form(tmp_path, line, shown):
    (tmp_path / 'site.ini').write_text(f'[plugin:x]\n{line}\n', encoding='utf-8')
    secrets = secrets_of(Config('site.ini', {}, str(tmp_path)))
    assert masked_text(f'<{shown}> was refused', secrets) == '<***> was refused'


@pytest.mark.parametrize(
    'line',
    [
        'auth = true',
        'csrf_token = Enabled',
        'bypass = everything',
        'mapping = everything',
        'factory = shop.token:everything',
        'shopping = everything',
        'data = /srv/releases/20261201T0101abcdef',
        'name = paste-wspbus-shop-v2-production',
        'host = web12.internal.example.org',
    ],
)
def test_plain_settings_are_no_secrets(tmp_path, line):
    (tmp_path / 'site.ini').write_text(f'[plugin:x]\n{line}\n')
    secrets = secrets_of(Config('site.ini', {}, str(tmp_path)))
    assert not [one for one in secrets if one in line]


@pytest.mark.parametrize(
    'value', ['redis://u:pa%ssword@h/0', 'redis://u:pa%(ssword@h/0']
)
def test_a_wrong_percent_sign_shows_nothing_of_the_value(value):
    parser = configparser.ConfigParser()
    parser.read_string(f'[cluster:main]\nuse = {value}')
    with pytest.raises(configparser.InterpolationError) as failed:
        parser.get('cluster:main', 'use')
    assert 'ssword' not in str(in_interpolation('site.ini', failed.value, parser))
