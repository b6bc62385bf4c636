# make demo   set-up, and the main job: a checkpoint becomes a bundle, and the bundle answers
# make test   set-up, lint, types, import contracts, and all tests
# make bench  set-up, and torchless beside its peers on the sample, or on CHECKPOINT=directory; FLAGS=--targets, ...
PYTHON ?= python3
SAMPLE := tests/assets/sst2-tiny
PIP := -m pip --disable-pip-version-check install --quiet -c constraints.txt

CHECKPOINT ?= $(SAMPLE)
FLAGS ?=
PEERS := .cache/bench/$(notdir $(CHECKPOINT:/=))

.PHONY: demo test lint bench clean

demo: .venv/.export
	rm -rf demo && mkdir demo
	.venv/bin/torchless export $(SAMPLE) demo/bundle
	.venv/bin/torchless run demo/bundle "I've been waiting for a HuggingFace course my whole life." "I hate this so much!"
	.venv/bin/torchless run demo/bundle --input tests/assets/sentences.tsv --output demo/answers.jsonl
	head -n 3 demo/answers.jsonl
	.venv/bin/torchless explain demo/bundle "A stirring, funny and finally transporting film."

lint: .venv/.dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy runtime/torchless export/torchless_export bench/torchless_bench
	.venv/bin/lint-imports

test: lint .venv/.dev .venv-lean/.ready
	rm -rf .cache/bundle
	.venv/bin/pytest -q --cov --cov-report=term:skip-covered
	.venv/bin/torchless export $(SAMPLE) .cache/bundle
	cd .venv-lean && TORCHLESS_TEST_BUNDLE=$(CURDIR)/.cache/bundle bin/pytest -q -c ../pyproject.toml --rootdir .. -p no:cacheprovider ../tests/runtime ../tests/contract

# The peers' models stay as they are; the bundle is exported again, since it is this source that is measured.
bench: .venv/.export
	rm -rf $(PEERS)/bundle
	.venv/bin/python -m torchless_bench.prepare $(CHECKPOINT) $(PEERS)
	.venv/bin/torchless bench $(PEERS)/bundle --peers $(PEERS) --output $(PEERS)/bench.json $(FLAGS)

# What exporting needs: optimum, transformers, PyTorch.
.venv/.export: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torchless needs Python 3.11 or newer, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) "pip>=25.1"
	.venv/bin/python $(PIP) -e ".[cpu,optimum]"
	touch $@

.venv/.dev: .venv/.export
	.venv/bin/python $(PIP) --group dev
	touch $@

# What a user of the runtime has: the built wheel with [cpu], and pytest; no torch, transformers or onnx.
.venv-lean/.ready: .venv/.dev $(shell find runtime export bench -name '*.py')
	rm -rf .venv-lean dist
	.venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist .
	$(PYTHON) -m venv .venv-lean
	.venv-lean/bin/python $(PIP) "pip>=25.1"
	.venv-lean/bin/python $(PIP) "$$(ls dist/*.whl)[cpu]" --group test
	touch $@

clean:
	rm -rf .venv .venv-lean .cache demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
