"""A headless Chromium, driven by WebDriver (W3C): what a page shows, and what it says."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request

from tests.kit.processes import TIMEOUT, eventually

#: The programs of Debian's packages chromium and chromium-driver.
CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')

#: What Chromium needs as root, and where /dev/shm is small.
_ARGUMENTS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
)

#: The key under which WebDriver returns an element (section 12).
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'

#: Chromium's proxies would see the requests for localhost, too.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Browser:
    """One window. Use it in a `with` block; nothing that it starts outlives the block."""

    def __init__(self, folder, width=1200, height=900):
        self._folder, self._size = folder, (width, height)

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            self._process = subprocess.Popen(
                [DRIVER, '--port=0'],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, 'HOME': str(self._folder)},
                text=True,
            )
            undo.callback(self._end)
            self._url = f'http://127.0.0.1:{self._port()}/session'
            options = {
                'args': [
                    *_ARGUMENTS,
                    f'--user-data-dir={self._folder}/profile',
                    '--window-size={},{}'.format(*self._size),
                ],
                'binary': CHROMIUM,
            }
            wanted = {
                'goog:chromeOptions': options,
                'goog:loggingPrefs': {'browser': 'ALL'},
            }
            answer = self._ask('', {'capabilities': {'alwaysMatch': wanted}})
            self._url += f'/{answer["sessionId"]}'
            undo.callback(self._ask, '', method='DELETE')
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_):
        self._undo.close()

    def _port(self):
        for line in self._process.stdout:
            if 'started successfully on port' in line:
                return int(line.rpartition(' ')[2].rstrip('.\n'))
        raise AssertionError('chromedriver has not started')

    def _end(self):
        self._process.terminate()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()

    def _ask(self, path, body=None, method='POST'):
        data = None if body is None else json.dumps(body).encode()
        headers = {'Content-Type': 'application/json'}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with _open(request, timeout=TIMEOUT) as response:
                return json.load(response)['value']
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)['value']['message']) from None

    def open(self, url):
        """Load a page, and wait until that is done."""
        self._ask('/url', {'url': url})

    def run(self, script, *args):
        """Return what a script returns in the page."""
        return self._ask('/execute/sync', {'script': script, 'args': args})

    def text(self, selector):
        """Return the text that is seen in the first element that CSS selects; '' for none."""
        return self.run(
            'return document.querySelector(arguments[0])?.innerText ?? ""', selector
        )

    def shows(self, text, selector='body'):
        """Wait until a text is seen."""
        eventually(lambda: text in self.text(selector))

    def logs(self):
        """Return the messages of the console since the last call: errors, and violations."""
        return [one['message'] for one in self._ask('/se/log', {'type': 'browser'})]

    def resize(self, width, height=900):
        """Make the page as wide as a screen of that many pixels, also a narrow one."""
        screen = {'width': width, 'height': height, 'deviceScaleFactor': 1}
        self.command('Emulation.setDeviceMetricsOverride', **screen, mobile=width < 600)

    def prefer(self, scheme):
        """Prefer 'dark' or 'light' colours."""
        feature = {'name': 'prefers-color-scheme', 'value': scheme}
        self.command('Emulation.setEmulatedMedia', features=[feature])

    def command(self, name, **params):
        """Send a command of the DevTools protocol."""
        return self._ask('/goog/cdp/execute', {'cmd': name, 'params': params})

    def picture(self):
        """Return what the window shows, as a PNG."""
        return base64.b64decode(self._ask('/screenshot', method='GET'))
