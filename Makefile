# SPDX-License-Identifier: BSD-3-Clause
# Everything a person types while working on Nightjar. Needs only Python >= 3.11 and make.
#   make PYTHON=python3.12 VENV=.venv312 test     another interpreter, in an environment of its own
#   make PYTEST_ARGS='-k cooler -x' test          arguments passed on to pytest

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
TEST_WORKERS ?= 4
BIN := $(VENV)/bin
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-streams demo-night demo-das demo-calib demo-all test lint types contracts docs docs-check check bench soak soak-streams soak-chaos clean
.PHONY: debian-packages demo-venv demo-das-venv demo-calib-venv native

help:  ## this list
	@echo "make TARGET, with TARGET one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

venv:  ## make .venv and install everything for development into it
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --extras dev

demo-venv:
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --extras daemons

demo-das-venv:
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --extras daemons,das

demo-calib-venv:
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --extras daemons,calibration

demo: demo-venv  ## start the simulated site, take a sequence, show the files, stop in order
	@$(BIN)/python tools/demo.py

demo-streams: demo-venv  ## fast cameras, a link, loggers: every frame proven at the far end
	@$(BIN)/python tools/demo_streams.py

demo-night: demo-venv  ## the archive pipeline: raw cubes to a safe night, every frame proven at the far side
	@$(BIN)/python tools/demo_night.py

demo-das: demo-das-venv  ## rotator, acquisition, telescope logs, merge: a planet is recorded and drawn
	@$(BIN)/python tools/demo_das.py

demo-calib: demo-calib-venv  ## detector tests: scripts, sessions, a simulated bench, analyses beside the truth
	@$(BIN)/python tools/demo_calib.py

demo-all: demo demo-streams demo-night demo-das demo-calib  ## every demonstration, one after the other

debian-packages:
	@$(PYTHON) tools/debian_packages.py --install

# Built from source with what the Debian packages hold; without it its tests are skipped.
native: venv debian-packages
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --extras dev --try aravis

# More workers than cores: most tests wait for processes, disks and deadlines.
test: native  ## the whole test suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: venv  ## ruff
	$(BIN)/ruff check .

types: venv  ## mypy --strict
	$(BIN)/mypy

contracts: venv  ## import-linter: who may import whom
	$(BIN)/lint-imports

docs: venv  ## write the generated reference pages
	$(BIN)/python tools/generate_docs.py

docs-check: venv
	$(BIN)/python tools/generate_docs.py --check

check: lint types contracts docs-check test  ## lint, types, contracts, generated pages and tests

bench: venv  ## the figures of the README, each beside its peer or its limit
	@set -e; for program in binning "fits_writer --disk /var/tmp" status_latency \
	"camera_throughput --disk /var/tmp" stream_publish stream_latency frame_pacing \
	"stream_logging --disk /var/tmp" "stream_logging --ceiling --seconds 20" \
	"stream_logging --case 536x536@500 --disk /var/tmp --only-disk --seconds 6 --stall 3" \
	"stream_logging --case 536x536@500 --disk /var/tmp --only-disk --seconds 6 --stall 6" \
	stream_link tile_compression fitswatcher sync_scores archive_plan archive_tables \
	calib_frames calib_times "calib_validation --scale full" \
	"archive_nights --frames 100000" \
	"archive_pass --gigabytes 10 --folders /dev/shm /var/tmp"; do set -- $$program; name=$$1; shift; \
	echo "== benchmarks/$$name.py $$*"; $(BIN)/python benchmarks/$$name.py $$*; done

soak: native  ## one simulated night, minutes long, and the tests that make test leaves out
	$(BIN)/python tools/soak.py
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m soak -n 2 --dist worksteal $(PYTEST_ARGS)
	PYTHONDONTWRITEBYTECODE= NIGHTJAR_TESTS=long $(BIN)/python -m pytest -n 2 tests/property

soak-streams: venv  ## ten minutes of logging at each rate, every row of every frame read back
	@set -e; for name in 536x536@500 536x536@1000 mbi2@57; do \
	$(BIN)/python benchmarks/stream_logging.py --companion --seconds 600 --case $$name \
	--disk /var/tmp; done

soak-chaos: venv  ## five rough minutes of cameras, links, loggers: each frame accounted for
	$(BIN)/python tools/soak_streams.py

clean:  ## remove the environment, caches and build products
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find common daemons clients tests tools benchmarks -name __pycache__ -type d \
		-prune -exec rm -rf {} + 2>/dev/null || true
