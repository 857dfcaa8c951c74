# Every target sets up the environment that it needs, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet install -c constraints.txt

# Tests of what depends on other packages: files, tables, images, estimators, kernels, the command.
LOWEST_TESTS := $(patsubst %,tests/test_%.py,checkpoint columns tables table_reading reader_limits image_files cli_flags \
	cli_columns cli_score table_model flow fit kernels plot outliers streaming load_paths)

.DEFAULT_GOAL := help
.PHONY: help demo test laws mutants chaos damage fuzz soak lowest audit lint format reproduce ablations tables mixed anomaly estimator posteriors images results-gpu processes bench large against runtime docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.demo  ## train three flows on two moons and draw them side by side (two minutes)
	$(BIN)/python examples/demo.py

test: .venv/.dev lint  ## lint, then all tests but the long ones (minutes)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

laws: .venv/.dev  ## test the laws of bijections and of direct gradients on many more inputs, and how flows start (an hour)
	$(BIN)/python -m pytest -q -n 2 --hypothesis-profile=long -m "long or not long" tests/test_bijections.py tests/test_export.py tests/test_compiled.py tests/test_direct.py tests/test_start.py

mutants: .venv/.dev  ## break every bijection on purpose, measure every one: docs/reliability.md (20 minutes)
	PYTHONPATH=tests $(BIN)/python -m mutation --out .venv/mutants.json
	$(BIN)/python benchmarks/reliability.py --mutants .venv/mutants.json

chaos: .venv/.dev  ## kill trainings before each operation on a file and at random moments; nothing may be lost (ten minutes)
	PYTHONPATH=tests $(BIN)/python -m chaos

damage: .venv/.dev  ## damage a thousand run folders; each is refused or gives the same numbers (a minute)
	PYTHONPATH=tests $(BIN)/python -W ignore -m damage

fuzz: .venv/.dev  ## 2,000 commands with flags, files and tables that nobody meant: docs/reliability.md (10 to 15 minutes; SEED=number)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seed $(or $(SEED),0)

soak: .venv/.dev  ## train, load, score and sample again and again: memory, open files, numbers (20 minutes; MINUTES=, SEED=)
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(or $(MINUTES),20) --seed $(or $(SEED),0)

lowest: .venv-lowest/.done  ## test with the lowest declared versions (minutes, 5 GB of disk)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -W ignore::DeprecationWarning -W ignore::FutureWarning $(LOWEST_TESTS)

audit: .venv/.dev .venv-audit/.done  ## ask whether vulnerabilities of the installed packages are known (a minute; network)
	$(BIN)/python tests/audit.py .venv-audit/bin/pip-audit "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')"

lint: .venv/.dev  ## check the code with ruff (rules and format) and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.dev  ## let ruff format the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: .venv/.dev  ## run the experiments of five tutorials and write docs/reproductions.md (half an hour; continues if interrupted)
	$(BIN)/python benchmarks/reproduce.py

ablations: .venv/.dev  ## leave out one part of RealNVP at a time: docs/tutorials/image-flows.md (an hour; continues if interrupted)
	$(BIN)/python benchmarks/ablations.py

tables: .venv/.dev  ## compare with nflows, zuko and mixtures on real tables: docs/results.md (an hour; FLOWSTONE_DATA=folder)
	$(BIN)/python benchmarks/tables.py

mixed: .venv/.dev  ## judge samples, conditionals and filled gaps of mixed tables: docs/results.md (two hours; FLOWSTONE_DATA=folder)
	$(BIN)/python benchmarks/mixed.py
	$(BIN)/python benchmarks/imputation.py

anomaly: .venv/.dev  ## compare detectors of anomalies on real sets: docs/results.md (half an hour; FLOWSTONE_DATA=folder)
	$(BIN)/python benchmarks/anomaly.py
	$(BIN)/python benchmarks/contamination.py

estimator: .venv/.dev  ## compare the estimator with mixtures of Gaussians: docs/results.md (an hour; FLOWSTONE_DATA=folder)
	$(BIN)/python benchmarks/estimator.py

posteriors: .venv/.dev  ## simulation-based inference beside reference posteriors: docs/results.md (half an hour; FLOWSTONE_DATA=folder)
	$(BIN)/python benchmarks/posteriors.py

images: .venv/.dev  ## train and evaluate image flows: docs/results.md (six hours; continues if interrupted)
	$(BIN)/python benchmarks/images.py

results-gpu: .venv/.dev  ## train on CIFAR-10 on a GPU for nine minutes; repeat until it says that all is done
	$(BIN)/python benchmarks/images.py cifar10-gpu --device cuda --piece 9

processes: .venv/.dev  ## measure training in one and in two processes: docs/many-processes.md (minutes)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 benchmarks/processes.py

bench: .venv/.dev .venv-peers/.done  ## measure speed and memory beside other libraries: benchmarks/RESULTS.md, IMAGES.md (an hour)
	.venv-peers/bin/python benchmarks/peers.py
	.venv-peers/bin/python benchmarks/floor.py
	$(BIN)/python benchmarks/direct.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/image_speed.py

large: .venv/.dev  ## make a table of 5 GB and score it: memory and rate (ten minutes, 11 GB of disk; SIZE=gigabytes)
	$(BIN)/python benchmarks/large.py --gigabytes $(or $(SIZE),5)

against: .venv/.dev  ## compare the speed with another checkout of Flowstone: make against TREE=path (ten minutes)
	$(BIN)/python benchmarks/against.py $(TREE)

runtime:  ## fetch onnxruntime-web into node_modules, for playgrounds and their tests (a minute; npm, network)
	npm install --prefix . --no-save --no-package-lock onnxruntime-web@1.30.0

docs: .venv/.docs  ## build the site into docs/_build/html, and look at it in a browser (ten minutes; then what has changed)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	FLOWSTONE_SITE=docs/_build/html $(BIN)/python -m pytest -q tests/test_site.py

clean:  ## delete the environments, the demo and the site; runs/ stays
	rm -rf .venv .venv-peers .venv-lowest .venv-audit demo docs/_build docs/generated docs/gallery

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flowstone needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.demo

.venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev,docs]'
	@touch $@ .venv/.dev .venv/.demo

.venv-peers/.done: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[fast]' -r benchmarks/peers.txt
	@touch $@

.venv-lowest/.done: pyproject.toml constraints.txt tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip --disable-pip-version-check --quiet install -c .venv-lowest/constraints.txt \
		-e '.[evaluation,sklearn,fast,excel]' pandas polars pytest hypothesis sybil
	@touch $@

.venv-audit/.done:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip --disable-pip-version-check --quiet install pip-audit
	@touch $@
