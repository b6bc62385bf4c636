# make demo   set-up without PyTorch, and the main job: a checkpoint becomes a bundle, and the bundle answers
# make test   set-up, lint, types, import contracts, and all tests
# make bench  set-up, and torchless beside its peers on the sample, or on CHECKPOINT=directory: bench/README.md
# make image  what the Dockerfile does, step by step, where no engine is: its size, and an answer
PYTHON ?= python3
SAMPLE := tests/assets/sst2-tiny
PIP := -m pip --disable-pip-version-check install --quiet -c constraints.txt
PIP5 := -m pip --disable-pip-version-check install --quiet -c constraints-transformers5.txt
# From inside another environment, so that nothing of the repository but the tests is on its path.
PYTEST_THERE := TORCHLESS_TEST_BUNDLE=$(CURDIR)/.cache/bundle TORCHLESS_TEST_FEATURES_BUNDLE=$(CURDIR)/.cache/features \
	bin/pytest -q -c ../pyproject.toml --rootdir .. -p no:cacheprovider
CHECKPOINT ?= $(SAMPLE)
WORKLOADS ?= standard
FLAGS ?=
PEERS ?= .cache/bench/$(notdir $(CHECKPOINT:/=))

.PHONY: demo test lint bench image clean

demo: .venv/.ready
	rm -rf demo && mkdir demo
	.venv/bin/torchless export $(SAMPLE) demo/bundle
	.venv/bin/torchless run demo/bundle "I've been waiting for a HuggingFace course my whole life." "I hate this so much!"
	.venv/bin/torchless run demo/bundle --input tests/assets/sentences.tsv --output demo/answers.jsonl
	head -n 3 demo/answers.jsonl
	.venv/bin/torchless explain demo/bundle "A stirring, funny and finally transporting film."

lint: .venv-dev/.ready
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy runtime/torchless export/torchless_export bench/torchless_bench
	.venv-dev/bin/lint-imports

# With everything; then without PyTorch, what exports; then what ships, alone; then beside transformers 5. The first run
# exports what the contract tests compare on, and the last one finds it in .cache/contract.
test: export TORCHLESS_TEST_CONTRACT = $(CURDIR)/.cache/contract
test: export TORCHLESS_TEST_TRANSFORMERS5 = $(CURDIR)/.venv-transformers5/bin/python
test: lint .venv-dev/.ready .venv/.test .venv-lean/.ready .venv-transformers5/.ready
	rm -rf .cache/bundle .cache/features .cache/contract
	.venv-dev/bin/pytest -q --cov --cov-report=term:skip-covered
	.venv/bin/pytest -q -p no:cacheprovider tests/export
	.venv/bin/torchless export $(SAMPLE) .cache/bundle
	.venv/bin/torchless export $(SAMPLE) .cache/features --task feature-extraction --variant fp32
	cd .venv-lean && $(PYTEST_THERE) ../tests/runtime ../tests/contract
	cd .venv-transformers5 && $(PYTEST_THERE) ../tests/runtime ../tests/contract $(addprefix ../tests/export/,graph reference tokenizer)

# The peers' models stay as they are; the bundle is exported again, since it is this source that is measured.
bench: .venv-bench/.ready .venv/.ready .venv-transformers5/.transformers
	rm -rf $(PEERS)/bundle
	.venv-bench/bin/python -m torchless_bench.prepare $(CHECKPOINT) $(PEERS)
	.venv-bench/bin/torchless bench $(PEERS)/bundle --peers $(PEERS) --workloads $(WORKLOADS) --rounds 3 \
		--output $(PEERS)/bench.json --report $(PEERS)/report \
		--python torchless-export=.venv/bin/python --python transformers5=.venv-transformers5/bin/python $(FLAGS)

image: .venv/.ready
	rm -rf .cache/image && mkdir -p .cache/image
	.venv/bin/torchless export $(CHECKPOINT) .cache/image/bundle --min-agreement 0
	.venv/bin/python tools/image.py .cache/image/bundle .cache/image/stages

# What a user who exports has: no PyTorch, no transformers.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torchless needs Python 3.11 or newer, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) "pip>=25.1"
	.venv/bin/python $(PIP) -e ".[cpu,export]"
	touch $@

.venv/.test: .venv/.ready
	.venv/bin/python $(PIP) --group test
	touch $@

# Everything: optimum, transformers 4.57, PyTorch, and the tools.
.venv-dev/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python $(PIP) "pip>=25.1"
	.venv-dev/bin/python $(PIP) -e ".[cpu,optimum,bench]" --group dev
	touch $@

# What torchless is compared with; transformers 5 has an environment of its own.
.venv-bench/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python $(PIP) "pip>=25.1"
	.venv-bench/bin/python $(PIP) -e ".[cpu,optimum,bench]" --group peers
	touch $@

dist/.built: .venv/.ready $(shell find runtime export bench -name '*.py')
	rm -rf dist
	.venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w dist .
	touch $@

# What a user of the runtime has: the built wheel with [cpu], and pytest; no torch, transformers or onnx.
.venv-lean/.ready: dist/.built
	rm -rf .venv-lean
	$(PYTHON) -m venv .venv-lean
	.venv-lean/bin/python $(PIP) "pip>=25.1"
	.venv-lean/bin/python $(PIP) "$$(ls dist/*.whl)[cpu]" --group test
	touch $@

# transformers 5, with which nothing of optimum can be installed, and the newest libraries that come with it.
.venv-transformers5/.transformers: constraints-transformers5.txt pyproject.toml
	rm -rf .venv-transformers5
	$(PYTHON) -m venv .venv-transformers5
	.venv-transformers5/bin/python $(PIP5) "pip>=25.1"
	.venv-transformers5/bin/python $(PIP5) transformers torch --group test
	touch $@

.venv-transformers5/.ready: .venv-transformers5/.transformers dist/.built
	.venv-transformers5/bin/python $(PIP5) "$$(ls dist/*.whl)[cpu,export]"
	.venv-transformers5/bin/python $(PIP5) --force-reinstall --no-deps dist/*.whl
	touch $@

clean:
	rm -rf .venv .venv-dev .venv-bench .venv-lean .venv-transformers5 .cache demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
