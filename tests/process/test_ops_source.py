"""What the ops listener of a site of one process knows of the site."""

from types import SimpleNamespace

from paste_wspbus.ini.config import Config
from paste_wspbus.process.ops_source import OneProcess
from tests.kit.sites import SERVED


def test_an_answer_that_cannot_be_made_does_not_end_the_listener(tmp_path):
    path = tmp_path / 'site.ini'
    path.write_text(SERVED)

    def describe():
        raise RuntimeError('dictionary changed size: planted')

    answers = SimpleNamespace(describe=describe)
    process = SimpleNamespace(
        config=Config(str(path), {}, str(tmp_path)),
        bus=SimpleNamespace(
            plugins={},
            state=SimpleNamespace(name='STARTED'),
            was_started=True,
            drained=False,
            execv=False,
        ),
        answers=answers,
        renewal=None,
    )
    source = OneProcess(process)
    source.ask('status')
    told = source._told['status'].value
    assert told == {'error': 'the answer cannot be made: RuntimeError'}
