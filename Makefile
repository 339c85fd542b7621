# `make help` lists the targets. Each installs what it needs into a virtual environment.
PYTHON ?= python3
VENV ?= .venv
INI ?= sample_ini/development.ini
PYTHONS ?= python3.11 python3.12 python3.13 python3.14

.PHONY: $(shell awk -F: '/^[a-z-]+:.*## / { print $$1 }' Makefile)

serve: $(VENV)/.served  ## Serve a sample site (INI=sample_ini/development.ini)
	$(VENV)/bin/wspserve $(INI)

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

# RUNNER=.ci/alone, as in CI, runs tests that fail once more, alone.
test: $(VENV)/.tested  ## Run the tests (ARGS="tests/bus -k drain -x": only those)
	$(RUNNER) $(VENV)/bin/python -W error -m pytest -n 4 --dist worksteal $(ARGS)

# What the tests of guests and hosts need, in a cache folder (tests/environments/).
environments:  ## Make the virtual environments that tests of frameworks and hosts need
	$(PYTHON) -m tests.environments

# The same site under each host: which promises held (docs/wsgi-lifecycle.md).
ROUNDS ?= 20
hosts: $(VENV)/.tested environments  ## Check what each host promises (ROUNDS=20)
	$(VENV)/bin/python -m tests.hosts.promises -n $(ROUNDS)

# The README's picture, from a run of sample_ini/mixed.
timeline:  ## Draw docs/timeline.svg, the picture in the README, from a run
	made=$$($(PYTHON) -m tests.environments pylons) && \
	  "$${made#pylons: }/bin/python" docs/timeline.py

deployment: $(VENV)/.served  ## Draw docs/deployment.svg, the other picture in the README, from a run
	$(VENV)/bin/python docs/deployment.py

# DOCS="-E" reads all pages anew.
docs: $(VENV)/.documented  ## Build the documentation as a site, in build/docs
	$(VENV)/bin/sphinx-build --builder html --fail-on-warning --keep-going --quiet \
	  --conf-dir docs --doctree-dir build/doctrees $(DOCS) . build/docs

links: $(VENV)/.documented  ## Ask for each external link of the documentation
	$(VENV)/bin/sphinx-build --builder linkcheck --keep-going --quiet \
	  --conf-dir docs --doctree-dir build/doctrees . build/links

man: $(VENV)/.served  ## Write docs/wspserve.1, the manual page, from the parser
	$(VENV)/bin/python docs/man.py

# The suite on every Python we support, each in a virtual environment of its own. SHARED
# names those that share one run of it, a part each, as in CI (--part in tests/conftest.py).
SHARED ?=
test-all:  ## Run the tests on each supported Python (PYTHONS="python3.11 python3.12")
	set -e; part=0; for python in $(PYTHONS); do \
	  args='$(ARGS)'; case ' $(SHARED) ' in *" $$python "*) \
	    part=$$((part + 1)); args="$$args --part=$$part/$(words $(SHARED))";; esac; \
	  $(MAKE) environments PYTHON=$$python; \
	  $(MAKE) test PYTHON=$$python VENV=.venv-$$python ARGS="$$args"; \
	done

# The quick form of each runs with the tests (tests/attacks/); this is the long one: hours.
attack: $(VENV)/.tested  ## Attack sites for hours: signals, .ini files, clients, restarts
	$(VENV)/bin/python -m tests.attacks.signals --count 1000
	$(VENV)/bin/python -m tests.attacks.inis --count 3000
	$(VENV)/bin/python -m tests.attacks.clients --count 100
	$(VENV)/bin/python -m tests.attacks.wakeups --count 100000
	$(VENV)/bin/python -m tests.attacks.control --count 10000
	$(VENV)/bin/python -m tests.attacks.cycles --count 300
	$(VENV)/bin/python -m tests.attacks.cluster --rounds 200
	$(VENV)/bin/python -m tests.attacks.cluster --rounds 100 --pairs
	$(VENV)/bin/python -m tests.attacks.cluster --rounds 100 --sentinel

MINUTES ?= 10
chaos: $(VENV)/.tested  ## Random faults under load (MINUTES=10)
	$(VENV)/bin/python -m tests.attacks.chaos --minutes $(MINUTES)

