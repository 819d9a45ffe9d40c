# Everything from a fresh machine with Python 3.10+ and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := out/demo
RAYS := 2.40.0 2.60.0

.PHONY: help install demo test test-matrix nightly faults check bench scaling study report format clean

help:
	@echo "make demo   train a small team, evaluate it, draw its curve and a video (about 5 minutes on 2 cores)"
	@echo "make test   run all tests"
	@echo "make test-matrix  run all tests with the oldest and the newest Ray that setup.cfg allows, in .matrix"
	@echo "make nightly  read 15,000 changed and made-up files, inject faults into real runs, count what they cost (half an hour)"
	@echo "make bench  measure all speeds beside other libraries' (about 85 minutes on 2 cores)"
	@echo "make scaling  measure training with 1, 2 and 4 env runners on 1 and 2 nodes (a quarter of an hour)"
	@echo "make study  train and evaluate all arms of the study that have no results yet (hours)"
	@echo "make report draw the study's figures and print its tables, from the results alone"
	@echo "make check  format, lint, types, fast tests"

install: .venv/installed

# torch goes first: the pin finds a CPU build where there is one, before anything else pulls in the CUDA build.
.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -m venv .venv || { echo "expected Python with venv; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing (a minute or more)"
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	@rm -rf $(DEMO)
	$(BIN)/rllib train file experiments/tag_quick.yaml --storage-path $(DEMO)
	$(BIN)/rllib evaluate $(DEMO)/tag_quick --yardstick random --yardstick class_b_chases --yardstick all_chase --out $(DEMO)/evaluation
	$(BIN)/rllib plot $(DEMO)/tag_quick --levels $(DEMO)/evaluation --label tag_quick --out $(DEMO)/curve.png
	$(BIN)/rllib rollout $(DEMO)/tag_quick --out $(DEMO)/rollout
	@echo
	@echo "table:  $(DEMO)/evaluation/summary.json and episodes.csv"
	@echo "curve:  $(DEMO)/curve.png"
	@echo "video:  $(DEMO)/rollout/episode_1000000.gif"

test: install
	$(BIN)/pytest

# Each Ray gets an environment of its own. Warnings of another Ray's libraries are no errors.
test-matrix:
	for ray in $(RAYS); do \
		$(PYTHON) -m venv .matrix/$$ray \
		&& .matrix/$$ray/bin/pip install --quiet torch==2.13.0 \
		&& .matrix/$$ray/bin/pip install --quiet "ray[rllib,tune]==$$ray" --editable ".[dev]" \
		&& .matrix/$$ray/bin/pytest -W default || exit 1; \
	done

nightly: install faults
	$(BIN)/pytest tests/runs/test_fuzz.py --hypothesis-profile nightly

# Filling a disk needs root, for a small one is made in memory.
faults: install
	$(BIN)/python experiments/faults/faults.py

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_structure.py tests/world tests/nn tests/plugin tests/report

# The other libraries get environments of their own in .bench.
bench: install
	$(BIN)/python experiments/benchmarks/bench.py --out out/benchmarks

scaling: install
	$(BIN)/python experiments/benchmarks/scaling.py

study: install
	$(BIN)/python experiments/study/study.py

report: install
	$(BIN)/python experiments/study/report.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .bench .matrix out build *.egg-info
