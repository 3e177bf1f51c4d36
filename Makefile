# `make demo` and `make test` set everything up by themselves, in .venv alone.
#   LIGHT=1          without detection and segmentation: no compiler, minutes less, in .venv-light
#   STACK=upstream   the original OpenMMLab packages, in .venv-upstream     PYTHON=/path/to/python3.11
#   DATA=/folder     images for the demo                                    JOBS=4  processes for the tests
STACK ?= maintained
JOBS ?= 2
PY := .venv$(if $(filter upstream,$(STACK)),-upstream)$(if $(LIGHT),-light)/bin/python

.PHONY: help setup demo test test-long lint format pictures
help:
	@echo "make demo [DATA=/folder/of/images]   the main job on a small default"
	@echo "make ... LIGHT=1                     the same without detection and segmentation, ready in 3 minutes"
	@echo "make test [STACK=upstream]           ruff and pytest"
	@echo "make test-long                       long tests, GPU benchmarks rehearsed on a CPU, faults"
	@echo "make docs                            these pages and the API as a site, links checked: site/index.html"
	@echo "make lint, make format               ruff alone"
	@echo "make pictures [CKPT=FILE]            the README's, painted by the demo's model or CKPT"

setup:
	@bash tools/setup_env.sh "$(STACK)" $(LIGHT)

demo: setup
	$(PY) tools/demo.py $(if $(DATA),--data "$(DATA)")

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# One thread a process: more would only wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest $(LIGHT:1=--light) -n $(JOBS) --dist loadgroup

# About 30 min more: tests marked long, the GPU benchmarks rehearsed on a CPU, 118 faults.
test-long: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest $(LIGHT:1=--light) -m long -n $(JOBS) --dist loadgroup
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.gpu --rehearse
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.faults --out work_dirs/faults.json

# The site needs neither torch nor .venv.
.venv-docs/done: requirements/docs.txt
	$(or $(PYTHON),python3) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q --disable-pip-version-check -r requirements/docs.txt
	touch $@

.PHONY: docs
docs: .venv-docs/done
	PATH="$(CURDIR)/.venv-docs/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build
	@echo "site/index.html"

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Of docs/images; a checkpoint of another model than the demo's needs its CONFIG. PICTURE=FILE paints another image.
pictures: setup
	OMP_NUM_THREADS=1 $(PY) -m docs.pictures $(if $(CKPT),--checkpoint "$(CKPT)") \
		$(if $(CONFIG),--config "$(CONFIG)") $(if $(PICTURE),--picture "$(PICTURE)")
