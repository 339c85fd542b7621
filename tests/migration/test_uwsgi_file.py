"""uWSGI's own rules for its .ini; the values here are what `uwsgi --show-config` prints."""

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.migration.uwsgi_file import MARK, UWSGIFile


def read(folder, text, name='site.ini'):
    (folder / name).write_text(f'[uwsgi]\n{text}')
    return UWSGIFile(str(folder / name))


def values(folder, text, key='x'):
    return [one.value for one in read(folder, text).options if one.key == key]


@pytest.mark.parametrize(
    'text, expected',
    [
        ('x = 1\nx=2\n', ['1', '2']),
        ('  x  =  a b  \t\r\n', ['a b']),
        ('x\n', ['']),
        ('x = a = b', ['a = b']),
        ('x = true # comment', ['true # comment']),
        ('; x = 1\n# x = 1\n\n[other]\nx = 2\n[uwsgi]\nx = 3', ['3']),
        ('x = a%Yb%%c', ['ab%c']),
        ('x = %(method) %(uri)', ['%(method) %(uri)']),
        ('for = 1 2\nx = n%(_)\nendfor =\n', ['n1', 'n2']),
        ('for-times = 2\nx = %(_)\nend = \n', ['1', '2']),
        ('a = /srv\nx = %(a)/b', ['/srv/b']),
        ('x = %(a)\na = later', ['later']),
        ('a = 1\na = 2\nx = %(a)', ['1']),
        ('c = 2\nx = %(c + 3 * 2 ++)', ['11']),
        ('c = 2\np = shop\nx = %(p c)', ['shop2']),
        ('x = %(7 / 2)', ['3']),
        ('x = %(7 / nothing)', ['0']),
        ('set = a=b\nx = <%(a)>', ['<b>']),
        ('x = $(WSPBUS_NOPE:-dflt)', ['dflt']),
        ('x = $(WSPBUS_NOPE-dflt)', ['dflt']),
        ('x = a$(HOME)b', [f'a{MARK}HOME{MARK}b']),
        ('if-env = WSPBUS_NOPE\nx = 1\nelse =\nx = 2\nendif =\nx = 3', ['2', '3']),
        ('if-not-env = WSPBUS_NOPE\nx = 1\nendif =', ['1']),
        ('a = 2\nif-opt = a=2\nx = %(_)\nendif =', ['2']),
        ('if-exists = /gone\nx = 1\nendif =', []),
        ('x = %(x)', ['%(x)']),
    ],
)
def test_lines_become_options(tmp_path, text, expected):
    assert values(tmp_path, text) == expected


def test_magic_variables_are_those_of_the_file(tmp_path):
    (found,) = values(tmp_path, 'x = %p %s %n %e %d %c')
    assert found == f'{tmp_path}/site.ini site.ini site ini {tmp_path}/ {tmp_path.name}'
    (first,) = values(tmp_path, 'x = %0')
    assert first == str(tmp_path).split('/')[1]


def test_files_are_included_where_they_are_named(tmp_path):
    (tmp_path / 'more.ini').write_text('[uwsgi]\nx = %n\n[prod]\nx = prod\n')
    text = 'x = 1\nini = more.ini\nx = 2\ninclude = %dmore.ini:prod\n'
    assert values(tmp_path, text) == ['1', 'more', '2', 'prod']


def test_a_missing_include_is_a_note(tmp_path):
    file = read(tmp_path, 'ini = gone.ini\nx = 1')
    assert 'gone.ini: there is no such file' in file.notes[0]


def test_a_value_may_be_in_a_file_but_in_no_program(tmp_path):
    (tmp_path / 'secret').write_text('s3cret\n')
    assert values(tmp_path, f'x = <@({tmp_path}/secret)>') == ['<s3cret>']
    file = read(tmp_path, 'x = @(exec://rm -rf /)')
    assert file.notes == ['@(exec://rm -rf /) is not read: put its value there']


def test_references_in_a_circle_end(tmp_path):
    (found,) = values(tmp_path, 'x = %(y)%(y)\ny = %(x)%(x)')
    assert len(found) < 1000


@pytest.mark.parametrize(
    'text, why',
    [
        (b'[app:main]\nuse = egg:x\n', 'wspserve serves as it is'),
        (b'[other]\na = 1\n', r'no \[uwsgi\] section'),
        (b'', r'no \[uwsgi\] section'),
        (b'<uwsgi><socket>x</socket></uwsgi>', 'XML.*--show-config'),
        (b'uwsgi:\n  socket: x\n', 'YAML.*--show-config'),
        (b'{"uwsgi": {}}', 'JSON.*--show-config'),
        (b'\x7fELF\0\0\1', 'no text'),
        (b'\xff\xfe[uwsgi]', 'no text'),
        (b'[uwsgi]\nini = site.ini\n', 'includes itself'),
        (b'[uwsgi]\nfor-times = 999999999\nx = 1\n', 'more than 10000'),
        (b'[uwsgi]\n' + b'#' * 1_000_001, 'more than 1000000 bytes'),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, monkeypatch, text, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'site.ini').write_bytes(text)
    with pytest.raises(ConfigError, match=why):
        UWSGIFile('site.ini')


@pytest.mark.parametrize('name', ['gone.ini', '.', '/dev/zero', 'gone.ini:prod'])
def test_what_cannot_be_read_is_refused(name):
    with pytest.raises(ConfigError):
        UWSGIFile(name)


def test_a_section_may_be_named(tmp_path):
    (tmp_path / 'a.ini').write_text('[prod]\nx = 1\n[dev]\nx = 2\n')
    assert [one.value for one in UWSGIFile(f'{tmp_path}/a.ini:dev').options] == ['2']
