"""Flask, at /shop: the factory adds a lifespan to the bus."""

import logging
from concurrent.futures import ThreadPoolExecutor

from flask import Flask, current_app
from page import page

from paste_wspbus import get_bus

log = logging.getLogger('shop')
app = Flask(__name__)


def clerks():
    with ThreadPoolExecutor() as executor:
        log.info('Flask: the clerks are at work')
        yield executor  # bus.resources['clerks'], from start to stop
    log.info('Flask: the clerks have gone home')


@app.get('/')
def index():
    return page('Flask', current_app.extensions['wspbus'])


@app.get('/report')
def report():
    bus = current_app.extensions['wspbus']
    return bus.resources['clerks'].submit(page, 'Flask', bus, seconds=2).result()


def make_app(global_conf):
    get_bus(global_conf).lifespan(clerks)
    return app
