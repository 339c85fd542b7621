"""Sites under uWSGI, as runners for tests/hosts/promises.py."""

from tests.environments import environment
from tests.hosts.promises import Runner

#: The exit codes of a worker that was told to end, by whether it was in a request
#: (UWSGI_END_CODE, UWSGI_RELOAD_CODE).
ENDED = (30, 17)


class UWSGI(Runner):
    """The application composed in the master, workers forked from it."""

    title = 'uWSGI'
    environment = 'uwsgi'
    options = ('--master', '--processes', '2')

    def command(self):
        return [
            self.bin('uwsgi'),
            *('--ini-paste', 'site.ini'),
            *('--http-socket', f'127.0.0.1:{self.port}'),
            *('--home', environment(self.environment)),
            # SIGTERM is to stop it, and nobody is to lose a request.
            '--die-on-term',
            *('--hook-accepting', 'unix_signal:2 gracefully_kill'),
            *('--hook-accepting', 'unix_signal:15 gracefully_kill'),
            *self.options,
        ]


class Threads(UWSGI):
    title = 'uWSGI, --threads'
    options = (*UWSGI.options, '--threads', '4')


class Lazy(UWSGI):
    title = 'uWSGI, --lazy-apps'
    options = (*UWSGI.options, '--lazy-apps')


class NoMaster(UWSGI):
    """One process, which nobody begins anew."""

    title = 'uWSGI, no master'
    options = ()
    reloads = False

    def stop(self):
        code = super().stop()
        return 0 if code in ENDED else code


RUNNERS = {
    'uwsgi': UWSGI,
    'uwsgi-threads': Threads,
    'uwsgi-lazy': Lazy,
    'uwsgi-no-master': NoMaster,
}
