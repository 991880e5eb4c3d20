# Everything from a fresh clone: needs Python 3.11+, git and make.
PYTHON ?= python3
BIN := .venv/bin
SCALE ?= cpu
# Tests start hundreds of processes: each would compile the code anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo real test slow coverage golden check docs schemas clean

demo: .venv/ready
	$(BIN)/btx demo --dir demo

# The same story on a real language model, SmolLM2-135M; SCALE=gpu: more text, on a GPU.
real: .venv/ready
	$(BIN)/python benchmarks/real/run.py --dir real --scale $(SCALE)

test: .venv/ready-test
	$(MAKE) -j 2 check docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The tests that take long, which `make test` leaves out: run before a release.
slow: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# What the tests execute, line by line; code in started processes is not counted.
coverage: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov -m 'slow or not slow'

# A workspace that the code before this release made, read and worked in by today's code.
golden: .venv/ready-test
	[ -d .golden/workspace ] || tests/golden/make.sh .golden
	BTX_GOLDEN=$(CURDIR)/.golden $(BIN)/python -m pytest tests/golden

check: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as pages in build/docs: every warning is an error, nothing is fetched.
docs: .venv/ready-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The JSON Schemas in docs/schemas, derived from the records.
schemas: .venv/ready
	$(BIN)/python -m registry.records.schemas docs/schemas

# torch first and pinned: the plain CPU build; a range would fetch gigabytes of GPU libraries.
.venv/ready: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c .ci/constraints.txt torch
	$(BIN)/pip install --quiet -c .ci/constraints.txt -e '.[train]'
	touch $@

.venv/ready-test: .venv/ready
	$(BIN)/pip install --quiet --no-compile -c .ci/constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build demo real real-sources
