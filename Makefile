.PHONY: install train test sanitize bench docs lint format

install:
	pip install -c constraints.txt '.[dev]'

train:
	pip install -c constraints.txt . && python -m asose_fast.train

test:
	pip install -c constraints.txt '.[test]' && pytest

sanitize:
	tests/sanitize.sh

bench:
	pip install -c constraints.txt '.[test]' && pytest benchmarks

# The site, in site/: without network, and without a warning.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lint:
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $$(git ls-files 'csrc/*')

format:
	ruff check --fix .
	ruff format .
	clang-format -i $$(git ls-files 'csrc/*')
