"""A runner of tests/hosts/promises.py in a ``with`` block: a test asks its site, and reads what that wrote."""

from tests.kit import Connection, Process, eventually


class Watched:
    """In front of a Runner among the bases. ``wait=False``: do not wait until it answers."""

    wait = True

    def __enter__(self):
        try:
            if self.wait:
                self.start()
            else:
                self.process = Process(self.command(), self.folder)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def connect(self):
        return Connection(('127.0.0.1', self.port))

    def get(self, path='/'):
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.get(path, connection='close')

    def status(self, path='/'):
        """Of its response, or None if nobody answers it."""
        try:
            return self.get(path).status
        except OSError:
            return None

    def ask(self, path):
        """Send a request and wait until the site works on it: the connection."""
        before = self.events().count('request')
        connection = self.connect()
        connection.send(path, connection='close')
        eventually(lambda: self.events().count('request') > before)
        return connection

    def events(self, pid=None):
        """What happened, in order, in all processes or in one; 'stop' with its reason."""
        return [
            f'{event} {more}'.strip() if event == 'stop' else event
            for process, event, more in self.lines()
            if event != 'composed' and pid in (None, process)
        ]

    def stops(self):
        """How often a site was stopped so far."""
        return sum(event == 'stop' for _, event, _ in self.lines())

    def lines(self):
        """(process ID, event, more) of each line."""
        file = self.folder / 'events'
        for line in file.read_text().splitlines() if file.exists() else ():
            process, event, *more = line.split()
            yield int(process.partition('.')[0]), event, ' '.join(more)

    def serving(self, but=None):
        """Wait until a process answers that is not ``but``; return its ID."""
        found = []

        def answers():
            try:
                response = self.get()
            except OSError:
                return False
            if response.status == 200:
                found.append(int(response.text.partition('.')[0]))
            return found and found[-1] != but

        eventually(answers)
        return found[-1]
