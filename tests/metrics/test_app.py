"""The application of metrics under a server that knows of no bus."""

import subprocess
import sys

from tests.kit.sites import write

INI = """
[composite:main]
use = egg:Paste#urlmap
/ = site
/metrics = metrics

[app:site]
use = egg:paste_wspbus#hello
filter-with = bus

[filter:bus]
use = egg:paste_wspbus#bus

[app:metrics]
use = egg:paste_wspbus#metrics
"""

#: It makes the filter of the site before the metrics; and asks for both.
SCRIPT = """
from paste.deploy import loadapp
from webtest import TestApp

app = TestApp(loadapp('config:site.ini', relative_to='.'))
for _ in range(3):
    app.get('/')
print(app.get('/metrics').text)
app.head('/metrics', status=200)
"""


def test_it_counts_the_requests_that_pass_the_filter(tmp_path):
    write(tmp_path, {'site.ini': INI})
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    line = 'wspbus_requests_total{method="GET",route="/",status="2xx"} 3.0'
    assert line in done.stdout.splitlines()
