.PHONY: install train test test-long test-all sanitize wheel bench bench-table gates docs lint format

install:
	pip install -c constraints.txt '.[dev]'

train:
	pip install -c constraints.txt . && asose-fast train

test:
	pip install -c constraints.txt '.[test]' && pytest --numprocesses=auto --dist=loadfile

# What `test` leaves out, in the environment that it made.
test-long:
	pytest -m long --numprocesses=auto --dist=loadfile

test-all: test
	$(MAKE) test-long

sanitize:
	tests/sanitize.sh

wheel:
	tests/wheel.sh

bench:
	pip install -c constraints.txt '.[test]' && pytest benchmarks

# README's tables: measures their rows and writes them.
bench-table:
	python -m benchmarks.table --measure

gates:
	python -m benchmarks.counts --check
	python -m benchmarks.gate

# The site, in site/: without network, and without a warning.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache --no-logo
	clang-format --dry-run -Werror $$(git ls-files 'csrc/*' 'tests/cuda_emulation/*.[ch]*')

format:
	ruff check --fix .
	ruff format .
	clang-format -i $$(git ls-files 'csrc/*' 'tests/cuda_emulation/*.[ch]*')
