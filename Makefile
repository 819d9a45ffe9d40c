# Everything from a fresh machine with Python 3.10+ and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := out/demo
OLDEST_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.13
# Most tests wait for processes that they have started. A file's tests share what it has trained.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile
TORCH := torch==2.13.0
BETWEEN := "ray[rllib,tune]==2.56.0" $(TORCH)

.PHONY: help install demo test test-matrix matrix-oldest matrix-between matrix-newest nightly faults check bench scaling gpu study games report docs release format clean

help:
	@echo "make demo   train a small team, evaluate it, draw its curve and a video (about 75 seconds on 2 cores, after installation)"
	@echo "make test   run all tests"
	@echo "make test-matrix  run all tests, the slow ones too, with the oldest, the newest and a middle set of versions that setup.cfg allows, in .matrix"
	@echo "make nightly  read 18,000 changed and generated files, inject faults into real runs, count what they cost (half an hour)"
	@echo "make bench  measure all speeds next to other libraries' (about 85 minutes on 2 cores)"
	@echo "make scaling  measure training with 1, 2 and 4 env runners on 1 and 2 nodes (a quarter of an hour)"
	@echo "make gpu    compare a GPU with the CPUs of the same machine: do they agree, and how fast is each"
	@echo "make study  train and evaluate all arms of the study that have no results yet (hours)"
	@echo "make games  the same for the games besides tag, and print their table"
	@echo "make report draw the study's figures and print its tables, from the results alone"
	@echo "make docs   build the guide, into out/site"
	@echo "make release  build wheel and sdist, and try them away from the checkout"
	@echo "make check  format, lint, types, fast tests"

install: .venv/installed

# torch goes first: the pin finds a CPU build where there is one, before anything else pulls in the CUDA build.
.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -m venv .venv || { echo "expected Python with venv; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing (a minute or more)"
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	@rm -rf $(DEMO)
	$(BIN)/rllib train file experiments/tag_quick.yaml --storage-path $(DEMO)
	$(BIN)/rllib evaluate $(DEMO)/tag_quick --baseline random --baseline class_b_chases --baseline all_chase --out $(DEMO)/evaluation
	$(BIN)/rllib plot $(DEMO)/tag_quick --levels $(DEMO)/evaluation --label tag_quick --out $(DEMO)/curve.png
	$(BIN)/rllib rollout $(DEMO)/tag_quick --out $(DEMO)/rollout
	@echo
	@echo "table:  $(DEMO)/evaluation/summary.json and episodes.csv"
	@echo "curve:  $(DEMO)/curve.png"
	@echo "video:  $(DEMO)/rollout/episode_1000000.gif"

test: install
	$(BIN)/pytest $(SIDE_BY_SIDE)

# Each row has a virtual environment of its own: the oldest version of everything that setup.cfg names, a Ray in between,
# and the newest version of everything that pip finds. Warnings of libraries in other versions are not errors. What
# `make nightly` runs is included.
test-matrix: matrix-oldest matrix-between matrix-newest

matrix-oldest:
	@mkdir -p .matrix
	sed -nE 's/^ +([a-z0-9_-]+)(\[[a-z,]+\])?>=([0-9.]+).*/\1==\3/p' setup.cfg > .matrix/oldest.txt
	$(call matrix,oldest,$(OLDEST_PYTHON),--constraint .matrix/oldest.txt)

matrix-between:
	$(call matrix,between,$(PYTHON),$(BETWEEN))

matrix-newest:
	$(call matrix,newest,$(NEWEST_PYTHON),--upgrade --upgrade-strategy eager)

define matrix
$(2) -m venv .matrix/$(1)
.matrix/$(1)/bin/pip install --quiet $(3) --editable ".[dev]"
.matrix/$(1)/bin/pytest -W default -m "" $(SIDE_BY_SIDE)
endef

nightly: install faults
	$(BIN)/pytest tests/experiment/test_fuzz.py --hypothesis-profile nightly
	$(BIN)/pytest -m nightly

# Filling a disk needs root, since a small disk is mounted in memory.
faults: install
	$(BIN)/python experiments/faults/faults.py

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --python-version 3.10
	$(BIN)/mypy --python-version 3.13
	$(BIN)/pytest tests/test_structure.py tests/world tests/nn tests/plugin tests/report

# The other libraries get virtual environments of their own in .bench.
bench: install
	$(BIN)/python experiments/benchmarks/bench.py --out out/benchmarks

scaling: install
	$(BIN)/python experiments/benchmarks/scaling.py

gpu: install
	$(BIN)/python experiments/benchmarks/gpu.py

study: install
	$(BIN)/python experiments/study/study.py
	$(BIN)/python experiments/study/crossplay.py

games: install
	$(BIN)/python experiments/study/study.py experiments/games/study.yaml --out experiments/results/games --work out/games
	$(BIN)/python experiments/games/report.py

report: install
	$(BIN)/python experiments/study/report.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel is built from the sdist, and used in a folder and an environment of its own, with no checkout in sight.
release: install
	rm -rf out/dist
	$(BIN)/python -m build --outdir out/dist
	$(BIN)/twine check --strict out/dist/*
	@set -e; wheel=$$(realpath out/dist/*.whl); folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; cd "$$folder"; \
	$(PYTHON) -m venv env; env/bin/pip install --quiet $(TORCH); env/bin/pip install --quiet "$$wheel"; \
	env/bin/rllib example run tag_quick --storage-path runs; env/bin/rllib evaluate runs/tag_quick

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .bench .matrix out build *.egg-info
