"""A script of ten lines that serves a site without wspserve."""

import sys

import waitress
from paste.deploy import loadapp

if __name__ == '__main__':
    if len(sys.argv) > 3:
        from logging.config import fileConfig

        fileConfig(sys.argv[1], {'http_port': sys.argv[2]})
    app = loadapp(f'config:{sys.argv[1]}')
    waitress.serve(app, host='127.0.0.1', port=int(sys.argv[2]), threads=4)
