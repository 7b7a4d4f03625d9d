# From nothing to results: every target makes .venv first where it is missing, with pip as configured on this machine.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
READY := .venv/.ready

# One target after the other, whatever -j says: CI reads the last line.
.NOTPARALLEL:
.PHONY: demo test test-slow test-units browser emulators fuzz test-exhaustive coverage lint format bench docs clean

demo: $(READY)
	$(RUN) -m bench.demo

test: $(READY) emulators
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2

test-slow: $(READY) browser emulators
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m slow

# Matrix units this machine lacks, emulated: every unit in every form, of every vector length.
test-units: $(READY) emulators
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m 'not exhaustive and not fuzz and not coverage' tests/emulation

# A test opens the page of `sansuan compare` in a real browser.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	|| { echo "make test-slow needs a browser, and apt-get may not install it here: install chromium"; exit 1; }

# Arm kernels are tested under QEMU; where apt may not fetch it those tests skip and say so.
emulators: $(READY)
	@$(RUN) -m tests.emulation.aarch64_install
	@$(RUN) -m tests.emulation.aarch64_package

# Finds what nobody has met yet, so it decides no change: what it finds becomes a test.
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m fuzz

test-exhaustive: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m exhaustive

# Families of common models against FP64; answers 1 while one of them is wrong or has a Host step.
coverage: $(READY)
	$(RUN) -m tests.coverage --write

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(READY)
	$(RUN) -m bench gemm --json build/bench.jsonl --figure build/roofline.svg
	$(RUN) -m bench models

docs: $(READY)
	$(RUN) -m docs.generate

clean:
	rm -rf .venv build dist *.egg-info

# torch goes in first and alone: a package that needs it would otherwise let pip choose a build with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@$(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(RUN) -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[torch,plots,peers,demo,dev]'
	@touch $@
