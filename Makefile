# Every target sets up what it needs and does again nothing that is there already.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test laws mutants lint format reproduce tables images results-gpu bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.demo  ## learn two moons three ways, and show them side by side (two minutes)
	$(BIN)/python examples/demo.py

test: .venv/.dev lint  ## lint, then every test (minutes)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

laws: .venv/.dev  ## the laws of bijections on many inputs, and compiled (half an hour)
	$(BIN)/python -m pytest -q -n 2 --hypothesis-profile=long -m "long or not long" tests/test_bijections.py

mutants: .venv/.dev  ## break every bijection on purpose, measure every one: docs/reliability.md (ten minutes)
	PYTHONPATH=tests $(BIN)/python -m mutation --out .venv/mutants.json
	$(BIN)/python benchmarks/reliability.py --mutants .venv/mutants.json

lint: .venv/.dev  ## ruff (rules and format) and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.dev  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: .venv/.dev  ## the 2-D experiments of the field's tutorials again: docs/reproductions.md (15 minutes)
	$(BIN)/python benchmarks/reproduce.py

tables: .venv/.dev  ## real tables against nflows, zuko and mixtures: docs/results.md (an hour; wants FLOWSTONE_DATA)
	$(BIN)/python benchmarks/tables.py

images: .venv/.dev  ## image flows, trained and judged: docs/results.md (four hours; goes on where it was broken off)
	$(BIN)/python benchmarks/images.py

results-gpu: .venv/.dev  ## CIFAR-10 on an accelerator, in pieces of nine minutes: call it until all is done
	$(BIN)/python benchmarks/images.py cifar10-gpu --device cuda --piece 9

bench: .venv/.dev .venv-peers/.done  ## speed and memory beside peers and plain designs: RESULTS.md and IMAGES.md in benchmarks/
	.venv-peers/bin/python benchmarks/peers.py
	.venv-peers/bin/python benchmarks/floor.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/image_speed.py

clean:  ## forget the environments and the demo (runs/ is yours and stays)
	rm -rf .venv .venv-peers demo

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flowstone needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.demo

.venv-peers/.done: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[fast]' -r benchmarks/peers.txt
	@touch $@
