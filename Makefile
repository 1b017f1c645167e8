# make figures, make test: all a fresh machine needs is Python 3.11.4+ and make.
CORES ?= 4
BENCH ?= full
CONFIG ?=
PYTHON ?= python3
BIN := .venv/bin
# Shell rules call `python`: the environment's comes first on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: figures test test-whole test-slurm test-parts bench report lint lock clean

# On a terminal snakemake shows bars; in a pipe, its plain log.
figures: .venv/ready
	snakemake $$(test -t 2 && echo --logger rich) --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))
	@echo "file://$(CURDIR)/results/index.html"

# Three processes that take as long: one for all that runs whole papers or needs another program, so that there is one of
# each; one for the trial cluster, whose tests mostly wait, then for the papers and docstrings; one for the others.
BESIDE_WHOLE = tests/slurm tests/papers workflow/lib
OTHERS = tests $(patsubst %,--ignore=%,$(BESIDE_WHOLE))
SELECTED_whole = -m whole $(OTHERS)
SELECTED_slurm = $(BESIDE_WHOLE)
SELECTED_parts = -m "not whole" $(OTHERS)
test: .venv/ready
	python -m tests.forks $(MAKE) --no-print-directory --jobs 3 --keep-going test-whole test-slurm test-parts

test-whole test-slurm test-parts: test-%: .venv/ready
	pytest $(SELECTED_$*)

bench: .venv/ready
	OMP_NUM_THREADS=1 python -m tests.benchmarks $(if $(filter quick,$(BENCH)),--quick)

report: figures
	snakemake --report results/report.zip --report-stylesheet workflow/report/report.css

lint: .venv/ready
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	snakefmt --check workflow examples
	snakemake --lint

# Versions are those of requirements.lock. torch is a build for the CPU where there is no NVIDIA driver; with one, it is
# PyPI's. TORCH=cpu, cu126 (V100) or another name of https://download.pytorch.org/whl chooses, and a site that has a
# folder of wheels (find-links) decides itself. uv is used where it is installed; it reads no pip settings.
HAS_WHEELS = $(UV_FIND_LINKS)$(shell $(PYTHON) -m pip config list 2> /dev/null | grep find-links)
TORCH ?= $(if $(shell command -v nvidia-smi)$(HAS_WHEELS),,cpu)
INDEX = https://download.pytorch.org/whl/$(TORCH)

.venv/ready: pyproject.toml requirements.lock
	@if command -v uv > /dev/null; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" && export UV_FIND_LINKS && \
	  uv venv --allow-existing --python $(PYTHON) .venv && \
	  uv pip install --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) -c requirements.lock -e '.[test]'; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(if $(TORCH),$(BIN)/python -m pip install --quiet -c requirements.lock --extra-index-url $(INDEX) torch &&) \
	  $(BIN)/python -m pip install --quiet -c requirements.lock -e '.[test]'; \
	fi
	@touch $@

# Locks what pyproject.toml asks for anew, and keeps the versions of all else; UPGRADE=--upgrade takes the newest of
# everything. The CUDA packages stay out: torch brings those of its build.
lock:
	uv pip compile --quiet --universal --no-annotate --no-header --all-extras $(UPGRADE) -o requirements.lock pyproject.toml
	(echo '# What was tested together, made by make lock from pyproject.toml.'; \
	  grep -vE '^(#|cuda|nvidia|triton)' requirements.lock) > requirements.lock~ && mv requirements.lock~ requirements.lock

clean:
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -r {} +
