# make serve: a site on the bus.  make test: the tests.  Both install what they need.
PYTHON ?= python3
VENV ?= .venv
INI ?= sample_ini/development.ini
PYTHONS ?= python3.11 python3.12 python3.13

.PHONY: serve test test-all environments hosts timeline lint bench clean

serve: $(VENV)/.served
	$(VENV)/bin/wspserve $(INI)

test: $(VENV)/.tested
	$(VENV)/bin/python -W error -m pytest -n 3 $(ARGS)

# What the tests of guests and hosts need, in a cache folder (tests/environments.py).
environments:
	$(PYTHON) tests/environments.py

# The same site under each host: which promises held (docs/wsgi-lifecycle.md).
ROUNDS ?= 20
hosts: $(VENV)/.tested environments
	$(VENV)/bin/python tests/hosts.py -n $(ROUNDS)

# The README's picture, from a run of sample_ini/mixed.
timeline:
	made=$$($(PYTHON) tests/environments.py pylons) && \
	  "$${made#pylons: }/bin/python" docs/timeline.py

# The suite on every Python we support, each in a virtual environment of its own.
test-all:
	set -e; for python in $(PYTHONS); do \
	  $(MAKE) environments PYTHON=$$python; \
	  $(MAKE) test PYTHON=$$python VENV=.venv-$$python; \
	done

lint: $(VENV)/.linted
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict paste_wspbus

bench: $(VENV)/.benched
	set -e; for script in publish wakeup throughput startup start stop cycles memory restart reload frameworks; do \
	  $(VENV)/bin/python benchmarks/$$script.py; \
	done

clean:
	rm -rf .venv .venv-* build dist *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.served: EXTRAS =
$(VENV)/.tested: EXTRAS = [test]
$(VENV)/.linted: EXTRAS = [lint]
$(VENV)/.benched: EXTRAS = [test,bench]

$(VENV)/.served $(VENV)/.tested $(VENV)/.linted $(VENV)/.benched: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.$(EXTRAS)'
	touch $@
