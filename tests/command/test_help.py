"""What `--help` says, and the command line without a file."""

import re

import pytest

from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE, parse
from paste_wspbus.command.parser import GROUPS, WORDS, make_parser
from paste_wspbus.command.subcommand_help import OF
from paste_wspbus.errors import UsageError
from tests.kit import run

SITE = '[app:main]\nuse = egg:paste_wspbus#hello\n'


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')
    for name in ('PASTE_CONFIG_FILE', '_'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_each_subcommand_is_in_one_group():
    named = [name for _, names, _ in GROUPS for name in names]
    assert sorted(named) == sorted([*WORDS, *SUBCOMMANDS, *WITHOUT_FILE])


def test_each_option_is_in_a_group_of_help():
    text = make_parser('wspserve').format_help()
    groups = [
        line[:-1] for line in text.splitlines() if line[:1] != ' ' and ':' in line
    ]
    assert groups[1:] == ['examples', *(title for title, _, _ in GROUPS)]
    for option in make_parser('wspserve')._option_string_actions:
        assert f' {option}' in text


@pytest.mark.parametrize('prog', ['wspserve', 'paster wspserve'])
def test_the_examples_are_command_lines(prog):
    text = make_parser(prog).format_help()
    part = text.split('examples:\n')[1].split('\n\n')[0]
    calls = [line.split('   ')[0].strip() for line in part.splitlines()]
    assert len(calls) == 3
    for call in calls:
        assert parse(call.removeprefix(prog).split(), prog).config == 'site.ini'


def test_help_fits_a_terminal():
    lines = make_parser('wspserve').format_help().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert (
        '  var=value             Put this value in the place of each %(var)s'
        in '\n'.join(lines)
    )


@pytest.mark.parametrize('name', [*SUBCOMMANDS, *WITHOUT_FILE])
def test_help_behind_a_subcommand_is_its_own(capsys, name):
    file = [] if name in WITHOUT_FILE else ['site.ini']
    calls = ([*file, name, '--help'], ['-h', *file, name], [name, '-h'], ['help', name])
    for args in calls:
        with pytest.raises(SystemExit) as left:
            parse(args, 'wspserve')
        assert left.value.code == 0
        text = capsys.readouterr().out
        lines = text.splitlines()
        assert lines[0].startswith(
            f'usage: wspserve {"CONFIG_FILE " * len(file)}{name} '
        )
        assert [line for line in lines if len(line) > 80] == []
        listed = re.findall(r'(?m)^  (?:-\w.*?, )?(--[\w-]+)', text)
        assert {*listed} == {*OF[name][1], '--help', '--verbose', '--quiet'}
        assert f'With {name}' not in text
        said = re.findall(r'(?m)^  -.*?(?:  +|\n +)(\S)', text)
        assert len(said) == len(listed)
        assert [one for one in said if one.islower()] == []
        assert listed[-3:] == ['--help', '--verbose', '--quiet']
        assert f'example:\n  wspserve {OF[name][2]}\n' in text


def test_an_option_means_what_the_subcommand_does_with_it(capsys):
    texts = {}
    for name in ('status', 'setup-app', 'start'):
        with pytest.raises(SystemExit):
            parse([name, '--help'], 'wspserve')
        texts[name] = ' '.join(capsys.readouterr().out.split())
    assert '--user USERNAME Look for the sites of this user, too' in texts['status']
    assert '--user USERNAME Run as this user' in texts['start']
    assert '--app-name NAME Load the named application' in texts['setup-app']


def test_help_as_a_word_is_the_whole_help(folder):
    done = run(folder, 'help')
    assert (done.code, done.err.text) == (0, '')
    assert done.out.text == run(folder, '--help').out.text


def test_the_command_prints_the_help_of_a_subcommand(folder):
    done = run(folder, 'site.ini', 'status', '--help')
    assert (done.code, done.err.text) == (0, '')
    assert done.out.text.startswith('usage: wspserve CONFIG_FILE status [options]\n')


@pytest.mark.parametrize('name', OF)
def test_the_example_of_a_subcommand_is_a_command_line(name):
    call = OF[name][2].partition(' &&')[0].split()
    assert parse(call, 'wspserve').subcommand == name


def error_of(*args):
    with pytest.raises(UsageError) as refused:
        parse(list(args), 'wspserve')
    return str(refused.value)


def test_without_a_file_the_sites_of_the_folder_are_named(folder):
    for name in ('production.ini', 'development.ini'):
        (folder / name).write_text(SITE)
    (folder / 'tox.ini').write_text('[tox]\n')
    (folder / 'folder.ini').mkdir()
    for name in ('.hidden.ini', '-c.ini'):
        (folder / name).write_text(SITE)
    there = 'wspserve: no file is named. Here are development.ini, production.ini: '
    assert error_of() == f'{there}wspserve development.ini'
    assert error_of('status') == f'{there}wspserve development.ini status'
    assert error_of('-v') == f'{there}wspserve development.ini'


def test_a_name_that_a_shell_would_split_is_quoted(folder):
    (folder / 'my site.ini').write_bytes(b'\xef\xbb\xbf[composite:main]\n')
    said = "wspserve: no file is named. Here is my site.ini: wspserve 'my site.ini'"
    assert error_of() == said


def test_of_many_files_five_are_named(folder):
    for number in range(8):
        (folder / f'{number}.ini').write_text(f'[DEFAULT]\na = 1\n{SITE}')
    assert 'Here are 0.ini, 1.ini, 2.ini, 3.ini, 4.ini and 3 more: ' in error_of()


def test_files_of_others_are_not_proposed(folder):
    (folder / 'alembic.ini').write_text('[alembic]\n')
    (folder / 'tox.ini').write_text('[tox]\n')
    said = 'no file is named, and no application is in alembic.ini, tox.ini. Usage: '
    assert said in error_of()


def test_a_subcommand_that_does_not_exist_stands_before_the_file(folder):
    problem = "wspserve: 'site.ini' is neither a subcommand nor a variable (NAME=VALUE)"
    assert error_of('serve', 'site.ini') == problem
    (folder / 'site.ini').write_text(SITE)
    first = '; the file comes first: wspserve site.ini'
    assert error_of('serve', 'site.ini') == f'{problem}{first}'


def test_where_no_file_is_the_usage_is_said(folder):
    said = error_of()
    assert said.startswith(
        'wspserve: no file is named, and this folder has no .ini: wspserve new ini makes '
        'one. Usage: wspserve [options] '
    )
    assert said.endswith('wspserve --help explains it')
