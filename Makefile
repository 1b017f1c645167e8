# make figures, make test: all a fresh machine needs is Python 3.11+ and make.
CORES ?= 4
BENCH ?= full
PYTHON ?= python3
BIN := .venv/bin
# Shell rules call `python`: the environment's comes first on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: figures test bench report lint clean

figures: .venv/ready
	snakemake --cores $(CORES)
	@echo "file://$(CURDIR)/results/index.html"

test: .venv/ready
	pytest

bench: .venv/ready
	OMP_NUM_THREADS=1 python -m tests.benchmarks $(if $(filter quick,$(BENCH)),--quick)

report: figures
	snakemake --report results/report.zip --report-stylesheet workflow/report/report.css

lint: .venv/ready
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	snakefmt --check workflow
	snakemake --lint

# uv is used where it is installed; it reads no pip settings, so a folder of wheels is handed on to it.
.venv/ready: pyproject.toml
	@if command -v uv > /dev/null; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" && export UV_FIND_LINKS && \
	  uv venv --allow-existing --python $(PYTHON) .venv && uv pip install --python $(BIN)/python -e '.[test]'; \
	else \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -e '.[test]'; \
	fi
	@touch $@

clean:
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -r {} +
