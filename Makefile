# Everything a newcomer, a developer and CI need. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Another package index for torch's CPU build, e.g. make setup TORCH_INDEX=https://…/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0
# How many histories the twin test plays: make twin N=10000
N ?= 10000
# What `make bench-index` measures, and where it keeps vectors and built indexes, e.g. SIZES=100k,1m
SIZES ?= 100k
INDEXES ?= build/indexes

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup setup-dev demo serve test check format twin faults bench bench-hierarchy bench-growth bench-load bench-checked calibrate bench-reader bench-batching bench-beyond bench-index lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.base: requirements.lock pyproject.toml
	@echo "==> Making $(VENV) and installing what Lethe needs (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base requirements-dev.lock
	@echo "==> Installing what tests and checks need"
	$(BIN)/pip install --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.base ## Make .venv with .venv/bin/lethe

setup-dev: $(VENV)/.dev

demo: setup ## Run the whole story on the example documents
	$(BIN)/python examples/demo.py

serve: setup ## Serve on http://127.0.0.1:8700
	$(BIN)/lethe serve

check: setup-dev ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## Lint, type-check, and pass all tests
	$(BIN)/lethe models get all-minilm-l6-v2
	$(BIN)/python -m pytest -n 2 --dist worksteal

format: setup-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

twin: setup-dev ## Play N random histories against their twins
	LETHE_TWIN_HISTORIES=$(N) $(BIN)/python -m pytest tests/properties/test_twin.py

faults: setup-dev ## Inject every fault, kill every process; writes bench/results/faults.json
	LETHE_FAULTS=all $(BIN)/python -m pytest -n 2 --dist worksteal tests/faults

bench: setup-dev ## Measure; writes bench/results/main.json
	$(BIN)/python -m bench.main

bench-hierarchy: setup-dev ## Measure what the hierarchy brings and costs; writes bench/results/hierarchy.json
	$(BIN)/python -m bench.hierarchy
	$(BIN)/python -m bench.topics

bench-growth: setup-dev ## Recall over HTTP at 10,000, 100,000 and a million passages; writes bench/results/growth.json
	$(BIN)/python -m bench.growth --vectors $(INDEXES)/vectors

bench-beyond: setup-dev ## Needles in a memory beyond the window, a million tokens; writes bench/results/beyond.json
	$(BIN)/python -m bench.beyond --tokens 64k,256k,1m --kept $(INDEXES)/beyond

bench-streams: setup-dev ## Feed two hours of film; writes bench/results/streams.json
	$(BIN)/python -m bench.streams

bench-load: setup-dev ## Load it for ten minutes on SQLite and on PostgreSQL; writes bench/results/load.json
	$(BIN)/python -m bench.load

bench-checked: setup-dev ## Are answers carried by what they cite? Writes bench/results/checked.json
	$(BIN)/python -m bench.checked

calibrate: setup-dev ## Fit anew how sure answers are; writes reader/calibration.py
	$(BIN)/python -m bench.calibrate_abstention --confidence --write --train 600 --held-out 300

PEERS := .venv-peers

$(PEERS)/.done: $(VENV)/.dev bench/requirements-peers.txt
	@echo "==> Making $(PEERS), which sees $(VENV), for the peers"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/lethe.pth"
	$(PEERS)/bin/pip install --no-deps -r bench/requirements-peers.txt
	@touch $@

bench-reader: $(PEERS)/.done ## Measure the reader over remembered keys and values beside llama.cpp; writes bench/results/reader.json
	$(PEERS)/bin/python -m bench.reader

bench-batching: setup-dev ## Tokens a second that readings write together and in turn; writes bench/results/batching.json
	$(BIN)/python -m bench.batching

bench-index: $(PEERS)/.done ## Measure the vector index beside its peers; SIZES=100k,1m,10m; writes bench/results/index.json
	$(PEERS)/bin/python -m bench.index --vectors $(INDEXES)/vectors --built $(INDEXES)/built --sizes $(SIZES)

lock: setup-dev ## Pin every dependency anew, with hashes
	$(BIN)/pip install pip-tools
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --unsafe-package torch --unsafe-package opencv-python --allow-unsafe -o requirements.lock requirements.in
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --unsafe-package torch --unsafe-package opencv-python --allow-unsafe -o requirements-dev.lock requirements-dev.in
	# Text recognition asks for opencv-python, with windows and a desktop's libraries; the headless one does.
	sed -i '/^opencv-python==/,/# via rapidocr-onnxruntime/d' requirements.lock requirements-dev.lock

clean: ## Remove what was made, but not data or models
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .hypothesis build *.egg-info
