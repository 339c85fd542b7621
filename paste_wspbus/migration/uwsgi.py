"""An .ini that says what a uWSGI .ini says."""

from __future__ import annotations

import os
import re

from paste_wspbus.errors import ConfigError
from paste_wspbus.migration.uwsgi_file import INCLUDES, MARK, Option, UWSGIFile, number
from paste_wspbus.migration.uwsgi_jobs import FUNCTION, job_of
from paste_wspbus.migration.uwsgi_keys import REASONS
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: uWSGI's words for false in an option without an argument; all else is true.
FALSE = ('false', 'off', 'no', '0')

#: Seconds of a stop that a supervisor keeps: a worker has so much less than stop_timeout.
OF_SUPERVISOR = 2

#: The keys of the uwsgi protocol and of FastCGI, and those of HTTP.
UWSGI_SOCKETS = ('socket', 'uwsgi-socket', 'fastcgi-socket')
HTTP_SOCKETS = ('http', 'httprouter', 'http-socket')

#: The keys that name the application.
MODULES, FILES = ('module', 'wsgi', 'wsgi-lite'), ('wsgi-file', 'file')
PASTES = ('paste', 'ini-paste', 'ini-paste-logged')
FOLDERS = ('pythonpath', 'python-path', 'pp', 'chdir')

#: From a key of uWSGI to a key of [wspbus:main], and to the end of its value.
SIMPLE = {
    'harakiri': ('request_deadline', ''),
    'max-requests': ('max_requests', ''),
    'max-worker-lifetime': ('max_age', ''),
    'reload-on-rss': ('max_memory', 'M'),
    'evil-reload-on-rss': ('max_memory', 'M'),
}

#: From a key of uWSGI to a key of waitress.
OF_SERVER = {
    'threads': 'threads',
    'listen': 'backlog',
    'limit-post': 'max_request_body_size',
    'http-timeout': 'channel_timeout',
    'socket-timeout': 'channel_timeout',
}

#: These belong to what other keys say, and are read there.
PARTS = (
    *('callable', 'paste-name', 'paste-logger', 'chmod-socket', 'chown-socket'),
    *('protocol', 'socket-protocol', 'endfor', 'static-index', 'static-expires'),
)


def translate(path: str) -> str:
    """Return the text of an .ini for wspserve, with comments on what it cannot say.

    :param path: the path of a uWSGI .ini, perhaps with ``:SECTION``.
    :raises ConfigError: if it cannot be read, or is another kind of file.
    """
    return _Translation(UWSGIFile(path), path).text()


