"""The settings of the ops listener, and its sockets."""

import contextlib
import socket

import pytest

from paste_wspbus.command.arguments import parse
from paste_wspbus.errors import BindError, ConfigError, UsageError, WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.listening.sockets import ListeningSocket, bind_tcp
from paste_wspbus.ops.holding import Ops, check
from paste_wspbus.servers.asked import asked_of
from tests.kit import run
from tests.kit.sites import APP, SERVED

TOKEN = 'planted-token-1234'


def config_of(folder, lines):
    path = folder / 'site.ini'
    path.write_text(f'[wspbus:main]\n{lines}\n{SERVED}')
    return Config(str(path), {}, str(folder))


@pytest.mark.parametrize(
    'lines, problem',
    [
        ('ops = nonsense', "'nonsense' is neither HOST:PORT nor unix:PATH"),
        ('ops = 127.0.0.1:99999', 'is not a port'),
        ('ops = fd://3', "'fd://3' is neither HOST:PORT nor unix:PATH"),
        ('ops = unix:', "'unix:' has no path"),
        ('ops = unix:@', "'unix:@' has no path"),
        ('ops = unix:x?mode=9', "'9' is not the mode of a file"),
        ('ops_token =', 'ops_token: it is empty'),
        ('ops_token = short', 'ops_token: it must have 16 characters'),
        (f'ops_token = {TOKEN} x', 'ops_token: it must have 16 characters'),
        ('ops_hosts = http://a', "'http://a' is not the name of a host"),
        ('ops_hosts = a:9100', 'is not the name of a host'),
        ('ops_pages = maybe', "'maybe' is not true or false"),
        ('ops = 0.0.0.0:9100\nops_pages = true', 'everybody who reaches 0.0.0.0:9100'),
        ('ops_tokens = x', "did you mean 'ops_token'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path, lines, problem):
    with pytest.raises(WSPBusError) as caught:
        config = config_of(tmp_path, lines)
        check(config, None)
    assert problem in str(caught.value) and caught.value.exit_code == 2
    assert 'planted' not in str(caught.value)


@pytest.mark.parametrize(
    'text, problem',
    [
        ('fd://3', "--ops: 'fd://3' is neither HOST:PORT nor unix:PATH"),
        (' ', '--ops: it is empty'),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(text, problem):
    with pytest.raises(WSPBusError) as caught:
        parse(['site.ini', '--ops', text], 'wspserve')
    assert (str(caught.value), caught.value.exit_code) == (problem, 2)


def test_the_option_takes_several_addresses_as_the_key_does():
    options = parse(['site.ini', '--ops', ':1 unix:x', '--ops=:2'], 'wspserve')
    assert options.ops == [':1', 'unix:x', ':2']


def test_keys_that_do_nothing_are_warned_of(tmp_path):
    config = config_of(tmp_path, f'ops_token = {TOKEN}\nops_hosts = a')
    warnings = check(config, None)
    assert [one.split()[1] for one in warnings] == ['ops_token', 'ops_hosts']
    assert check(config, ['127.0.0.1:9100']) == []


@pytest.mark.parametrize('value', ['127.0.0.1:0', 'localhost:0', '[::1]:0', 'unix:x'])
def test_a_loopback_address_may_show_all_pages(tmp_path, value):
    assert check(config_of(tmp_path, f'ops = {value}\nops_pages = true'), None) == []


def test_a_path_is_relative_to_the_ini_and_that_of_the_command_to_the_folder(
    tmp_path, monkeypatch
):
    config = config_of(tmp_path, 'ops = unix:ops.sock, 127.0.0.1:0')
    assert Ops(config, None).addresses == [f'unix:{tmp_path}/ops.sock', '127.0.0.1:0']
    (tmp_path / 'other').mkdir()
    monkeypatch.chdir(tmp_path / 'other')
    assert Ops(config, ['unix:x?mode=660']).addresses == [
        f'unix:{tmp_path}/other/x?mode=660'
    ]


@pytest.mark.parametrize(
    'host, asked',
    [
        ('127.0.0.1', '127.0.0.1'),
        ('127.0.0.1', '0.0.0.0'),
        ('0.0.0.0', '127.0.0.1'),
        ('127.0.0.1', 'localhost'),
    ],
)
def test_the_port_of_the_site_is_not_that_of_the_pages(tmp_path, host, asked):
    site = bind_tcp(socket.AF_INET, (host, 0), False)
    port = site.sock.getsockname()[1]
    ops = Ops(config_of(tmp_path, f'ops = {asked}:{port}'), None)
    try:
        with pytest.raises(
            BindError, match=r'\] ops: cannot .*: the site itself has this address'
        ):
            ops.open(of_site=[site])
    finally:
        ops.close()
        site.close()


def test_many_connections_at_once_do_not_keep_a_probe_from_connecting(tmp_path):
    ops = Ops(config_of(tmp_path, 'ops = 127.0.0.1:0'), None)
    with contextlib.ExitStack() as opened:
        ops.open()
        opened.callback(ops.close)
        address = ops.sockets[0].sock.getsockname()
        for _ in range(400):  # nobody accepts; without room, connect(2) waits for ever
            opened.enter_context(socket.create_connection(address, timeout=10))


def test_the_file_of_the_site_is_not_that_of_the_pages(tmp_path):
    path = str(tmp_path / 'site.sock')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        ops = Ops(config_of(tmp_path, 'ops = unix:site.sock?mode=660'), None)
        with pytest.raises(BindError, match='the site itself has this address'):
            ops.open(of_site=[ListeningSocket(sock)])
        assert (tmp_path / 'site.sock').exists()


def test_a_group_that_is_not_there_is_a_mistake_in_ops(tmp_path):
    value = f'unix:{tmp_path}/x?group=no-such-group'
    with pytest.raises(ConfigError, match=r"\] ops: there is no group 'no-such-group'"):
        Ops(config_of(tmp_path, f'ops = {value}'), None).open()
    with pytest.raises(UsageError, match=r"^--ops: there is no group 'no-such-group'"):
        Ops(config_of(tmp_path, ''), [value]).open()


def test_the_socket_of_a_dead_site_is_replaced_and_that_of_a_live_one_is_not(tmp_path):
    config = config_of(tmp_path, 'ops = unix:ops.sock')
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / 'ops.sock'))
    ops, second = Ops(config, None), Ops(config, None)
    ops.open()
    with pytest.raises(BindError, match=r'ops\.sock: another process listens there'):
        second.open()
    ops.close()
    assert not (tmp_path / 'ops.sock').exists()
    (tmp_path / 'ops.sock').write_text('a file')
    with pytest.raises(BindError, match='a file is there that is not a socket'):
        second.open()


def test_two_ports_of_which_one_is_taken_leave_none_open(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ops = Ops(config_of(tmp_path, f'ops = unix:ops.sock 127.0.0.1:{port}'), None)
        with pytest.raises(BindError, match=f'{port}: the port is taken'):
            ops.open()
    assert not (tmp_path / 'ops.sock').exists()


@pytest.mark.parametrize(
    ('own', 'address', 'is_same'),
    [
        ('host = 127.0.0.1\nport = 8123', '127.0.0.1:8123', True),
        ('host = 0.0.0.0\nport = 8123', 'localhost:8123', True),
        ('listen = *:8123 127.0.0.1:8124', '127.0.0.1:8124', True),
        ('host = 127.0.0.1\nport = 8123', '0.0.0.0:8123', True),
        ('host = 127.0.0.1\nport = 8123', '127.0.0.2:8123', False),
        ('host = 127.0.0.1\nport = 0', '127.0.0.1:0', False),
        ('unix_socket = site.sock', 'unix:./site.sock', True),
        ('unix_socket = site.sock', 'unix:ops.sock', False),
    ],
)
def test_check_finds_an_address_of_the_site(
    tmp_path, monkeypatch, own, address, is_same
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'site.ini'
    path.write_text(f'[server:main]\nuse = egg:waitress\n{own}\n')
    config = Config(str(path), {}, str(tmp_path))
    server = config.known_server()
    if not is_same:
        assert check(config, [address], asked_of(server)) == []
        return
    with pytest.raises(UsageError, match='the site itself has this address'):
        check(config, [address], asked_of(server))


def test_check_warns_of_a_folder_that_is_not_there(tmp_path):
    (warning,) = check(config_of(tmp_path, 'ops = unix:no/ops.sock'), None)
    assert warning.endswith(f'there is no folder {tmp_path}/no')
    assert check(config_of(tmp_path, 'ops = unix:ops.sock unix:@name'), None) == []


def test_check_reads_the_keys(tmp_path):
    ini = f'[wspbus:main]\nops = 0.0.0.0:1\nops_pages = true\n{SERVED}'
    files = {'webapp.py': APP, 'site.ini': ini}
    done = run(tmp_path, 'site.ini', '--check', files=files)
    assert done.code == 2 and 'ops_pages: everybody who reaches' in done.err.text
