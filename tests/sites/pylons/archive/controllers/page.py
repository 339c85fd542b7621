import json
import sys

from pylons import app_globals, config, request, response, session, url
from pylons.controllers.util import abort, redirect

from archive.lib.base import BaseController, render
from archive.model import say


class PageController(BaseController):
    def index(self):
        """Where the bus is, and what it opened."""
        bus = request.environ['wspbus.bus']
        response.content_type = 'application/json'
        return json.dumps(
            {
                'in app_globals': app_globals.bus is bus,
                'in config': config['wspbus'].bus is bus,
                'state': bus.state.name,
                'resources': list(bus.resources),
                'letters': self._letters(),
            }
        )

    def _letters(self):
        query = 'select text from letter order by rowid'
        return [text for (text,) in app_globals.letters.execute(query)]

    def wait(self):
        say('waiting')
        sys.stdin.buffer.read()
        return self.index()

    def post(self):
        with app_globals.letters as transaction:
            transaction.execute('insert into letter values (?)', [request.GET['text']])
        session['posted'] = session.get('posted', 0) + 1
        session.save()
        redirect(url('letter', number=len(self._letters())))

    def letter(self, number):
        return render('/letter.mako', {'number': number, 'letters': self._letters()})

    def attribute(self):
        """What app_globals has there."""
        present = getattr(app_globals, 'bus', None)
        return 'the bus' if present is request.environ['wspbus.bus'] else f'{present}'

    def fail(self):
        raise LookupError('there is no ☃ letter')

    def forbidden(self):
        abort(403)