class _Translation:
    def __init__(self, file: UWSGIFile, path: str) -> None:
        self.file, self.path = file, path
        self.main: dict[str, str] = {}
        self.server: dict[str, str] = {}
        self.comments: dict[str, list[str]] = {'main': [], 'server': [], 'app': []}
        self.how: list[str] = []
        self.not_needed: list[str] = []
        self.missing: list[str] = list(file.notes)
        self.used: set[str] = set(PARTS) | set(INCLUDES)

    def text(self) -> str:
        app = self._app()
        self._processes()
        self._server()
        plugins = [*self._jobs(), *self._mules()]
        self._rest()
        lines = [f'; What {self.path} says, in the words of wspserve.']
        lines += [line for one in self.how for line in _comment(one)]
        lines += ['', '[wspbus:main]', *self._comments('main')]
        lines += [f'{key} = {_ini(value)}' for key, value in self.main.items()]
        lines += ['', '[server:main]', *self._comments('server'), 'use = egg:waitress']
        lines += [f'{key} = {_ini(value)}' for key, value in self.server.items()]
        lines += ['', *self._comments('app'), *app] if app else []
        lines += [line for one in plugins for line in ('', *one)]
        for heading, found in (
            ('Without a counterpart here:', self.missing),
            ('Not needed here:', self.not_needed),
        ):
            if found:
                lines += ['', f'; {heading}']
                lines += [line for one in found for line in _comment(one, ';   ')]
        return '\n'.join(printable(one) for one in lines)

    def _comments(self, section: str) -> list[str]:
        return [line for one in self.comments[section] for line in _comment(one)]

    def _all(self, *keys: str) -> list[Option]:
        """Return the options of these keys, in their order; they are done then."""
        self.used.update(keys)
        return [one for one in self.file.options if one.key in keys]

    def _last(self, *keys: str) -> Option | None:
        """Return the option that counts if one is repeated: the last."""
        found = self._all(*keys)
        return found[-1] if found else None

    def _is_set(self, *keys: str) -> bool:
        option = self._last(*keys)
        return option is not None and option.value.lower() not in FALSE

    # -- the application ------------------------------------------------------------

    def _app(self) -> list[str]:
        """Return the lines of the sections of the applications."""
        self.used.update((*MODULES, *FILES, *PASTES))
        if (paste := self._last(*PASTES)) is not None:
            path = _shown(paste.value.removeprefix('config:'))
            self.how.append(f'Add these sections to {path}, in the place of its own.')
            if of := self._last('paste-name'):
                self.how.append(f'Serve it with --app-name {_shown(of.value)}.')
            return []
        if self.file.is_of_paste:
            self.how.append(
                'It is an .ini of PasteDeploy, too. If its own application is meant, add only '
                '[wspbus:main] and [server:main] to it.'
            )
        own = self._last(*MODULES) or self._last(*FILES)
        beside = self._mounts() + self._statics()
        name = 'site' if beside else 'main'
        routes = [('/', name)] if own is not None else []
        lines = []
        if own is not None:
            lines = self._app_section(name, own.value, own.key in FILES)
        for prefix, of_app, section in beside:
            routes.append((prefix, of_app))
            lines += ['', *section]
        if beside:
            composite = ['[composite:main]', 'use = egg:Paste#urlmap']
            composite += [f'{_ini(prefix)} = {app}' for prefix, app in routes]
            lines = [*composite, *([''] if own is not None else []), *lines]
            said = "egg:Paste needs: pip install 'paste_wspbus[paste]'"
            self.comments['app'].append(said)
        if not lines:
            self.how.append('It names no application: add a section [app:main].')
        return lines

    def _mounts(self) -> list[tuple[str, str, list[str]]]:
        """Return the prefix, the name and the section of each application at a prefix."""
        found = []
        for count, option in enumerate(self._all('mount'), 1):
            prefix, _, target = option.value.partition('=')
            if not prefix.startswith('/') or not target:
                said = f'mount = {_shown(option.value)}: only paths are prefixes here'
                self.missing.append(said)
                continue
            name = f'mount{count}'
            is_file = target.endswith(('.py', '.wsgi'))
            found.append((prefix, name, self._app_section(name, target, is_file)))
        return found

    def _statics(self) -> list[tuple[str, str, list[str]]]:
        """Return the same of each folder of files."""
        found = []
        for count, option in enumerate(self._all('static-map', 'static-map2'), 1):
            prefix, _, folder = option.value.partition('=')
            if option.key == 'static-map2':
                folder = folder.rstrip('/') + prefix
            name, use = f'static{count}', 'use = egg:Paste#static'
            section = [f'[app:{name}]', use, f'document_root = {_ini(folder)}']
            found.append((prefix or '/', name, section))
        return found

    def _app_section(self, name: str, target: str, is_file: bool) -> list[str]:
        lines = [f'[app:{name}]', 'use = egg:paste_wspbus#wsgi']
        option = self._last('callable')
        default = option.value if option is not None else ''
        if is_file:
            lines.append(f'file = {_ini(target)}')
            lines += [f'app = {_ini(default)}'] if default else []
        else:
            module, _, of = target.partition(':')
            lines.append(f'app = {_ini(module)}:{_ini(of or default or "application")}')
        folders = [one.value for one in self._all(*FOLDERS) if one.value]
        if folders:
            lines.append(f'path = {" ".join(map(_ini, dict.fromkeys(folders)))}')
        for one in self._all('env'):
            variable, _, value = one.value.partition('=')
            lines.append(f'env.{_ini(variable)} = {_ini(value)}')
        return lines

    # -- processes ------------------------------------------------------------------

    def _processes(self) -> None:
        option = self._last('processes', 'workers')
        has_master = self._is_set('master')
        self.used -= {'master'}
        count = 'auto' if option and option.written == '%k' else ''
        count = count or (_number(option) if option else '')
        if count and (count != '1' or has_master):
            self.main['workers'] = count
        elif has_master:
            self.main['workers'] = '1'
        works = self.main.get('workers', '0') not in ('0', '1')
        is_lazy = self._is_set('lazy-apps', 'lazy', 'lazy-app')
        if works and not is_lazy:
            self.comments['main'].append(
                'preload: uWSGI loads the application once and forks the workers. Leave it '
                'out if the site opens connections or starts threads while it is loaded.'
            )
            self.main['preload'] = 'true'
        for key, (name, end) in SIMPLE.items():
            option = self._last(key)
            if option is None:
                continue
            value = _number(option)
            if value != '0':
                self.main[name] = value + end
        if any(
            key in self.main for key in ('max_requests', 'max_age', 'max_memory')
        ) or ('request_deadline' in self.main):
            self._with_workers('limits of a worker')
        self._times_and_files()

    def _with_workers(self, what: str) -> None:
        if self.main.get('workers', '0') == '0':
            self.main = {'workers': '1', **self.main}
            self.comments['main'].append(f'workers: {what} need a supervisor.')

    def _times_and_files(self) -> None:
        mercies = self._all('reload-mercy', 'worker-reload-mercy')
        numbers = [_number(one) for one in mercies if _number(one) != '0']
        if numbers:
            longest = max(numbers, key=number)
            if longest.isdecimal() and self.main.get('workers', '0') != '0':
                longest = str(int(longest) + OF_SUPERVISOR)
            self.main['stop_timeout'] = longest
        if option := self._last('pidfile', 'safe-pidfile', 'pidfile2', 'safe-pidfile2'):
            self.main['pid_file'] = option.value
        log = self._last('logto', 'logto2', 'daemonize', 'daemonize2')
        if log is not None and log.key.startswith('daemonize'):
            self.how.append('It is a daemon: wspserve FILE start')
        if log is not None and _is_path(log.value):
            self.main['log_file'] = log.value
        elif log is not None and log.value:
            self.missing.append(
                f'{log.key} = {_shown(log.value)}: it logs to files alone'
            )
        user, group = self._last('uid'), self._last('gid')
        options = [
            f'--{name} {_shown(one.value)}'
            for name, one in (('user', user), ('group', group))
            if one is not None
        ]
        if options:
            self.how.append(f'As root, give the command {" ".join(options)}')
        if home := self._last('home', 'virtualenv', 'venv', 'pyhome'):
            command = os.path.join(_shown(home.value), 'bin', 'wspserve')
            self.how.append(f'Install wspserve into its environment, and run {command}')

    # -- jobs and mules ----------------------------------------------------------------

    def _jobs(self) -> Iterator[list[str]]:
        """Yield the lines of a section for each job; nothing runs it yet."""
        names: list[str] = []
        for option in self._all('cron', 'unique-cron'):
            if (job := job_of(option.value)) is None:
                said = (
                    f'{option.key} = {_shown(option.value)}: write five numbers first'
                )
                self.missing.append(said)
                continue
            names.append(name := f'cron{len(names) + 1}')
            lines = _comment(f'uWSGI runs: {_shown(job.command)}')
            lines += [f'[plugin:{name}]', 'use = egg:paste_wspbus#cron']
            lines += [f'when = {job.when}', f'run = jobs:{name}']
            if option.key == 'cron':
                lines.append('overlap = allow')
            yield lines
        if names:
            said = "egg:paste_wspbus#cron needs: pip install 'paste_wspbus[cron]'"
            self.how.append(
                'uWSGI runs commands at certain times, wspserve runs functions. Write them in '
                f'a module jobs, and add {" ".join(names)} to site_plugins in '
                f'[wspbus:main]. This needs workers. {said}'
            )

    def _mules(self) -> Iterator[list[str]]:
        """Yield the lines of a section for each mule that runs a function."""
        names: list[str] = []
        for option in self._all('mule'):
            if not FUNCTION(option.value):
                what = 'a service is a function: write one, and a section with'
                why = f'{what} use = egg:paste_wspbus#service (docs/ready/service.md)'
                self.missing.append(
                    f'mule{f" = {_shown(option.value)}" * bool(option.value)}: {why}'
                )
                continue
            names.append(name := f'mule{len(names) + 1}')
            use = 'use = egg:paste_wspbus#service'
            run = f'run = {option.value}'
            yield [f'[plugin:{name}]', use, run, 'runs_in = process']
        if names:
            self._with_workers('site_plugins')
            self.main['site_plugins'] = ' '.join(names)

    # -- the server -----------------------------------------------------------------

    def _server(self) -> None:
        http, uwsgi = self._all(*HTTP_SOCKETS), self._all(*UWSGI_SOCKETS)
        protocol = self._last('protocol', 'socket-protocol')
        if protocol is not None and protocol.value == 'http':
            http, uwsgi = http + uwsgi, []
        if http and uwsgi:
            self.not_needed += [
                f'{one.key} = {_shown(one.value)}: the site itself serves HTTP'
                for one in uwsgi
            ]
        elif uwsgi:
            self.comments['server'].append(
                'It speaks HTTP where uWSGI spoke its own protocol. nginx: proxy_pass '
                'http://… in the place of uwsgi_pass; with a Unix socket, '
                'proxy_pass http://unix:PATH:'
            )
        chosen = http or uwsgi
        mode = self._last('chmod-socket')
        owner = self._last('chown-socket')
        addresses = [_address(one, mode, owner) for one in chosen]
        found = re.fullmatch(r'([\d.]+|[a-zA-Z][\w.-]*):(\d+)', ' '.join(addresses))
        if found:
            self.server['host'], self.server['port'] = found[1], found[2]
        elif addresses:
            self.server['listen'] = ' '.join(addresses)
        for key, name in OF_SERVER.items():
            option = self._last(key)
            if option is not None and _number(option) != '0':
                self.server[name] = _number(option)
        if 'threads' not in self.server:
            self.comments['server'].append(
                'threads: one request at a time in each process, as in uWSGI. If the '
                'application is safe in threads, take more.'
            )
            self.server['threads'] = '1'

    # -- the rest -------------------------------------------------------------------

    def _rest(self) -> None:
        referred = set(self._references())
        for option in self.file.options:
            if option.key in self.used or option.key in referred - REASONS.keys():
                continue
            is_of_file = '@(' in option.written  # it may be a secret
            value = option.written if is_of_file else _shown(option.value)
            shown = f'{option.key} = {value}' if value else option.key
            if option.key not in REASONS:
                why = 'this is no option of uWSGI that wspserve knows'
                self.missing.append(f'{shown}: {why}')
                continue
            is_needed, why = REASONS[option.key]
            if (option.key, value[:11].lower()) == ('add-header', 'connection:'):
                is_needed, why = False, 'a site that stops closes its connections'
            if is_needed and option.value.lower() in FALSE:
                is_needed = False
            of = self.missing if is_needed else self.not_needed
            of.append(f'{shown}: {why}')

    def _references(self) -> Iterator[str]:
        """Yield the names that values use as placeholders."""
        for option in self.file.options:
            for names in re.findall(r'%\(([^()]+)\)', option.written):
                yield from names.split()


