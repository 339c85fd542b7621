"""What the pages write as code: the options and keys that they name exist."""

import configparser
import re

import pytest

from paste_wspbus.command.parser import make_parser
from paste_wspbus.ini.settings import DEFAULTS, SETTINGS
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


def unknown(keys):
    """Those of these keys that [wspbus:main] does not have."""
    known = {'use', 'defaults', *SETTINGS, *DEFAULTS}
    return {one for one in keys if one not in known and not one.startswith('signal.')}
