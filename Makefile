# Everything happens in .venv, which tools/bootstrap.py makes and keeps up to date. Nothing else has to be installed.
# PYTHON chooses the Python that .venv is made with; ARGS are passed through to the command.

PYTHON ?= python3
CONSTRAINTS ?= requirements/tested.txt
ARGS ?=

BIN := .venv/bin
BOOTSTRAP = @command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	echo "mechlib needs Python 3.11 or newer, and there is no $(PYTHON) on this machine: install it from https://www.python.org/downloads/."; exit 1; }; \
	"$(PYTHON)" tools/bootstrap.py --constraints "$(CONSTRAINTS)" --extras

.DEFAULT_GOAL := help
.PHONY: help lab test verify release grade-demo lint clean

help:  ## show this text
	@echo "mechlib: a notebook course in mechanistic interpretability"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-11s %s\n", $$1, $$2 }'
	@echo
	@echo 'Options: make lab ARGS="--no-browser --port=8899"    make test ARGS="-k superposition -x"'
	@echo '         make lab PYTHON=python3.12                 (the Python that .venv is made with)'
	@echo '         make lab TORCH=cpu | TORCH=default         (the CPU build of torch, or whatever pip finds)'

lab:  ## open the chapters in JupyterLab
	$(BOOTSTRAP) lab
	@$(BIN)/python -m mechlib lab $(ARGS)

test:  ## run every test
	$(BOOTSTRAP) lab,grade,dev
	@$(BIN)/python -m pytest $(ARGS)

verify:  ## run the long experiments too (hours), with the versions they ran on
	$(BOOTSTRAP) lab,grade,dev
	@$(BIN)/python -m pytest -m slow --durations=0 --timeout=0 $(ARGS)

release:  ## make the solved and the students' notebooks from solutions/*.py
	$(BOOTSTRAP) lab,grade,dev
	@$(BIN)/python -m mechlib release $(ARGS)

grade-demo:  ## grade a made-up class in grade-demo/, from submissions to feedback
	$(BOOTSTRAP) lab,grade,dev
	@$(BIN)/python -m mechlib.grading.demo $(ARGS)

lint:  ## check the style and the types
	$(BOOTSTRAP) lab,grade,dev
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

clean:  ## remove .venv and everything that can be made again
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis grade-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
