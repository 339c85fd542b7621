"""What the pages write as code: the options, keys and other names in it exist."""

import configparser
import re

import pytest

from paste_wspbus.command.parser import make_parser
from paste_wspbus.ini.settings import DEFAULTS, SETTINGS
from tests.project.names import wrong_names
from tests.project.pages import PAGES, blocks, prose

#: A command, up to where the shell, or a comparison of two, ends it.
COMMAND = re.compile(r'\bwspserve\b(?!\.)[^`|;&#÷\n]*')

each_page = pytest.mark.parametrize(
    'page', PAGES, ids=[f'{one.parent.name}/{one.name}' for one in PAGES]
)


@each_page
def test_each_option_of_a_command_on_a_page_is_there(page):
    known = make_parser('wspserve')._option_string_actions
    spans = re.findall(r'`([^`]+)`', prose(page))
    texts = [*spans, *(one.text for one in blocks(page))]
    commands = [one for text in texts for one in COMMAND.findall(text)]
    used = {one for text in commands for one in re.findall(r'(?<=\s)--[\w-]+', text)}
    assert used - {*known} == set()


@each_page
def test_each_key_of_the_main_section_on_a_page_is_there(page):
    """A block that begins with a key shows a part of [wspbus:main]."""
    used = set()
    for block in blocks(page):
        if block.language == 'ini':
            parser = configparser.RawConfigParser(
                strict=False, allow_no_value=True, default_section='DEFAULT of none'
            )
            begins = re.search(r'^[^#;\s]', block.text, re.M)
            if begins and begins.group() != '[':
                parser.read_string(f'[wspbus:main]\n{block.text}')
            else:
                parser.read_string(block.text)
            if parser.has_section('wspbus:main'):
                used.update(parser['wspbus:main'])
    assert unknown(used) == set()


@each_page
def test_each_key_that_a_page_names_with_its_section_is_there(page):
    used = re.findall(r'`\[wspbus:main\] ([\w.]+)', prose(page))
    assert unknown(used) == set()


@each_page
def test_each_name_on_a_page_is_there(page):
    assert wrong_names(page.read_text()) == []


@pytest.mark.parametrize(
    ('text', 'wrong'),
    [
        ('Watch `wspbus_threads_bussy`.', 'wspbus_threads_bussy'),
        ('The metrics that begin with `wspbus_clusters_`', 'wspbus_clusters_'),
        ('rate(wspbus_requests[5m])', 'wspbus_requests'),
        ("environ['wspbus.drained']", 'wspbus.drained'),
        ('use = egg:paste_wspbus#crom', 'egg:paste_wspbus#crom'),
        ('Its group is `paste_wspbus.plugins_factory`', 'paste_wspbus.plugins_factory'),
        ('-c python:paste_wspbus.hosts.gunicon', 'paste_wspbus.hosts.gunicon'),
        ('`paste_wspbus.plugins.Plugins`', 'paste_wspbus.plugins.Plugins'),
        ('`wspserve site.ini drian`', 'wspserve site.ini drian'),
        ('```\n$ wspserve a.ini gracefull\n```\n', 'wspserve a.ini gracefull'),
        ('`wspserve pss`', 'wspserve pss'),
        ("bus.subscribe('stopp', close)", 'stopp'),
        ("bus.publish('reopen_log')", 'reopen_log'),
        ("@on('before_requests')", 'before_requests'),
        ("@on('drop')\nbus.broadcast('drops')", 'drops'),
        ("the 'drains' listeners", 'drains'),
        ('It exits with 5.', 'exit code 5'),
        ('the exit code `144`', 'exit code 144'),
    ],
)
def test_a_name_that_is_not_there_is_found(text, wrong):
    assert wrong in wrong_names(text)


def unknown(keys):
    """Those of these keys that [wspbus:main] does not have."""
    known = {'use', 'defaults', *SETTINGS, *DEFAULTS}
    return {one for one in keys if one not in known and not one.startswith('signal.')}
