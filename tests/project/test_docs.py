import re
from textwrap import dedent

import pytest

from paste_wspbus.templates.making import make_package
from tests.kit.places import ROOT


def test_the_reference_s_examples_run():
    examples = re.findall(
        r'```python\n(.*?)```', (ROOT / 'docs/bus.md').read_text(), re.S
    )
    assert len(examples) > 8
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, 'docs/bus.md', 'exec'), names)


def test_the_first_example_of_the_readme_is_the_sample():
    readme = (ROOT / 'README.md').read_text()
    first = re.search(r'```python\n(.*?)```', readme, re.S)[1]
    assert first.split() == (ROOT / 'sample_ini/pool.py').read_text().split()
    first_ini = re.search(r'```ini\n(.*?)```', readme, re.S)[1]
    assert first_ini in (ROOT / 'sample_ini/shop.ini').read_text()


def test_the_tutorial_shows_what_the_template_makes(tmp_path):
    page = (ROOT / 'docs/plugins.md').read_text()
    made = make_package('plugin', 'acme-cache', 'acme_cache', tmp_path / 'acme-cache')
    listed = re.search(r'\nMade:\n(.*?)\n\n', page, re.S)[1]
    assert listed.split() == [f'acme-cache/{one}' for one in made]
    (shown,) = re.findall(r'```python\n(.""The plugin.*?)```', page, re.S)
    assert shown == (tmp_path / 'acme-cache/acme_cache/__init__.py').read_text()
    for example in re.findall(r'```python\n(.*?)\n *```', page, re.S):
        compile(dedent(example), 'docs/plugins.md', 'exec')


def test_the_example_of_the_messages_is_the_sample():
    page = (ROOT / 'docs/messages.md').read_text()
    shown = re.search(r'```python\n(.*?)```', page, re.S)[1]
    assert (ROOT / 'sample_ini/page_cache.py').read_text().endswith(f'\n\n{shown}')
    shown = re.search(r'```ini\n(.*?)```', page, re.S)[1]
    assert (ROOT / 'sample_ini/messages.ini').read_text().endswith(f'\n\n{shown}')


def test_the_examples_of_the_filter_are_the_samples():
    page = (ROOT / 'docs/ini.md').read_text().partition('## The filter')[2]
    for name in ('pipeline.ini', 'filter_app.ini'):
        shown, _, page = page.partition('```ini\n')[2].partition('```')
        assert shown in (ROOT / 'sample_ini' / name).read_text()


def test_the_readme_names_the_wheel_of_this_version():
    (version,) = re.findall(r'(?m)^version = (.*)$', (ROOT / 'setup.cfg').read_text())
    wheel = f'paste_wspbus-{version}-py3-none-any.whl'
    assert wheel in (ROOT / 'README.md').read_text()
    assert f'\n## {version}\n' in (ROOT / 'CHANGES.md').read_text()


def without_code(page):
    """The text of a page; what stands in fences is not Markdown."""
    return re.sub(r'(?ms)^ *```.*?^ *```$', '', page.read_text())


@pytest.mark.parametrize(
    'page',
    [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_each_row_stands_in_a_table(page):
    for block in without_code(page).split('\n\n'):
        rows = block.strip('\n').split('\n')
        if any(row.startswith('|') for row in rows):
            assert all(row.startswith('|') for row in rows), block
            assert re.fullmatch(r'\|[-| :]+\|', rows[1]), block
