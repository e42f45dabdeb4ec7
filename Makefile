# Everything a person types. `make` alone lists it. ARGS="..." is passed on by up, test, test-all and bench.

PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
SETUP := $(PYTHON) tools/setup_env.py
SERVERS := $(PYTHON) tools/setup_redis_servers.py
HELM := $(PYTHON) tools/setup_helm.py
NODE := $(PYTHON) tools/setup_node.py

.DEFAULT_GOAL := help
.PHONY: help up test test-all test-compose test-open-webui chaos lint format lock release-check pin-images bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## install what is needed, then serve until Ctrl-C (ARGS="--port 8181")
	@$(SETUP)
	@$(BIN)/penstock up $(ARGS)

# More processes than the two cores that this is tuned for: a test waits for half of its time. The slow folders begin
# (testpaths), so that no long file is left for the end.
TEST_PROCESSES ?= 4
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder --durations 20

# Hundreds of processes of the product start: none compiles it again.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: ## install what is needed, then run the tests that a change must pass (ARGS="tests/unit -k lease")
	@$(SETUP) --browser --prometheus
	@$(SERVERS)
	@$(HELM)
	@$(NODE)
	@$(PYTEST) -m "not full" $(ARGS)

test-all: ## every test: browser, Sentinel, backup, every fault and long chaos too
	@$(SETUP) --browser --prometheus --shells
	@$(SERVERS)
	@$(HELM)
	@$(NODE)
	@$(PYTEST) $(ARGS)

test-compose: ## docker-compose.yml built, brought up and taken down on Podman (Debian, as root; 10 minutes, 15 GB)
	@$(SETUP) --containers
	@$(BIN)/python -m pytest tests/heavy/test_compose.py $(ARGS)

test-open-webui: ## Open WebUI chats through Penstock in a real browser (2.5 GB of packages in .venv-open-webui)
	@$(SETUP) --browser
	@$(PYTHON) tools/setup_open_webui.py
	@$(BIN)/python -m pytest tests/heavy/test_open_webui.py $(ARGS)

SEED ?= 1
MINUTES ?= 30
ENGINE ?= simulated

chaos: ## random faults under load (SEED=1 MINUTES=30 ENGINE=simulated|vllm)
	@$(SETUP)
	$(BIN)/python -m tests.chaos.run --seed $(SEED) --minutes $(MINUTES) --engine $(ENGINE) $(ARGS)

lint: ## style, format, types, and what files say of each other
	@$(SETUP) --prometheus
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(NODE) run --silent check
	$(BIN)/python -m pytest -q tests/lint

format: ## rewrite the files as the formatter wants them
	@$(SETUP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock files hold for every platform and Python that we support. The resolver reads vLLM's own requirements from
# its package; requirements/cpu-overrides.txt takes out what must not come from the plain registry. torch's CPU build
# is in no lock file, and so the only package that is installed without a hash.
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --generate-hashes \
	--custom-compile-command "make lock"
NO_TORCH := $(foreach name,torch torchvision torchaudio torchcodec triton,--no-emit-package $(name))

lock: ## compile requirements/*.lock anew (needs uv; ARGS="--upgrade" or "--upgrade-package NAME")
	$(LOCK) $(ARGS) -o requirements/client.lock pyproject.toml
	$(LOCK) $(ARGS) -o requirements/cpu.lock pyproject.toml requirements/cpu.in --group server --group dev --group docs \
		--override requirements/cpu-overrides.txt $(NO_TORCH)
	$(LOCK) $(ARGS) -o requirements/gpu.lock pyproject.toml requirements/gpu.in --group server --group dev --group docs
	@# What the container images install: the versions above, without the test tools.
	$(LOCK) -o requirements/image-api.lock pyproject.toml --group server -c requirements/cpu.lock
	$(LOCK) -o requirements/image-operator.lock pyproject.toml --group operator -c requirements/cpu.lock
	$(LOCK) -o requirements/image-worker-cpu.lock pyproject.toml requirements/cpu.in --group server \
		-c requirements/cpu.lock --override requirements/cpu-overrides.txt $(NO_TORCH)
	$(LOCK) -o requirements/image-worker-gpu.lock pyproject.toml requirements/gpu.in --group server \
		-c requirements/gpu.lock
	$(LOCK) $(ARGS) -o requirements/release.lock --group pyproject.toml:release
	$(LOCK) $(ARGS) -o requirements/node.lock requirements/node.in
	@# What benchmarks/peers.py measures beside us, each in an environment of its own.
	@set -e; for peer in litellm celery arq taskiq docket; do \
		$(LOCK) $(ARGS) -o benchmarks/_peers/$$peer.lock benchmarks/_peers/$$peer.in; done

# Wheel, images' contexts, chart and npm package, with bills of materials and licences, each tried where nothing else is.
release-check: ## build what a release has into build/release/ and try each part (ARGS="--without worker")
	@$(SETUP)
	@$(HELM)
	@$(NODE)
	@$(BIN)/python tools/release_check.py $(ARGS)

pin-images: ## name every foreign image by its digest (needs docker or skopeo, and the registries)
	@$(PYTHON) tools/pin_images.py

bench: ## every benchmark; rewrites the tables of docs/benchmarks.md (ARGS="--quick", "--list", "--only NAME")
	@$(SETUP)
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: ## write the generated pages anew, and build the documentation as a site: site/index.html
	@$(SETUP)
	$(BIN)/python tools/gen_docs.py
	$(BIN)/python tools/gen_acl.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@$(NODE) run --silent docs -- --logLevel Error --out ../../site/reference/typescript
	@echo "open site/index.html"

clean: ## remove .venv and every cache (the data in .penstock stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site *.egg-info
	rm -rf clients/typescript/node_modules clients/typescript/dist clients/typescript/src/openapi.ts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
