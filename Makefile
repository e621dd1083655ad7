# Two commands: `make run` for the main job, `make test` for the tests. Both call `make setup` first.
VENV := .venv
PYTHON ?= python3
PIP := $(VENV)/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup run test lint docs clean

setup: $(VENV)/.installed

# torch comes first and pinned: whatever needs it then takes the one that is there.
$(VENV)/.installed: constraints.txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	touch $@

run: setup
	$(VENV)/bin/stillhouse run kd-digits

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

docs: setup
	$(VENV)/bin/python -m stillhouse.catalog.page

clean:
	rm -rf $(VENV) runs