def _number(option: Option) -> str:
    """Return the number of an option; that of an environment variable stays its name.

    :raises ConfigError: if it is below 0: uWSGI refuses that, too.
    """
    if MARK in option.value:
        return option.value.strip()
    found = number(option.value) if option.value else 1
    if found < 0:
        problem = f'{option.value!r} is below 0'
        raise ConfigError(
            option.file, problem, section='uwsgi', key=option.key, line=option.line
        )
    return str(found)


def _address(option: Option, mode: Option | None, owner: Option | None) -> str:
    """Return an address of uWSGI as --listen has it: without a host, it is 0.0.0.0."""
    text = option.value.partition(',')[0].strip()
    if text.startswith('@'):
        return f'unix:{text}'
    if ':' not in text and not text.isdecimal() and MARK not in text:
        path = text.removeprefix('unix:')
        more = []
        if mode is not None:
            more.append(f'mode={mode.value or "666"}')
        if owner is not None and ':' in owner.value:
            more.append(f'group={owner.value.partition(":")[2]}')
        return f'unix:{path}{"?" * bool(more)}{"&".join(more)}'
    host, colon, port = text.rpartition(':')
    return f'{host if host not in ("", "*") else "0.0.0.0"}:{port}' if colon else text


def _is_path(text: str) -> bool:
    return (
        bool(text)
        and text.lower() not in ('true', '1')
        and not re.search(r':\d+$', text)
    )


def _comment(text: str, start: str = '; ') -> list[str]:
    from textwrap import wrap

    return wrap(
        text,
        88,
        initial_indent=start,
        subsequent_indent=f'{start}  ',
        break_long_words=False,
        break_on_hyphens=False,
    )


def _ini(text: str) -> str:
    """Return a value as the new .ini has it: an environment variable keeps its name."""
    text = ' '.join(text.split()).replace('%', '%%')
    return re.sub(f'{MARK}([^{MARK}]*){MARK}', r'%(ENV_\1)s', text)


def _shown(text: str) -> str:
    """Return a value as a comment shows it."""
    return re.sub(f'{MARK}([^{MARK}]*){MARK}', r'$\1', ' '.join(text.split()))
