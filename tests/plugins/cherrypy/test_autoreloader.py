"""CherryPy's Autoreloader on our bus, and the re-execution of the process."""

import os
import signal
import zipapp

import pytest

from paste_wspbus.bus import State
from tests.kit.cherrypys import plugins, posix, program

RELOADING = """
    watched = os.environ['WATCHED']
    reloader = plugins.Autoreloader(bus, frequency=0.05, match='^nothing$')
    reloader.files.add(watched)
    reloader.subscribe()
    plugins.SignalHandler(bus).subscribe()

    @bus.subscribe('main')
    def once_it_watches():
        if watched in reloader.mtimes:
            bus.unsubscribe('main', once_it_watches)
            package = __package__ or None
            say('up', os.getpid(), sys.flags.optimize, package, *sys.argv[1:])

    bus.start()
    os.chdir('/')  # a site may go elsewhere; the command line was given there
    bus.block()
"""


def touch(path):
    """Make the file look new: its mtime goes up, however fast we are."""
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


@posix
@pytest.mark.parametrize(
    'invocation, told',
    [
        (['site.py'], '0 None'),
        (['site.py', 'two words', '-O', '-m'], '0 None two words -O -m'),
        (['-O', 'site.py', 'x'], '1 None x'),
        (['-m', 'site_package', 'x'], '0 site_package x'),
        (['-OO', '-u', '-m', 'site_package.inner', '-m', 'x'], '2 site_package -m x'),
        (['-c', program(RELOADING), 'x'], '0 None x'),
        (['site_package', 'x'], '0 None x'),
        (['site.pyz', 'x'], '0 None x'),
    ],
    ids=[
        'script',
        'arguments',
        'optimized',
        'package',
        'module',
        'command',
        'directory',
        'zip',
    ],
)
def test_a_change_of_a_watched_file_executes_the_same_command_line_again(
    spawn, tmp_path, invocation, told
):
    package = tmp_path / 'site_package'
    package.mkdir()
    (package / '__init__.py').touch()
    for script in ('site.py', 'site_package/__main__.py', 'site_package/inner.py'):
        (tmp_path / script).write_text(program(RELOADING))
    zipapp.create_archive(package, tmp_path / 'site.pyz')
    watched = tmp_path / 'watched.conf'
    watched.touch()
    child = spawn(*invocation, WATCHED=str(watched))
    assert child.hear('up') == f'{child.pid} {told}'
    for _ in range(2):
        touch(watched)
        assert child.hear('Restarting because') == f'{watched} changed.'
        child.hear('Bus EXITED')
        child.hear('Re-spawning')
        assert child.hear('up') == f'{child.pid} {told}'
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_an_autoreloader_runs_the_new_code_of_the_site_itself(spawn, tmp_path):
    script = tmp_path / 'site.py'
    source = program("""
        reloader = plugins.Autoreloader(bus, frequency=0.05, match='^__main__$')
        reloader.subscribe()

        @bus.subscribe('main')
        def once_it_watches():
            if __file__ in reloader.mtimes:
                bus.unsubscribe('main', once_it_watches)
                say('this is version ONE')

        plugins.SignalHandler(bus).subscribe()
        bus.start()
        bus.block()
    """)
    script.write_text(source)
    child = spawn('site.py')
    assert child.hear('this is version') == 'ONE'
    mtime = script.stat().st_mtime
    script.write_text(source.replace('ONE', 'TWO'))
    os.utime(script, (mtime + 10, mtime + 10))
    assert child.hear('this is version') == 'TWO'
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_an_autoreloader_that_unsubscribed_watches_no_more(bus, tmp_path):
    watched = tmp_path / 'watched.conf'
    watched.touch()
    reloader = plugins.Autoreloader(bus, frequency=0.01, match='^nothing$')
    reloader.files.add(str(watched))
    reloader.subscribe()
    reloader.unsubscribe()
    bus.start()
    assert reloader.thread is None
    assert bus.state is State.STARTED


@posix
@pytest.mark.parametrize('keep', [False, True], ids=['closed', 'kept'])
def test_open_files_are_closed_by_a_restart_unless_the_site_says_otherwise(site, keep):
    child = site(
        """
        inherited = os.environ.get('INHERITED')
        if inherited:
            try:
                os.fstat(int(inherited))
                say('file is open')
            except OSError:
                say('file is closed')
            sys.exit()
        read, write = os.pipe()
        os.set_inheritable(read, True)
        os.environ['INHERITED'] = str(read)
        if len(sys.argv) > 1:
            bus.max_cloexec_files = 0
        bus.start()
        threading.Thread(target=bus.restart).start()
        bus.block()
        """,
        *(['keep'] if keep else []),
    )
    assert child.hear('file is') == ('open' if keep else 'closed')
    assert child.ends() == 0
