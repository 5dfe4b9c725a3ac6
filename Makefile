# began: two commands do everything on a machine with Rust, Python 3 with pip, a C++ compiler and make:
#   make demo    set up, build, train on made-up faces across processes, leave pictures
#   make test    set up, build, run all tests
# Both fetch only from PyPI and crates.io, and go on where they were interrupted.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
DEMO ?= runs/demo

.PHONY: help setup build image demo test test-kubernetes kubernetes-manifests test-slurm campaign study lint doc bench bench-recovery bench-coordinator bench-cost chaos conform gpu-pack gpu-check gpu-rehearsal oracles clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## fetch libtorch 2.11.0 from PyPI into third_party/ (once; skipped where LIBTORCH points at one)
	@$(PYTHON) setup/libtorch.py

build: setup ## build launcher, coordinator and trainer into bin/
	@echo "build: compiling (the first time takes a few minutes)"
	cargo build --workspace --bins
	@mkdir -p bin && for name in launcher coordinator trainer simulate bench-coordinator; do ln -sf ../target/debug/$$name bin/$$name; done

image: setup ## what a container image holds: launcher, coordinator and trainer, optimised, in image/bin
	cargo build --release --package launcher --package coordinator --package trainer --bins
	@mkdir -p image/bin && cp target/release/launcher target/release/coordinator target/release/trainer image/bin/

demo: build ## train on made-up faces with two trainers; pictures in runs/demo/samples
	@if [ -f $(DEMO)/run.toml ]; then \
	  echo "demo: $(DEMO) is there; going on with it"; \
	  bin/launcher resume $(DEMO) --gpus 2 --device cpu; \
	else \
	  [ -f prepared/faces-32/manifest.json ] || bin/trainer prepare synthetic:faces --out prepared/faces-32 --size 32 --count 6000 --seed 1; \
	  bin/launcher --nodes 1 --gpus 2 --device cpu --preset demo --data prepared/faces-32 --run $(DEMO); \
	fi
	@echo "demo: pictures in $(DEMO)/samples, the newest:" && ls $(DEMO)/samples | tail -1

test: export BEGAN_BINARIES := $(CURDIR)/target/debug
test: build ## all tests
	@$(PYTHON) setup/axe.py
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace --no-fail-fast; \
	else \
	  cargo test --workspace --no-fail-fast; \
	fi

# A stamp of what was installed: pip is asked only when that changes.
.venv-kubernetes/installed: deploy/kubernetes/requirements.txt
	@$(PYTHON) -m venv .venv-kubernetes && .venv-kubernetes/bin/python -m pip install --quiet --requirement $<
	@touch $@

test-kubernetes: build .venv-kubernetes/installed ## manifests against Kubernetes 1.29 and newer, and the Dockerfiles, without a cluster or an engine
	@.venv-kubernetes/bin/python deploy/kubernetes/validate.py --launcher bin/launcher --count $${COUNT:-60} --seed $${SEED:-1}
	@.venv-kubernetes/bin/python deploy/docker/check.py

kubernetes-manifests: build ## print the cases in deploy/kubernetes again
	@deploy/kubernetes/print.sh bin/launcher

test-slurm: export BEGAN_BINARIES := $(CURDIR)/target/debug
test-slurm: build ## runs in a real SLURM of four nodes on this machine (needs root, munge, slurmctld, slurmd, slurm-client)
	cargo test -p began-tests --test slurm -- --nocapture

campaign: build ## one run on 1x1, 1x2, 2x2, 4x2 and with faults, on CPUs: one digest; the table in runs/campaign
	bin/launcher campaign deploy/reproduce/campaign.toml --out runs/campaign

study: build ## the runs of docs/equilibrium.md, compared; about half an hour on two cores, in runs/study
	@deploy/reproduce/study.sh runs/study

lint: setup ## format check, clippy and docs, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

doc: setup ## the API's documentation, in target/doc
	cargo doc --workspace --no-deps

bench: build ## images/s of the training step, beside PyTorch's ways to write it, one thread each
	@$(PYTHON) benches/step.py

bench-recovery: build ## from kill -9 to the next committed step, beside torchrun's figure for the same kill
	@$(PYTHON) benches/recovery.py

bench-coordinator: ## generations, broken streams, silence and steps with 32, 256 and 1,024 made-up trainers; built as an image is
	cargo build --release --package coordinator --package bench-coordinator --bins
	@target/release/bench-coordinator

bench-cost: build ## a step with everything on beside a bare one, 4 trainers, 64 px
	@$(PYTHON) benches/cost.py

chaos: build ## 10,000 simulated histories, then a real run through 100 random faults, checked against an undisturbed one
	@bin/simulate --histories $${HISTORIES:-10000}
	@$(PYTHON) benches/chaos.py

gpu-pack: build ## pack what a GPU machine needs into gpu-pack.tar.xz; prints the line that runs it there
	@$(PYTHON) gpu/pack.py

gpu-check: build ## the same, and check everything that needs a GPU if this machine has one
	@$(PYTHON) gpu/pack.py --check

gpu-rehearsal: gpu-pack ## the GPU check from nothing but its archive, on a CPU, whole and broken on purpose (5 GB from PyPI)
	@$(PYTHON) gpu/rehearsal.py

conform: build ## the step against fixtures made by PyTorch
	@for fixture in tests/fixtures/*.safetensors; do bin/trainer conform $$fixture --quiet || exit 1; done

oracles: ## compute again what public implementations of the scores say (several GB of PyTorch into .venv-oracles)
	@$(PYTHON) -m venv .venv-oracles && .venv-oracles/bin/python -m pip install --quiet --requirement tests/oracles/requirements.txt
	@.venv-oracles/bin/python tests/oracles/make.py

clean: ## remove what was built (libtorch and runs stay)
	cargo clean
	rm -rf bin
