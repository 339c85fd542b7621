"""URLs of services, with several hosts and with logins."""

import pytest

from paste_wspbus.ini.urls import Parts, split


@pytest.mark.parametrize(
    ('url', 'parts'),
    [
        ('redis://h:6379/0', ('redis', '', '', 'h:6379', '/0')),
        (
            'sentinel://:word@one:26379,two,[::1]:26380/shop/2?x=1',
            ('sentinel', '', 'word', 'one:26379,two,[::1]:26380', '/shop/2'),
        ),
        ('unix:///run/a.sock#b', ('unix', '', '', '', '/run/a.sock')),
        (
            'POSTGRESQL+pg8000://u:p%40%3A@h/d',
            ('postgresql+pg8000', 'u', 'p@:', 'h', '/d'),
        ),
        ('redis://a@b@c/0', ('redis', 'a@b', '', 'c', '/0')),
        ('sqlite:///:memory:', ('sqlite', '', '', '', '/:memory:')),
        ('host/path', ()),
        ('1x://h', ()),
        ('', ()),
    ],
)
def test_a_url_is_split_into_its_parts(url, parts):
    assert split(url) == Parts(*parts)


def test_a_url_is_shown_without_its_secrets():
    assert split('rediss://user:word@h/0?password=word').shown == 'rediss://h/0'
