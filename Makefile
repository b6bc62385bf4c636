# make demo   set-up without PyTorch, and the main job: a checkpoint becomes a bundle, and the bundle answers
# make test   set-up, lint, types, import contracts, and all tests
# make bench  set-up, and torchless beside its peers on the sample, or on CHECKPOINT=directory: bench/README.md
# make image  what the Dockerfile does, step by step, where no engine is: its size, and an answer
# make soak, fuzz, mutation, audit, sbom, requirements   by hand: see SECURITY.md
PYTHON ?= python3
SAMPLE := tests/assets/sst2-tiny
PIP := -m pip --disable-pip-version-check install --quiet -c constraints.txt
# Every file that pip fetches must have a hash that stands in requirements/. Not so where PyTorch is installed: its CPU
# build comes from elsewhere than PyPI, which has only the one for CUDA, so that there is no one hash to write down.
HASHED := -m pip --disable-pip-version-check install --quiet --require-hashes
OURS := -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation
PIP5 := -m pip --disable-pip-version-check install --quiet -c constraints-transformers5.txt
# From inside another environment, so that nothing of the repository but the tests is on its path.
PYTEST_THERE := TORCHLESS_TEST_BUNDLE=$(CURDIR)/.cache/bundle TORCHLESS_TEST_FEATURES_BUNDLE=$(CURDIR)/.cache/features \
	bin/pytest -q -c ../pyproject.toml --rootdir .. -p no:cacheprovider
CHECKPOINT ?= $(SAMPLE)
WORKLOADS ?= standard
FLAGS ?=
PEERS ?= .cache/bench/$(notdir $(CHECKPOINT:/=))

.PHONY: demo test lint bench image clean soak fuzz mutation audit sbom requirements

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
	.venv-dev/bin/coverage report --include='runtime/*' --fail-under=95 --format=total
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
.venv/.ready: pyproject.toml requirements/export.txt requirements/build.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torchless needs Python 3.11 or newer, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv .venv
	.venv/bin/python $(HASHED) -r requirements/export.txt -r requirements/build.txt
	.venv/bin/python $(OURS) -e .
	touch $@

.venv/.test: .venv/.ready requirements/test.txt
	.venv/bin/python $(HASHED) -r requirements/test.txt
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
	.venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation -w dist .
	touch $@

# What a user of the runtime has: the built wheel with [cpu], and pytest; no torch, transformers or onnx.
.venv-lean/.ready: dist/.built requirements/runtime.txt requirements/test.txt
	rm -rf .venv-lean
	$(PYTHON) -m venv .venv-lean
	.venv-lean/bin/python $(HASHED) -r requirements/runtime.txt -r requirements/test.txt
	.venv-lean/bin/python $(OURS) dist/*.whl
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

# Uses a pipeline hard: 64 threads for a minute, 200,000 texts; FLAGS=--seconds 600, ...
soak: .venv/.ready
	.venv/bin/torchless export --force $(SAMPLE) .cache/soak
	.venv/bin/python tests/soak.py .cache/soak $(FLAGS)

# Fuzzes what reads files: TARGET is one of those in fuzz/targets.py. What it finds stays in .cache/fuzz.
TARGET ?= manifest
SECONDS ?= 300
fuzz: .venv-tools/.ready
	mkdir -p .cache/fuzz/$(TARGET)
	cd .cache/fuzz && ../../.venv-tools/bin/python ../../fuzz/targets.py $(TARGET) -max_total_time=$(SECONDS) -max_len=20000 \
		$(TARGET) ../../fuzz/corpus/$(TARGET)

# Changes a module in every small way, and shows which changes no test of it notices: MODULE=bundle, postprocess, batching,
# onnx_file. Its tests are test_bundle.py and test_bundle_*.py.
MODULE ?= bundle
MUTANTS := .cache/mutation/$(MODULE)
mutation: .venv/.test .venv-tools/.ready
	rm -rf $(MUTANTS) && mkdir -p $(MUTANTS)
	.venv/bin/torchless export --force $(SAMPLE) .cache/mutation/sample
	git ls-files -z runtime export tests pyproject.toml | tar -c --null -T - | tar -x -C $(MUTANTS)
	sed -e 's#@MODULE@#$(MODULE)#' -e 's#@PYTHON@#$(CURDIR)/.venv/bin/python#' \
		-e 's#@TESTS@#$(wildcard tests/runtime/test_$(MODULE).py tests/runtime/test_$(MODULE)_*.py)#' \
		tests/mutation.toml > $(MUTANTS)/session.toml
	cd $(MUTANTS) && export PATH=$(CURDIR)/.venv-tools/bin:$$PATH PYTHONPATH=runtime:export PYTHONDONTWRITEBYTECODE=1 \
		TORCHLESS_TEST_BUNDLE=$(CURDIR)/.cache/mutation/sample && cosmic-ray init session.toml session.sqlite && \
		cr-filter-operators session.sqlite session.toml && cosmic-ray exec session.toml session.sqlite && \
		cr-report session.sqlite --show-diff --surviving-only

# Not in CI, which cannot reach the database of vulnerabilities (api.osv.dev).
audit: .venv-tools/.ready
	.venv-tools/bin/pip-audit --disable-pip --require-hashes --vulnerability-service osv \
		$(foreach name,runtime export test build,-r requirements/$(name).txt)

# What is in an installation of the runtime, with hashes, as CycloneDX.
sbom: .venv-tools/.ready
	mkdir -p dist
	.venv-tools/bin/cyclonedx-py requirements requirements/runtime.txt --pyproject pyproject.toml --output-reproducible \
		-o dist/torchless.cdx.json

requirements: .venv-tools/.ready
	cd requirements && for name in runtime export test build; do ../.venv-tools/bin/pip-compile --quiet --generate-hashes \
		--allow-unsafe --no-strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o $$name.txt $$name.in; done

# Tools that are used by hand.
.venv-tools/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python $(PIP) "pip>=25.1"
	.venv-tools/bin/python $(PIP) -e ".[cpu,export]" --group tools
	touch $@

clean:
	rm -rf .venv .venv-tools .venv-dev .venv-bench .venv-lean .venv-transformers5 .cache demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
