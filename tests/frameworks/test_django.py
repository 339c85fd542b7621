"""Django: its settings have the bus."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.kit import TIMEOUT

DJANGO = """
import json
import sys

from django.conf import settings
from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import introduce

own = {own}
settings.configure(SECRET_KEY='x', STATIC_URL='/static/', **own)
from django.core.wsgi import get_wsgi_application
from django.contrib.staticfiles.handlers import StaticFilesHandler

app, told, buses = StaticFilesHandler(get_wsgi_application()), [], [Bus(), Bus()]
found = [
    introduce(app, bus, lambda message, level: told.append([level, message]))
    for bus in buses
]
print(json.dumps([
    found, told, settings.WSPBUS in buses and buses.index(settings.WSPBUS)
]))
"""


def django(tmp_path, own):
    (tmp_path / 'project.py').write_text(DJANGO.format(own=own))
    answer = subprocess.run(
        [sys.executable, 'project.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert answer.stderr == ''
    return json.loads(answer.stdout)


@pytest.mark.parametrize('own', [{}, {'WSPBUS': None}], ids=['nothing', 'None'])
def test_django_has_the_bus_in_its_settings_and_the_new_one_when_composed_again(
    tmp_path, own
):
    assert django(tmp_path, own) == [[['Django'], ['Django']], [], 1]


def test_a_django_setting_of_the_sites_own_stays(tmp_path):
    found, told, index = django(tmp_path, {'WSPBUS': 'mine'})
    assert (found, index) == ([[], []], False)
    assert told[0] == [
        30,
        f"Django {version('Django')}: settings.WSPBUS is the site's own and stays as "
        'it is; the bus is not there',
    ]
    assert len(told) == 2  # one in each composition
