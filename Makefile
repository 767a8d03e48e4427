.PHONY: install train test sanitize bench lint format

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

lint:
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $$(git ls-files 'csrc/*' 'tests/cuda_emulation/*.[ch]*')

format:
	ruff check --fix .
	ruff format .
	clang-format -i $$(git ls-files 'csrc/*' 'tests/cuda_emulation/*.[ch]*')
