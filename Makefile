# make demo   install what this machine needs and run everything once on a sample collection
# make test   install what the tests need and run them all: ruff, mypy, pytest with coverage
# make clean  remove the environment, the demo and all caches

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= mirsearch-demo
PHOTOS ?= 20000

# The build of FAISS and CuPy for this machine: by the version of the NVIDIA driver, else the CPU's.
DRIVER := $(shell { cat /sys/module/nvidia/version || nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1; } 2>/dev/null | cut -d. -f1)
EXTRA ?= $(shell if [ -z "$(DRIVER)" ]; then echo cpu; elif [ "$(DRIVER)" -ge 580 ] 2>/dev/null; then echo cuda13; elif [ "$(DRIVER)" -ge 525 ] 2>/dev/null; then echo cuda12; else echo cpu; fi)
comma := ,
# Without a GPU, CuPy and NVRTC come along for the tests alone: they compile every .cu file.
TEST_EXTRAS := $(EXTRA),test$(if $(filter cpu,$(EXTRA)),$(comma)test-cuda)

.PHONY: demo test lint check browser install clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed-$(EXTRA)
	$(BIN)/mirsearch demo $(DEMO) --photos $(PHOTOS)

install: $(VENV)/installed-$(EXTRA)

test: lint check

lint: $(VENV)/installed-tests-$(EXTRA)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The second run executes the Numba kernels as plain Python, where coverage can see their lines; all but the bulk
# reader, whose calls into the C library exist only when compiled.
check: $(VENV)/installed-tests-$(EXTRA) browser
	$(BIN)/python -m pytest -n 2 --cov --cov-report=
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n 2 tests/kernels --ignore tests/kernels/test_record_reader.py --cov --cov-append --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=90

# Pages are looked at in headless Chromium. Who may install it has it installed; elsewhere those tests are skipped.
browser:
	@for one in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$one >/dev/null && exit; done; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "Installing Chromium for the tests"; \
	  DEBIAN_FRONTEND=noninteractive timeout 600 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' \
	  >/dev/null 2>&1 && exit; fi; echo "No Chromium here: the tests that look at pages are skipped."

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "No venv module: install it (Debian: apt-get install python3-venv)."; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed-$(EXTRA): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	@touch $@

$(VENV)/installed-tests-$(EXTRA): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$(TEST_EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
