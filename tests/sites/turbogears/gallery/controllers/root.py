import sys

from tg import (
    TGController,
    abort,
    app_globals,
    config,
    expose,
    redirect,
    request,
    session,
)

from gallery.controllers.error import ErrorController
from gallery.model import say


class RootController(TGController):
    error = ErrorController()

    @expose('json')
    def index(self):
        """Where the bus is, and what it opened."""
        bus = request.environ['wspbus.bus']
        return {
            'in app_globals': app_globals.bus is bus,
            'in config': config['wspbus'].bus is bus,
            'state': bus.state.name,
            'resources': list(bus.resources),
            'pictures': self._pictures(),
        }

    def _pictures(self):
        query = 'select title from picture order by rowid'
        return [title for (title,) in app_globals.pictures.execute(query)]

    @expose('json')
    def wait(self):
        say('waiting')
        sys.stdin.buffer.read()
        return self.index()

    @expose()
    def hang(self, title):
        with app_globals.pictures as transaction:
            transaction.execute('insert into picture values (?)', [title])
        session['hung'] = session.get('hung', 0) + 1
        session.save()
        redirect(f'/picture/{len(self._pictures())}')

    @expose('gallery.templates.picture')
    def picture(self, number):
        return {'number': int(number), 'pictures': self._pictures()}

    @expose(content_type='text/plain')
    def attribute(self):
        """What app_globals has there."""
        present = getattr(app_globals, 'bus', None)
        return 'the bus' if present is request.environ['wspbus.bus'] else f'{present}'

    @expose()
    def fail(self):
        raise LookupError('there is no ☃ picture')

    @expose()
    def forbidden(self):
        abort(403)
