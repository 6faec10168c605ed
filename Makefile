# Every path is relative, and .venv's commands are called through its Python: both hold in a folder with a space in its name.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
PY := .venv/bin/python
NEWEST := .venv-newest/bin/python

.PHONY: help venv optional demo test test-fast test-newest notebook notebooks tutorials docs clean

help:
	@echo 'make demo       install into .venv, then train and tag the demo catalog into demo_run/'
	@echo 'make test       install into .venv, then run every check: notebooks, exports, README, pytest'
	@echo 'make test-fast  run what a change since main touches: its pages, then tests by their imports, the nearest first; under two minutes'
	@echo 'make test-newest   the tests with the newest release of every package, in .venv-newest; those that need nbdev are skipped'
	@echo 'make optional   install what a few tests need besides: Ray, pyarrow, a vector database; without it they are skipped'
	@echo 'make notebook NB=catalog/08_split  run one page, store its outputs and say what changed; then make notebooks'
	@echo 'make notebooks  clean the notebooks, export the modules, write README.md'
	@echo 'make tutorials  run the tutorials at full size and store their outputs; on real data where CATALOG_TAGGER_DATA names it'
	@echo 'make docs       build the documentation site into _docs/'
	@echo 'make clean      remove what the others made, .venv and .venv-newest excepted'
	@echo 'Needs Python 3.11 or newer; another one: make PYTHON=/path/to/python test'

venv: .venv/.installed

.venv/.installed: settings.ini setup.py
	@"$(PYTHON)" -c 'import sys; sys.exit("Python 3.11 or newer is needed, name one: make PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || "$(PYTHON)" -m venv .venv
	@echo 'Installing into .venv: on a fresh machine some gigabytes and several minutes'
	@$(PY) -m pip install --quiet -e '.[dev,test]'
	@touch $@

optional: .venv/.optional

.venv/.optional: .venv/.installed
	@$(PY) -m pip install --quiet -e '.[ci]'
	@touch $@

demo: venv
	rm -rf demo_run
	$(PY) -m catalog_tagger.apps.cli demo --out demo_run

test: venv
	@$(PY) scripts/check.py

test-fast: notebooks
	@$(PY) scripts/fast.py

notebook: notebooks   # before too, for a page may read the module that it exports
	@$(PY) scripts/notebook.py $(NB)
	@$(MAKE) --no-print-directory notebooks

# eager: without it pip leaves what is there already and new enough
test-newest:
	@test -x $(NEWEST) || "$(PYTHON)" -m venv .venv-newest
	@$(NEWEST) -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[test]'
	@$(NEWEST) --version; $(NEWEST) -m pip list
	OMP_NUM_THREADS=1 $(NEWEST) -m pytest tests -q -n 2 --dist loadfile -rs

notebooks: venv
	$(PY) -c 'from nbdev.clean import nbdev_clean; nbdev_clean()'
	$(PY) -c 'from nbdev.doclinks import nbdev_export; nbdev_export()'
	$(PY) scripts/readme.py

tutorials: venv
	$(PY) scripts/tutorials.py

docs: venv
	$(PY) scripts/docs.py

clean:
	rm -rf _docs demo_run build dist catalog_tagger.egg-info .pytest_cache
	find . -name '.venv*' -prune -o -type d '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf '{}' +
