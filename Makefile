# Every target sets up what it needs, the first time: an interpreter, .venv, packages.
# `make demo` uses PyPI only; `make test`, when root runs it, apt as well. See scripts/setup.sh.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
HOSTS  := 3
GUESTS := 6
SEEDS  := 0:2000

# What `make bench-placement` runs: all of it, unless told otherwise, such as SIZES=small,medium
PEER     := .venv-peer
RESULTS  := build/placement
SIZES    := small,medium,large,xl
FLAVOURS := hotspot,skewed,tight,sparse
ROWS     := balance,balance-5pct,relieve,power

PREFIX := /usr/local
LIBDIR := $(PREFIX)/lib/rebalancer
DOCDIR := $(PREFIX)/share/doc/rebalancer
EXTRAS := libvirt

MAKEFLAGS += --no-print-directory
.PHONY: help demo test check format format-check lint types imports test-fast coverage \
        lab-up lab-down demo-daemon bench bench-placement clean install install-units deb faults upgrade

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.stamp-demo ## Rebalance a simulated cluster, in seconds and without a hypervisor
	@.venv/bin/rebalancer simulate scenarios/hotspot.yaml --plan-out plan.json

# In the lab most tests wait for real time-outs, so two labs at once take half as long; what
# measures time comes after them, alone.
test: .venv/.stamp-lab ## Run every test; those with real hypervisors need root
	$(PYTEST) -n auto --dist worksteal -m "not lab"
	@if obstacle=$$($(PYTHON) -m tests.lab check); then \
	    $(PYTEST) -n 2 --dist loadfile -m "lab and not alone" && $(PYTEST) -m "lab and alone"; \
	else \
	    echo "Left out the tests with real hypervisors: $$obstacle"; test "$$CI" != true; \
	fi

# What is documented is checked by tests, as is everything that can be.
check: format-check lint types imports test-fast ## Check all that needs no hypervisor, before a commit

format-check: .venv/.stamp-test
	$(PYTHON) -m ruff format --check

lint: .venv/.stamp-test
	$(PYTHON) -m ruff check

types: .venv/.stamp-test
	$(PYTHON) -m mypy

imports: .venv/.stamp-test
	.venv/bin/lint-imports

test-fast: .venv/.stamp-test
	$(PYTEST) -n auto --dist worksteal -m "not lab"

format: .venv/.stamp-test ## Format the code, and mend what the linter can
	$(PYTHON) -m ruff check --fix --exit-zero
	$(PYTHON) -m ruff format

coverage: .venv/.stamp-test ## Show which lines and branches no test without the lab reaches
	$(PYTEST) -n auto -m "not lab" --cov --cov-report=term

faults: .venv/.stamp-test ## Play SEEDS=0:2000 scripts of disasters in simulation, and judge them
	$(PYTHON) -m tests.faults --seeds $(SEEDS)

lab-up: .venv/.stamp-lab ## Start HOSTS=3 real libvirt hosts, with GUESTS=6 guests on the first one
	$(PYTHON) -m tests.lab up --hosts $(HOSTS) --guests $(GUESTS) --pile-up

demo-daemon: .venv/.stamp-lab ## Leave the daemon alone with three real hosts and load; minutes, as root
	$(PYTHON) -m tests.lab demo

lab-down: .venv/.stamp-lab ## Remove them
	$(PYTHON) -m tests.lab down

bench: .venv/.stamp-demo ## Compare predictions with measured migrations, DATA=measurements.csv
	@test -n "$(DATA)" || { echo 'name the measurements: make bench DATA=measurements.csv'; exit 64; }
	$(PYTHON) benchmarks/prediction.py --data $(DATA)

# Theirs has our import name, so it gets an environment of its own.
bench-placement: SEEDS := 1,2,3
bench-placement: .venv/.stamp-demo $(PEER)/.stamp ## Compare placements with Meta's Rebalancer's, BENCH=folder
	@test -n "$(BENCH)" || { echo 'name the folder with generator, scorer and adapter: make bench-placement BENCH=DIR'; exit 64; }
	$(PYTHON) benchmarks/placement.py --bench "$(BENCH)" --out "$(RESULTS)" \
	    --peer-python "$(PEER)/bin/python" --sizes "$(SIZES)" --flavours "$(FLAVOURS)" \
	    --seeds "$(SEEDS)" --rows "$(ROWS)" $(OPTIONS)

# A system-wide interpreter is wanted here: one in somebody's home the daemon cannot read.
install: .venv/.stamp-demo install-units ## Install program and units below DESTDIR and PREFIX
	@interpreter=$$($(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'); \
	case $$interpreter in /root/*|/home/*) \
	    echo "note: $$interpreter is in a home, where the daemon's user cannot read it" >&2;; esac; \
	$(PYTHON) -m pip install --quiet --upgrade --constraint constraints.txt \
	    --target "$(DESTDIR)$(LIBDIR)" ".[$(EXTRAS)]" && \
	install -d "$(DESTDIR)$(PREFIX)/bin" && \
	printf '#!/bin/sh\nPYTHONPATH=%s exec %s -m rebalancer "$$@"\n' "$(LIBDIR)" "$$interpreter" \
	    > "$(DESTDIR)$(PREFIX)/bin/rebalancer" && \
	chmod 755 "$(DESTDIR)$(PREFIX)/bin/rebalancer"

# What is packed is what .venv has; the interpreter goes along, unless it is the distribution's own.
deb: .venv/.stamp-deb ## Make dist/vm-rebalancer_VERSION_ARCH.deb of the program and its .venv
	@$(PYTHON) debian/build.py --out dist

install-units:
	install -d $(addprefix "$(DESTDIR)$(PREFIX)"/lib/,systemd/system sysusers.d tmpfiles.d) \
	    "$(DESTDIR)$(DOCDIR)" "$(DESTDIR)/etc/rebalancer"
	for unit in rebalancer.service rebalancer-drain@.service; do \
	    sed 's,@BINDIR@,$(PREFIX)/bin,;s,@DOCDIR@,$(DOCDIR),' "systemd/$$unit" \
	        > "$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit"; done
	install -m 644 systemd/sysusers.d/rebalancer.conf "$(DESTDIR)$(PREFIX)/lib/sysusers.d/"
	install -m 644 systemd/tmpfiles.d/rebalancer.conf "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/"
	install -m 644 docs/operations.md docs/api.md config/rebalancer.yaml policies/*.yaml \
	    config/prometheus/rules.yaml config/grafana/dashboard.json "$(DESTDIR)$(DOCDIR)/"

upgrade: ## Take the newest libraries, and write down in constraints.txt which those are
	@sh scripts/setup.sh upgrade

clean: ## Remove .venv and everything that was built
	rm -rf .venv $(PEER) .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist htmlcov plan.json
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.stamp-demo: pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh demo

.venv/.stamp-deb: .venv/.stamp-test
	@sh scripts/setup.sh deb

.venv/.stamp-test: .venv/.stamp-demo
	@sh scripts/setup.sh test

$(PEER)/.stamp: scripts/setup.sh
	@sh scripts/setup.sh peer "$(PEER)"

.venv/.stamp-lab: .venv/.stamp-test tests/lab/requirements.py
	@sh scripts/setup.sh lab
