"""A factory for each default of wspserve. See replaced.ini, and docs/replace.md."""

import logging
import os
import sys

# -- what acts before there is a bus: factory(default, global_conf) ---------------------


def make_daemonizer(default, global_conf):
    """Become a daemon as wspserve does, and say so."""

    def daemonize(launch, keep):
        print('This site becomes a daemon.', flush=True)
        return default(launch, keep)  # it returns in the daemon alone

    return daemonize


def make_pid_lock(default, global_conf):
    """Write a second line into the PID file: the name of the site."""

    class NamedPIDLock(default):
        def write(self):
            super().write()
            with open(self.path, 'a') as file:
                file.write(f'{global_conf.get("name", "site")}\n')

    return NamedPIDLock


def make_privileges(default, global_conf):
    """Change the user as wspserve does, and let nobody else read what the site writes."""

    def drop():
        default()
        os.umask(0o077)

    return drop


def make_logging(default, global_conf):
    """Log to standard error in a format of our own, if the .ini has no [loggers]."""

    def set_up():
        if not default():  # it reads the logging sections of the .ini
            form = '%(levelname)s: %(message)s'
            # A worker has the handler of its supervisor: force replaces it.
            logging.basicConfig(
                level=logging.INFO, stream=sys.stderr, format=form, force=True
            )
        return True  # so that wspserve does not set it up

    return set_up


# -- plugins: factory(bus, global_conf), as that of any [plugin:NAME] -------------------
# wspserve imports them when it needs them, and so does this module.


def make_signals(bus, global_conf):
    """Handle signals as wspserve does, but SIGUSR2 says hello."""
    from paste_wspbus.plugins.signals import SignalHandler

    bus.listeners.setdefault('hello', set())
    bus.subscribe('hello', lambda: bus.log('Hello'))
    return SignalHandler(bus, {'SIGUSR2': 'hello'})


def make_restarter(bus, global_conf):
    """Restart as wspserve does, and log it."""
    from paste_wspbus.plugins import on
    from paste_wspbus.plugins.restart import ExecvRestarter

    class Restarter(ExecvRestarter):
        @on('restart', priority=100)
        def restart(self):
            self.bus.log('This process replaces itself')
            super().restart()

    return Restarter(bus)


def make_threads(bus, global_conf):
    """Know the threads that answer requests, and log each new one."""
    from paste_wspbus.plugins.threads import ThreadManager

    bus.subscribe('start_thread', lambda index: bus.log(f'Thread {index} answers'))
    return ThreadManager(bus)


def make_autoreload(bus, global_conf):
    """Look for changed files with the plugin that works on any bus."""
    from paste_wspbus.plugins.autoreload import Autoreloader

    return Autoreloader(bus, files=[global_conf['__file__']])


def make_systemd(bus, global_conf):
    """Report to systemd as wspserve does."""
    from paste_wspbus.plugins.systemd import SystemdNotifier

    return SystemdNotifier(bus)
