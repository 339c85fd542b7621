"""ini/composites.py: a start warns once of a composite without applications, and serves."""

import pytest

from tests.kit import Site

EMPTY = '[composite:main]\nuse = egg:Paste#urlmap\n'
SAID = '[composite:main] names no application, so each request is answered with 404'
ADDRESS = '--listen', '127.0.0.1:0'


@pytest.mark.parametrize('workers', ['0', '2'])
def test_a_start_warns_of_an_empty_composite_once(tmp_path, workers):
    with Site(tmp_path, EMPTY, *ADDRESS, '--workers', workers) as site:
        site.expect(f'{SAID}: write / = NAME')
        assert site.get('/').status == 404
        assert site.stop()[0] == 0
        assert site.report().count('names no application') == 1


def test_an_empty_composite_of_an_included_file_is_named_by_its_file(tmp_path):
    files = {'maps.ini': EMPTY}
    with Site(
        tmp_path, '[app:main]\nuse = config:maps.ini\n', *ADDRESS, files=files
    ) as site:
        site.expect(f'{tmp_path}/maps.ini {SAID}')


def test_who_uses_an_empty_composite_may_name_the_applications(tmp_path):
    hello = '[app:hello]\nuse = egg:paste_wspbus#hello\n'
    uses = f'[app:main]\nuse = config:maps.ini\n/ = hello\n{hello}'
    with Site(tmp_path, uses, *ADDRESS, files={'maps.ini': EMPTY + hello}) as site:
        assert site.get('/').status == 200
        assert site.stop()[0] == 0
        assert 'names no application' not in site.report()
