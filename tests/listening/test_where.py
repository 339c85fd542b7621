"""Where a site listens: on what was asked for, after a restart too, and nowhere else."""

import contextlib
import os
import signal
import socket
import sys

import pytest

from paste_wspbus.bus import Bus, ChannelFailures
from paste_wspbus.servers.wsgiref import WsgirefServer
from tests.kit import Connection, Site, run
from tests.kit.processes import sockets_that_listen
from tests.kit.sites import APP as KIT_APP
from tests.kit.systemd import LAUNCH

SERVERS = {
    'waitress': 'use = egg:waitress\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\n',
    'cherrypy': 'use = egg:paste_wspbus#cherrypy\n',
    'paste': 'use = egg:Paste#http\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}

each_server = pytest.mark.parametrize('server', SERVERS)

APP = """
import os

def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        port = environ.get('SERVER_PORT')
        return [f'{os.getpid()} {port}'.encode()]
    return app
"""

INI = """
[app:main]
use = call:webapp:make

[server:main]
"""


def files(server, more=''):
    return {'site.ini': INI + SERVERS[server] + more, 'webapp.py': APP}


def ask(address):
    with Connection(address) as client:
        return client.get(connection='close').text


def passed(listening, settings, *args):
    """The words that start a site to which systemd passes sockets."""
    fds = ','.join(str(one.fileno()) for one in listening)
    words = [
        sys.executable,
        '-c',
        LAUNCH,
        fds,
        f'LISTEN_FDS={len(listening)}{settings}',
    ]
    return [*words, '-m', 'paste_wspbus', 'site.ini', *args]


# -- sockets that were passed -----------------------------------------------------------


@contextlib.contextmanager
def out_of_sight(kind, folder):
    """A Unix socket that listens, and whose name is no file that the site sees."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = '\0a-site-%d' % os.getpid() if kind == 'abstract' else 'gone'
        listening.bind(path if kind == 'abstract' else str(folder / path))
        listening.listen()
        yield listening, os.fsdecode(listening.getsockname())


@pytest.mark.parametrize('listen', [(), ('--listen', 'fd://web')], ids=['all', 'named'])
@pytest.mark.parametrize('kind', ['abstract', 'removed'])
@each_server
def test_a_passed_socket_without_a_file_is_served_after_a_restart(
    tmp_path, server, kind, listen
):
    with out_of_sight(kind, tmp_path) as (listening, address):
        command = passed([listening], ',LISTEN_FDNAMES=web', *listen)
        with Site(
            tmp_path,
            None,
            command=command,
            files=files(server),
            pass_fds=[listening.fileno()],
        ) as site:
            shown = f'unix:@{address[1:]}' if kind == 'abstract' else site.url
            assert site.url == shown
            assert ask(address).startswith(f'{site.pid} ')
            if kind == 'removed':  # from where it is said to be
                os.rename(address, f'{address}-elsewhere')
                address = f'{address}-elsewhere'
            site.send(signal.SIGHUP)
            site.wait_until_served(2)
            assert site.urls == [shown, shown]
            assert ask(address).startswith(f'{site.pid} ')
            assert sockets_that_listen(site.pid) == {shown[5:]}
            assert site.stop()[0] == 0


@each_server
def test_a_passed_descriptor_is_served_after_a_restart(tmp_path, server):
    with out_of_sight('abstract', tmp_path) as (listening, address):
        number = listening.fileno()
        with Site(
            tmp_path,
            None,
            'site.ini',
            '--listen',
            f'fd://{number}',
            files=files(server),
            pass_fds=[number],
        ) as site:
            for count in (2, 3):
                site.send(signal.SIGHUP)
                site.wait_until_served(count)
                assert ask(address).startswith(f'{site.pid} ')
            assert site.stop()[0] == 0


def test_a_passed_socket_is_served_though_the_ini_has_a_new_address(tmp_path):
    with (
        socket.create_server(('127.0.0.1', 0)) as listening,
        Site(
            tmp_path,
            None,
            command=passed([listening], ''),
            files=files('waitress', 'port = 1\n'),
            pass_fds=[listening.fileno()],
        ) as site,
    ):
        (tmp_path / 'site.ini').write_text(files('cheroot', 'port = 2\n')['site.ini'])
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.urls[0] == site.urls[1]
        assert ask(listening.getsockname()).startswith(f'{site.pid} ')
        assert site.stop()[0] == 0


def test_a_name_that_nobody_passes_is_told_in_one_line(tmp_path):
    told = run(tmp_path, 'site.ini', '--listen', 'fd://web', files=files('waitress'))
    assert told.code == 1, told.report()
    assert told.out.text == ''
    assert told.err.text.count('\n') == 1
    assert 'fd://web: no socket was passed under a name' in told.err.text


@each_server
def test_sockets_that_are_passed_to_another_process_are_left_to_it(tmp_path, server):
    # cheroot by itself would take descriptor 3, whoever LISTEN_PID names.
    with socket.create_server(('127.0.0.1', 0)) as another:
        command = [sys.executable, '-c', LAUNCH, str(another.fileno()), 'LISTEN_FDS=1']
        command[2] = LAUNCH.replace('str(os.getpid())', "'1'")
        command += ['-m', 'paste_wspbus', 'site.ini']
        with Site(
            tmp_path,
            None,
            command=command,
            files=files(server, 'host = 127.0.0.1\nport = 0\n'),
            pass_fds=[another.fileno()],
        ) as site:
            assert site.port != another.getsockname()[1]
            assert site.get().text == f'{site.pid} {site.port}'
            assert site.stop()[0] == 0


# -- a site that patches `socket` -------------------------------------------------------

#: Two ways: a class in the place of socket.socket, and one that is no subclass of it.
PATCHES = {
    'a subclass': """
import socket

class Patched(socket.socket):
    pass

socket.socket = socket.SocketType = Patched
""",
    'another class': """
import socket

real = socket.socket

class Patched:
    def __init__(self, *args, **kwargs):
        self._sock = real(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.close()

socket.socket = socket.SocketType = Patched
""",
}


@pytest.mark.parametrize('workers', ['0', '1'])
@pytest.mark.parametrize('patch', PATCHES)
@each_server
def test_a_site_that_patches_socket_listens_where_it_was_asked_to(
    tmp_path, server, patch, workers
):
    written = files(server, 'host = 127.0.0.1\nport = 0\n')
    written['webapp.py'] = PATCHES[patch] + APP
    with Site(tmp_path, None, 'site.ini', '--workers', workers, files=written) as site:
        for count in (1, 2):
            pid, port = site.get().text.split()
            assert port == str(site.port)
            assert sockets_that_listen(int(pid)) == {f'127.0.0.1:{site.port}'}
            if workers == '0':
                site.send(signal.SIGHUP)
                site.wait_until_served(count + 1)
        assert site.stop()[0] == 0, site.report()


# -- several addresses ------------------------------------------------------------------


@pytest.mark.parametrize('workers', ['0', '2'])
@each_server
def test_each_address_is_served(tmp_path, server, workers):
    words = ['--listen', '127.0.0.1:0', '--listen', '127.0.0.2:0']
    words += ['--listen', f'unix:{tmp_path}/s', '--workers', workers]
    with Site(tmp_path, None, 'site.ini', *words, files=files(server)) as site:
        first, second, third = site.urls
        assert first.startswith('http://127.0.0.1:')
        assert second.startswith('http://127.0.0.2:')
        assert third == f'unix:{tmp_path}/s'
        for url in (first, second):
            host, _, port = url.removeprefix('http://').partition(':')
            for _ in range(3):
                assert ask((host, int(port))).split()[1] == port
        ask(f'{tmp_path}/s')
        assert site.stop()[0] == 0
        assert not os.path.exists(tmp_path / 's')


@each_server
def test_each_address_is_served_after_a_restart_with_what_waits_there(tmp_path, server):
    words = ['--listen', '127.0.0.1:0', '--listen', f'unix:{tmp_path}/s']
    words += ['--listen', '127.0.0.2:0']
    with Site(tmp_path, None, 'site.ini', *words, files=files(server)) as site:
        before = site.urls
        site.send(signal.SIGHUP)
        site.wait_until_served(6)
        assert site.urls[3:] == before
        ask(f'{tmp_path}/s')
        ask(('127.0.0.2', site.port))
        assert site.stop()[0] == 0


@pytest.mark.parametrize('section', ['server', 'wspbus'])
@each_server
def test_the_ini_has_several_addresses_too(tmp_path, server, section):
    if section == 'server':
        more = f'listen = 127.0.0.1:0 unix:{tmp_path}/s\n'
    else:
        more = (
            f'port = 1\n\n[wspbus:main]\nlisten = 127.0.0.1:0\n    unix:{tmp_path}/s\n'
        )
    with Site(tmp_path, None, 'site.ini', files=files(server, more)) as site:
        first, second = site.urls
        assert first.startswith('http://127.0.0.1:')
        assert second == f'unix:{tmp_path}/s'
        assert ask(f'{tmp_path}/s').startswith(f'{site.pid} ')
        ask(('127.0.0.1', int(first.rpartition(':')[2])))
        assert site.stop()[0] == 0


@each_server
def test_if_one_of_several_addresses_is_taken_none_is_kept(tmp_path, server):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        words = ['--listen', f'unix:{tmp_path}/s', '--listen', f'127.0.0.1:{port}']
        told = run(tmp_path, 'site.ini', *words, files=files(server))
    assert told.code == 1, told.report()
    assert told.out.text == ''
    assert f'127.0.0.1:{port}: the port is taken' in told.err.text
    assert not os.path.exists(tmp_path / 's')


@pytest.mark.parametrize('between', [' ', ',', ', ', ' , ', '\n    '])
@pytest.mark.parametrize('section', ['server:main', 'wspbus:main'])
@pytest.mark.parametrize('server', ['waitress', 'wsgiref'])
def test_addresses_of_a_key_have_spaces_lines_or_commas_between_them(
    tmp_path, server, section, between
):
    more = f'listen = 127.0.0.1:0{between}127.0.0.2:0\n'
    if section == 'wspbus:main':
        more = f'port = 0\n\n[wspbus:main]\n{more}'
    with Site(tmp_path, None, 'site.ini', files=files(server, more)) as site:
        hosts = {host.rpartition(':')[0] for host in sockets_that_listen(site.pid)}
        assert hosts == {'127.0.0.1', '127.0.0.2'}
        assert site.stop()[0] == 0


@pytest.mark.parametrize('between', [' ', ',', ', '])
def test_an_option_takes_one_address(tmp_path, between):
    listen = f'127.0.0.1:0{between}127.0.0.2:0'
    for more in ('--check',), ():
        words = ('site.ini', '--listen', listen, *more)
        told = run(tmp_path, *words, files=files('waitress'))
        assert told.code == 2, told.report()
        hint = 'is more than one address; write --listen before each of them'
        assert told.err.text == f"--listen: '{listen}' {hint}\n"


def link_local():
    """Return a link-local address of this machine and its interface; skip if it has none."""
    with contextlib.suppress(OSError), open('/proc/net/if_inet6') as lines:
        for line in lines:
            digits, _, _, scope, _, name = line.split()
            if scope == '20':
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), name
    pytest.skip('this machine has no link-local address')


@each_server
def test_a_link_local_address_is_that_of_its_interface(tmp_path, server):
    host, name = link_local()
    words = '--listen', f'[{host}%{name}]:0'
    with Site(tmp_path, None, 'site.ini', *words, files=files(server)) as site:
        for count in (1, 2):
            assert site.url == f'http://[{host}%{name}]:{site.port}'
            ask((host, site.port, 0, socket.if_nametoindex(name)))
            site.send(signal.SIGHUP)
            site.wait_until_served(count + 1)
        assert len(set(site.urls)) == 1
        assert site.stop()[0] == 0
    more = f'host = {host}%%{name}\nport = 0\n'
    with Site(tmp_path, None, 'site.ini', files=files(server, more)) as site:
        ask((host, site.port, 0, socket.if_nametoindex(name)))
        assert site.stop()[0] == 0


@pytest.mark.parametrize('check', [('--check',), ()], ids=['check', 'serve'])
@pytest.mark.parametrize(
    ('words', 'keys', 'said'),
    [
        (('--listen', '[fe80::1]:0'), '', "--listen: 'fe80::1' {}fe80::1%eth0"),
        (
            (),
            'host = fe80::1\n',
            "site.ini [server:main] host: 'fe80::1' {}fe80::1%%eth0",
        ),
        (
            (),
            'listen = [FEBF::1]:0\n',
            "site.ini [server:main] listen: 'FEBF::1' {}FEBF::1%%eth0",
        ),
    ],
    ids=['--listen', 'host', 'listen'],
)
@each_server
def test_a_link_local_address_without_its_interface_is_refused(
    tmp_path, server, words, keys, said, check
):
    told = run(tmp_path, 'site.ini', *words, *check, files=files(server, keys))
    assert told.code == 2, told.report()
    why = 'is a link-local address, which needs its network interface: write it as '
    assert told.err.text == f'{said.format(why)}\n'


@pytest.mark.parametrize(
    ('interface', 'said'),
    [
        ('nosuch', "network interface 'nosuch'"),
        ('99999', 'network interface of that number'),
    ],
)
def test_an_interface_that_is_not_there_is_named(tmp_path, interface, said):
    words = ('site.ini', '--listen', f'[fe80::1%{interface}]:80')
    told = run(tmp_path, *words, files=files('waitress'))
    assert told.code == 1, told.report()
    assert told.err.text == (
        f'cannot listen on [fe80::1%{interface}]:80: this machine has no {said}\n'
    )


def test_an_address_of_wspbus_main_that_is_none_is_told_with_its_place(tmp_path):
    more = '\n[wspbus:main]\nlisten = 127.0.0.1:0 nonsense\n'
    told = run(tmp_path, 'site.ini', '--check', files=files('waitress', more))
    assert told.code == 2, told.report()
    assert "site.ini [wspbus:main] listen: 'nonsense'" in told.err.text


# -- Unix sockets -----------------------------------------------------------------------


def mode(path):
    return os.lstat(path).st_mode & 0o777


@each_server
def test_a_unix_socket_has_the_mode_and_the_group_that_its_address_says(
    tmp_path, server
):
    listen = f'unix:{tmp_path}/s?mode=660&group=daemon'
    for written, words in (
        (files(server), ['--listen', listen]),
        (files(server, f'listen = {listen}\n'), []),
        (files(server, f'unix_socket = {listen[5:]}\n'), []),
        (files(server, f'unix_socket = {tmp_path}/s\nunix_socket_perms = 660\n'), []),
    ):
        with Site(
            tmp_path, None, 'site.ini', *words, files=written, umask=0o77
        ) as site:
            assert mode(tmp_path / 's') == 0o660
            if 'group' in site.url or words:
                assert (tmp_path / 's').lstat().st_gid != os.getgid()
            ask(f'{tmp_path}/s')
            site.send(signal.SIGHUP)
            site.wait_until_served(2)
            assert mode(tmp_path / 's') == 0o660
            assert site.stop()[0] == 0


@each_server
def test_without_a_mode_a_unix_socket_has_that_of_the_server(tmp_path, server):
    usual = 0o770 if server in ('cheroot', 'cherrypy') else 0o600  # by the umask
    words = '--listen', f'unix:{tmp_path}/s'
    with Site(
        tmp_path, None, 'site.ini', *words, files=files(server), umask=0o7
    ) as site:
        assert mode(tmp_path / 's') == usual
        assert site.stop()[0] == 0


def test_the_site_keeps_its_umask(tmp_path):
    written = files('waitress', f'unix_socket = {tmp_path}/s?mode=666\n')
    written['webapp.py'] = "open('made', 'w').close()\n" + APP
    with Site(tmp_path, None, 'site.ini', files=written, umask=0o27) as site:
        assert mode(tmp_path / 's') == 0o666
        assert mode(tmp_path / 'made') == 0o640
        assert site.stop()[0] == 0


@pytest.mark.parametrize(
    ('address', 'code', 'text'),
    [
        ('unix:s?mode=9', 2, "'9' is not the mode of a file"),
        ('unix:s?mode=1777', 2, "'1777' is not the mode of a file"),
        ('unix:s?group=nobody-has-it', 2, "there is no group 'nobody-has-it'"),
        ('unix:s?moed=660', 2, 'mode=, group= may follow the question mark'),
        ('unix:@s?mode=660', 2, 'an abstract socket has no mode'),
        ('127.0.0.1:0?mode=660', 2, 'ipv6only= may follow'),
        ('fd://3?mode=660', 2, 'nothing may follow'),
        ('fd://', 2, 'the number of a descriptor, or the name'),
        ('fd://99999999999999999999', 1, 'there is no such descriptor'),
        ('unix:' + 'x' * 108, 2, '108 bytes'),
        ('unix:site.ini', 1, 'a file is there that is not a socket'),
        ('unix:site.ini/s', 1, 'Not a directory'),
        ('unix:live', 1, 'another process listens there'),
    ],
)
def test_an_address_that_cannot_be_is_told_in_one_line(tmp_path, address, code, text):
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / 'live'))
        live.listen()
        told = run(tmp_path, 'site.ini', '--listen', address, files=files('waitress'))
    assert told.code == code, told.report()
    assert text in told.err.text
    assert told.err.text.count('\n') == 1
    assert told.out.text == ''
    assert os.path.exists(tmp_path / 'live')


@each_server
def test_an_abstract_socket_is_printed_with_an_at_sign(tmp_path, server):
    name = f'wspbus-{os.getpid()}'
    words = '--listen', f'unix:@{name}'
    with Site(tmp_path, None, 'site.ini', *words, files=files(server)) as site:
        assert site.url == f'unix:@{name}'
        assert ask(f'\0{name}').startswith(f'{site.pid} ')
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert ask(f'\0{name}').startswith(f'{site.pid} ')
        assert site.stop()[0] == 0


@each_server
def test_a_unix_socket_whose_file_is_gone_is_bound_anew_by_a_restart(tmp_path, server):
    written = files(server, f'unix_socket = {tmp_path}/s\n')
    with Site(tmp_path, None, 'site.ini', files=written) as site:
        os.remove(tmp_path / 's')
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert ask(f'{tmp_path}/s').startswith(f'{site.pid} ')
        assert site.stop()[0] == 0
    assert not os.path.exists(tmp_path / 's')


# -- IPv6 and $PORT ---------------------------------------------------------------------


def needs_ipv6():
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('no IPv6 here')


@pytest.mark.parametrize(
    ('query', 'key', 'only'),
    [
        ('?ipv6only=true', '', True),
        ('?ipv6only=false', '', False),
        ('', 'ipv6only = true\n', True),
        ('', 'ipv6only = false\n', False),
        ('', '', None),
    ],
)
@each_server
def test_ipv6only_says_whether_ipv4_is_served_too(tmp_path, server, query, key, only):
    needs_ipv6()
    if only is None:  # cheroot's own is both
        only = server not in ('cheroot', 'cherrypy')
    with contextlib.ExitStack() as stack:
        port = 0
        if only:  # hold the port of IPv4, or another process may get it and answer
            held = stack.enter_context(socket.socket())
            held.bind(('127.0.0.1', 0))
            port = held.getsockname()[1]
        words = ['--listen', f'[::]:{port}{query}'] if query else []
        written = files(server, f'{key}host = ::\nport = {port}\n')
        site = stack.enter_context(
            Site(tmp_path, None, 'site.ini', *words, files=written)
        )
        for count in (1, 2):
            assert site.url.startswith('http://[::]:')
            ask(('::1', site.port))
            if only:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(('127.0.0.1', site.port))
            else:
                ask(('127.0.0.1', site.port))
            site.send(signal.SIGHUP)
            site.wait_until_served(count + 1)
        assert len(set(site.urls)) == 1
        assert site.stop()[0] == 0


def test_port_of_the_environment_is_used_only_if_nothing_else_says_where(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
    env = {'PORT': str(port)}
    ini = '[app:main]\nuse = call:webapp:make\n'
    with Site(tmp_path, ini, files={'webapp.py': APP}, env=env) as site:
        assert site.url == f'http://0.0.0.0:{port}'
        assert site.stop()[0] == 0
    with Site(tmp_path, ini, '--listen', '127.0.0.1:0', env=env) as site:
        assert site.port != port
        assert site.stop()[0] == 0
    written = files('waitress', 'host = 127.0.0.1\nport = 0\n')
    with Site(tmp_path, None, 'site.ini', files=written, env=env) as site:
        assert site.port != port
        assert site.stop()[0] == 0
    told = run(tmp_path, 'site.ini', files={'site.ini': ini}, env={'PORT': 'http'})
    assert told.code == 2, told.report()
    assert "$PORT: 'http' is not a port" in told.err.text


# -- the file of a Unix socket, while workers serve -------------------------------------

WORKERS = '\n[wspbus:main]\nworkers = 2\n'


def remove(path, _):
    os.remove(path)


def replace_by_a_dead_one(path, stack):
    os.remove(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def replace_by_a_live_one(path, stack):
    os.remove(path)
    live = stack.enter_context(socket.socket(socket.AF_UNIX))
    live.bind(str(path))
    live.listen()


def replace_by_a_file(path, _):
    os.remove(path)
    path.write_text('precious')


def remove_its_folder(path, _):
    os.remove(path)
    os.rmdir(path.parent)


@pytest.mark.parametrize('lose', [remove, replace_by_a_dead_one])
@each_server
def test_a_lost_unix_socket_is_bound_anew_by_graceful(tmp_path, server, lose):
    path = tmp_path / 'run' / 's'
    path.parent.mkdir()
    more = f'unix_socket = {path}?mode=660\n' + WORKERS
    with Site(tmp_path, None, 'site.ini', files=files(server, more)) as site:
        before = ask(str(path)).split()[0]
        lose(path, None)
        for _ in range(2):
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert ask(str(path)).split()[0] != before
        assert mode(path) == 0o660
        assert site.err.text.count('it is bound again') == 1
        assert site.stop()[0] == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ('lose', 'why'),
    [
        (replace_by_a_live_one, 'another process listens there'),
        (replace_by_a_file, 'a file is there that is not a socket'),
        (remove_its_folder, 'there is no such folder'),
    ],
)
def test_graceful_fails_if_nobody_could_connect_afterwards(tmp_path, lose, why):
    path = tmp_path / 'run' / 's'
    path.parent.mkdir()
    more = f'listen = unix:{path} 127.0.0.1:0\n' + WORKERS
    with (
        contextlib.ExitStack() as stack,
        Site(tmp_path, None, 'site.ini', files=files('waitress', more)) as site,
    ):
        before = site.get().text
        lose(path, stack)
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 1, told.report()
        assert why in told.err.text
        assert 'Generation 2 serves' not in site.out.text
        assert site.get().text.split()[1] == before.split()[1]
        assert site.stop()[0] == 0


def test_hup_has_a_socket_of_its_own_where_the_release_is_now(tmp_path):
    written = files('waitress', 'unix_socket = s\n' + WORKERS)
    for version in '1', '2':
        for name, text in written.items():
            path = tmp_path / version / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    os.symlink('1', tmp_path / 'current')
    place = tmp_path / 'current'
    with Site(tmp_path, None, 'site.ini', cwd=place, env={'PWD': str(place)}) as site:
        ask(str(place / 's'))
        os.symlink('2', tmp_path / 'new')
        os.replace(tmp_path / 'new', place)
        told = run(place, 'site.ini', 'graceful', env={'PWD': str(place)})
        assert told.code == 0, told.report()
        ask(str(place / 's'))
        assert not (tmp_path / '1' / 's').exists()
        assert site.stop()[0] == 0


def test_a_restart_may_widen_the_address(tmp_path):
    with Site(tmp_path, None, 'site.ini', files=files('cheroot', 'port = 0\n')) as site:
        port = site.port
        (tmp_path / 'site.ini').write_text(
            files('cheroot', f'host = 0.0.0.0\nport = {port}\n')['site.ini']
        )
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.url == f'http://0.0.0.0:{port}'
        assert site.stop()[0] == 0


def test_a_server_that_uses_another_socket_is_told_before_it_serves():
    class Astray(WsgirefServer):
        def accepts_on(self):
            return [elsewhere]

    server, bus = Astray({'host': '127.0.0.1', 'port': '0'}, {}), Bus()
    server.plug_in(bus)
    bus.subscribe('start', server, lambda *_: [])
    with socket.create_server(('127.0.0.1', 0)) as elsewhere:
        with pytest.raises(ChannelFailures) as failed:
            bus.start()
        (error,) = failed.value.get_instances()
        assert 'the server does not use this socket' in str(error)
        assert not server.sockets
        bus.exit()


# -- a daemon ---------------------------------------------------------------------------


def test_a_daemon_serves_on_what_its_launching_process_was_passed(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as listening:
        address = listening.getsockname()
        words = passed(
            [listening], ',LISTEN_FDNAMES=web', 'start', '--listen', 'fd://web'
        )
        kept = {'pass_fds': [listening.fileno()]}
        written = files('waitress')
        try:
            told = run(tmp_path, command=words, files=written, **kept)
            assert told.code == 0, told.report()
            assert f'Serving on http://127.0.0.1:{address[1]}' in told.out.text
            before = ask(address)
            told = run(tmp_path, 'site.ini', 'graceful')
            assert told.code == 0, told.report()
            assert ask(address) == before  # the same process number
            told = run(tmp_path, 'site.ini', 'restart', '--listen', 'fd://web')
            assert told.code == 0, told.report()
            assert ask(address) != before
        finally:
            stopped = run(tmp_path, 'site.ini', 'stop')
        assert stopped.code == 0, stopped.report()


# -- a stop with several addresses ------------------------------------------------------

HOLDING = """
[app:main]
use = call:webapp:make

[wspbus:main]
stop_timeout = 30

[server:main]
"""

#: Connections that idle between two requests: of those servers that keep them.
KEEP = {'waitress', 'cheroot', 'cherrypy'}


@each_server
def test_a_stop_answers_the_open_requests_of_each_address(tmp_path, server):
    words = ['--listen', '127.0.0.1:0', '--listen', f'unix:{tmp_path}/s']
    words += ['--listen', '127.0.0.2:0', '-v']
    written = {'site.ini': HOLDING + SERVERS[server], 'webapp.py': KIT_APP}
    with (
        Site(tmp_path, None, 'site.ini', *words, files=written) as site,
        contextlib.ExitStack() as stack,
    ):
        hosts = [url.removeprefix('http://').partition(':') for url in site.urls]
        addresses = [(host, int(port)) for host, _, port in hosts if '/' not in port]
        addresses.append(f'{tmp_path}/s')
        idle = [stack.enter_context(Connection(one)) for one in addresses]
        for connection in idle:
            connection.get('/')
        waiting = [stack.enter_context(Connection(one)) for one in addresses]
        for connection in waiting:
            connection.send('/wait')
        site.expect('waiting', 3)
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        if server in KEEP:
            assert all(connection.is_ended() for connection in idle)
        site.release()
        assert all(connection.receive().status == 200 for connection in waiting)
        assert site.wait() == 0, site.report()
        assert 'Traceback' not in site.err.text
