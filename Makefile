.PHONY: help setup setup-engine setup-guest interop interop-containers report-sample test lint fuzz bench bench-connect bench-tunnel clean

INPUTS ?= 1000000

help:
	@echo "make interop  run the interop suite: matrix of verdicts, reports/latest/junit.xml"
	@echo "make interop-containers  some of it with containers as nodes, on a Docker engine of its own if need be"
	@echo "make test     the project's own tests, linters and type checks"
	@echo "make docs     the documentation as a site in build/site/"
	@echo "make fuzz     $(INPUTS) inputs (INPUTS=...) each for classify, the input path and the PF_KEY server"
	@echo "make bench    what a lab, each kind of NAT, a whole cell and nattd run cost on this machine"
	@echo "make bench-connect  how soon natt has a tunnel to strongSwan"
	@echo "make bench-tunnel  throughput of natt beside strongSwan's userland ESP, through one NAT"
	@echo "make report-sample  a report with every verdict in it: reports/sample/latest/index.html"
	@echo "make setup    only install what is missing"

setup:
	@scripts/setup

interop: setup-guest
	@.venv/bin/nattlab run

setup-guest:
	@scripts/setup guest

# A release of a peer, and whether a namespace is all it needs, is tried in containers.
CONTAINER_CELLS ?= ENC-01 ENC-03 DMX-01 DMX-02 KA-01 REB-01 VER-02

interop-containers: setup-engine
	@.venv/bin/nattlab engine -- .venv/bin/nattlab run --nodes container $(CONTAINER_CELLS)

setup-engine:
	@scripts/setup engine

test: lint
	@scripts/setup engine guest
	.venv/bin/python -m pytest

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Once as it should be, so that the failures of the second time have something to be compared with.
report-sample: setup
	.venv/bin/python -m pytest samples --full-report --reports reports/sample -p no:terminal -n 6 --cells ENC-03
	.venv/bin/python -m pytest samples --full-report --reports reports/sample -p no:terminal -n 6 --sabotage; \
	  test $$? -eq 1

docs: setup
	.venv/bin/mkdocs build --strict --quiet

fuzz: setup
	.venv/bin/python -m tests.fuzz.fuzz_classify --inputs $(INPUTS)
	.venv/bin/python -m tests.fuzz.fuzz_input --inputs $(INPUTS)
	.venv/bin/python -m tests.fuzz.fuzz_pfkey --inputs $(INPUTS)

bench: setup
	.venv/bin/python tests/bench/bench_setup.py
	.venv/bin/python tests/bench/bench_nat.py
	.venv/bin/python tests/bench/bench_cell.py
	.venv/bin/python tests/bench/bench_adoption.py

bench-connect: setup
	.venv/bin/python tests/bench/bench_connect.py

bench-tunnel: setup
	.venv/bin/python tests/bench/bench_tunnel.py

clean:
	rm -rf .venv reports build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
