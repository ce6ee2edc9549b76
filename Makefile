# daskreg: `make demo` and `make test` need only Python 3.11 to 3.13 and make.
# The environment is made in .venv; to use another Python: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt --editable
ARGS ?=

# Tests start many processes; each would compile all of daskreg.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test quick fast-low fast-high all-low all-high all-processes pytest lint types format notebooks bench bench-register bench-clouds docs screenshots check-docs constraints clean test-oldest test-newest test-kubernetes

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "daskreg needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	       "name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the demo needs into $(VENV) (this takes minutes the first time)"
	$(INSTALL) '.[demo]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the tests need into $(VENV) (this takes minutes the first time)"
	$(INSTALL) '.[test]'
	@touch $(VENV)/.demo-installed $@

$(VENV)/.docs-installed: pyproject.toml constraints.txt | $(VENV)/.test-installed
	$(INSTALL) '.[docs]'
	@touch $@

# numpy has another pin here: antspyx does not work with numpy 2.4.
.venv-bench/.installed: pyproject.toml constraints-bench.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint constraints-bench.txt --editable '.[bench]'
	@touch $@

# open3d also needs the system's libusb-1.0 and libGL.
.venv-clouds/.installed: pyproject.toml constraints-clouds.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-clouds
	.venv-clouds/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint constraints-clouds.txt --editable '.[bench-clouds]'
	@touch $@

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint constraints-oldest.txt --editable $(VERSION_NEEDS)
	@touch $@

# All of it is new but torch, which is large and whose versions are not what is tested here. Made anew each time.
.PHONY: .venv-newest/.installed
.venv-newest/.installed: | $(BIN)/python
	$(BIN)/python -m venv --clear .venv-newest
	grep '^torch==' constraints.txt > .venv-newest/torch.txt
	.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet \
	  --constraint .venv-newest/torch.txt --editable $(VERSION_NEEDS)

venv: $(VENV)/.test-installed ## the environment with everything that the tests need

demo: $(VENV)/.demo-installed ## the main workflow on a real volume: drift, align, warp, compare
	$(BIN)/daskreg demo $(ARGS)

test: $(VENV)/.test-installed ## lint, types and every test, notebooks and documentation included
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j4 --output-sync=line types $(PARTS)

quick: $(VENV)/.test-installed ## lint, types and the fast tests: while you work
	@$(MAKE) --no-print-directory -j2 lint types fast-low fast-high

# The fast tests in two halves, which run at the same time: the lower layers, and all others.
LOW := geometry runtime sampling sources formats blocks cluster
fast-low: $(VENV)/.test-installed
	$(BIN)/python -m pytest -q -m "not slow" $(LOW:%=tests/%) $(ARGS)

fast-high: $(VENV)/.test-installed
	$(BIN)/python -m pytest -q -m "not slow" tests $(LOW:%=--ignore=tests/%) $(ARGS)

# Every test, in three parts that run at the same time: one of them mostly waits for the processes that it starts.
# A part in which ARGS selects nothing (code 5) does not fail.
PARTS := all-low all-high all-processes
pytest: $(VENV)/.test-installed
	@$(MAKE) --no-print-directory -j3 --output-sync=line $(PARTS)

# Threads that have nothing to do would take the cores from the other parts: those of OpenMP sleep, and OpenBLAS has one,
# since a second one spins while it waits.
fast-low fast-high $(PARTS) notebooks: export OMP_WAIT_POLICY := PASSIVE
fast-low fast-high $(PARTS) notebooks: export OPENBLAS_NUM_THREADS := 1

PROCESSES := $(addprefix tests/,cluster runs test_faults.py test_object_stores.py test_object_stores_cluster.py test_security.py)
LOWER := $(addprefix tests/,$(filter-out cluster,$(LOW)) stacks cli reporting clouds fields landmarks flat tomography viewing)
all-processes: $(VENV)/.test-installed
	$(BIN)/python -m pytest $(PROCESSES) $(ARGS) || [ $$? -eq 5 ]

all-low: $(VENV)/.test-installed
	$(BIN)/python -m pytest $(LOWER) $(ARGS) || [ $$? -eq 5 ]

all-high: $(VENV)/.test-installed
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 tests notebooks $(patsubst %,--ignore=%,$(PROCESSES) $(LOWER)) $(ARGS) \
	  || [ $$? -eq 5 ]

# What stands on private APIs of dask, distributed and zarr (daskreg/runtime/private_apis.py), and on their versions.
VERSION_TESTS := tests/runtime tests/sources tests/blocks tests/cluster tests/test_volumes.py tests/test_warping.py \
  tests/test_writing.py tests/test_faults.py tests/test_imports.py
VERSION_NEEDS := '.[formats,cluster]' hypothesis ome-zarr-models pandas pytest pytest-timeout

# The schemas of the operator are files of dask-kubernetes, of which nothing is imported: it is not installed beside others.
.kubernetes-schemas/.installed: $(VENV)/.test-installed
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade --target .kubernetes-schemas --no-deps dask-kubernetes
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade --target .kubernetes-schemas jsonschema
	touch $@

test-kubernetes: .kubernetes-schemas/.installed ## the Kubernetes files against the schemas of the operator
	PYTHONPATH=.kubernetes-schemas:$$PYTHONPATH $(BIN)/python -m pytest tests/cluster/test_kubernetes.py $(ARGS)

test-oldest: .venv-oldest/.installed ## what depends on dask, zarr and xarray, with the oldest versions allowed
	.venv-oldest/bin/python -m pytest $(VERSION_TESTS) $(ARGS)

test-newest: .venv-newest/.installed ## the same with the newest versions there are
	.venv-newest/bin/python -m pip --disable-pip-version-check list
	.venv-newest/bin/python -m pytest $(VERSION_TESTS) $(ARGS)

lint: $(VENV)/.test-installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test-installed ## mypy --strict on the package
	$(BIN)/mypy

format: $(VENV)/.test-installed ## let ruff correct what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/.test-installed ## the notebooks, executed
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks $(ARGS)

bench: .venv-bench/.installed ## throughput and memory, Zarr to Zarr and in memory
	.venv-bench/bin/python benchmarks/out_of_core.py $(ARGS)
	.venv-bench/bin/python benchmarks/sampling.py

bench-register: .venv-bench/.installed ## registration compared with SimpleITK, elastix, ANTs, StackReg and OpenCV
	.venv-bench/bin/python benchmarks/register.py $(ARGS)

bench-clouds: .venv-clouds/.installed ## point clouds compared with open3d, small_gicp and probreg (ARGS='all --quick')
	.venv-clouds/bin/python benchmarks/clouds.py $(or $(ARGS),all)

docs: $(VENV)/.docs-installed ## the pages and the API reference as HTML, in build/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

screenshots: docs ## the pictures in docs/images, by Chromium
	$(BIN)/python docs/screenshots.py

check-docs: $(VENV)/.docs-installed ## the same pages in build/check-docs without running the notebooks, which `make test` does
	$(BIN)/sphinx-build -W --keep-going -q -D nb_execution_mode=off -b html docs build/check-docs

constraints: $(VENV)/.docs-installed ## pin what is installed in .venv now
	@{ echo "# Exactly what the tests run with: make constraints. pyproject.toml says what daskreg accepts."; \
	  $(PIP) freeze --exclude-editable | grep -v '^#' | sed 's/+cpu$$//'; } > constraints.tmp
	@mv constraints.tmp constraints.txt

clean: ## remove everything that make made
	rm -rf $(VENV) .venv-bench .venv-clouds .venv-oldest .venv-newest .kubernetes-schemas build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