# What docs/proofs.md says is proven. The quick form of each runs with the tests.
proofs: $(VENV)/.tested  ## Prove what docs/proofs.md promises: some minutes
	$(VENV)/bin/python -m tests.attacks.lines
	$(VENV)/bin/python -m tests.attacks.moments
	$(VENV)/bin/python -m tests.attacks.supervising

# sample_ini/cluster/README.md says what it shows; it ends by itself.
STAY ?= 0
cluster: $(VENV)/.clustered  ## Show three machines on one: a roll, a failover (STAY=60)
	$(VENV)/bin/python sample_ini/cluster/demo.py --stay $(STAY)

# The schemas of all versions are 22 MB: no test downloads them.
KUBERNETES ?= 1.25.0 1.30.0 1.37.0
manifests:  ## Check sample_ini/kubernetes against the schemas of Kubernetes (KUBERNETES="1.30.0")
	$(PYTHON) -m venv .venv-manifests
	.venv-manifests/bin/pip install --quiet --disable-pip-version-check kubernetes-validate
	set -e; for version in $(KUBERNETES); do .venv-manifests/bin/kubernetes-validate --strict \
	  --kubernetes-version $$version sample_ini/kubernetes/site.yaml; done

mutants: $(VENV)/.tested  ## Change the code in small ways that a test must notice: half an hour
	$(VENV)/bin/python -m tests.attacks.mutants

lint: $(VENV)/.linted  ## Check style, types, and which room imports which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict paste_wspbus
	$(VENV)/bin/lint-imports

bench: $(VENV)/.benched  ## Print the figures that the docs quote
	set -e; for script in publish growth scaling wakeup throughput startup start stop status cycles memory spread watched faults restart recycling reload frameworks; do \
	  $(VENV)/bin/python benchmarks/$$script.py; \
	done

bench-quick: $(VENV)/.benched  ## Print the most important figures, in about five minutes
	set -e; cd benchmarks; for run in 'publish.py --rounds 3' 'startup.py --rounds 5' \
	  'throughput.py --rounds 2 --seconds 1' 'stop.py --rounds 3 --stops 3' \
	  'status.py --rounds 3' 'growth.py listeners connections --rounds 2 --most 100'; do \
	  $(abspath $(VENV))/bin/python $$run; \
	done

records: $(VENV)/.benched  ## Measure ours and peers, write docs/records.md (ARGS=--quick)
	$(VENV)/bin/python benchmarks/records.py $(ARGS)

# Also tries them on each Python, and writes an SBOM and the licences of all dependencies.
dist: $(VENV)/.built  ## Build and check the sdist and the wheel, in dist/
	rm -rf dist
	$(VENV)/bin/python -m build --quiet --no-isolation
	$(VENV)/bin/twine check --strict dist/*
	$(VENV)/bin/check-wheel-contents dist/*.whl
	$(VENV)/bin/python -m tests.project.dist dist $(PYTHONS)

# CI installs these versions, and only files with these hashes: `make test PINNED=1` does, too.
# Those for environments (versions alone, in $(PINS)/environments/) are always used.
PINS = .ci/requirements
pins: $(VENV)/.pinned  ## Choose the versions that CI installs, and write .ci/requirements/
	set -e; for extra in test lint docs dist; do \
	  $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	    --generate-hashes --no-annotate --no-header --extra $$extra setup.cfg -o $(PINS)/$$extra.txt; \
	done
	$(VENV)/bin/python -m tests.environments.pin

clean:  ## Remove what was built and installed here
	rm -rf .venv .venv-* build dist *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.served: EXTRAS =
$(VENV)/.clustered: EXTRAS = cluster
$(VENV)/.tested: EXTRAS = test
$(VENV)/.linted: EXTRAS = lint
$(VENV)/.documented: EXTRAS = docs
$(VENV)/.built: EXTRAS = dist
$(VENV)/.benched: EXTRAS = test,bench
$(VENV)/.pinned: EXTRAS = pins

PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check
PINNED ?=
FILE = $(if $(PINNED),$(wildcard $(PINS)/$(EXTRAS).txt))
$(VENV)/.served $(VENV)/.clustered $(VENV)/.tested $(VENV)/.linted $(VENV)/.documented $(VENV)/.built $(VENV)/.benched $(VENV)/.pinned: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(if $(FILE),$(PIP) --require-hashes --requirement $(FILE))
	$(PIP) $(if $(FILE),--no-deps --no-build-isolation) --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	touch $@
