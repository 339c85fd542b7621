"""A script of ten lines that serves a site without wspserve."""

import sys

import waitress
from paste.deploy import loadapp

if __name__ == '__main__':
    app = loadapp(f'config:{sys.argv[1]}')
    waitress.serve(app, host='127.0.0.1', port=int(sys.argv[2]), threads=4)
