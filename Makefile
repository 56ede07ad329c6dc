# `make` lists the targets. Every target sets up .venv first (bootstrap.sh), which takes seconds once it is there.
SHELL := /bin/bash
STORE ?= .hanforge/demo
RECIPE ?= demo
RUN ?= latest
STAGE ?=
SEED ?= 1
KILLS ?= 100
PODS ?= 8
POD_KILLS ?= 48
BIN := .venv/bin
HANFORGE := $(BIN)/hanforge
STORE_OPTION := --store $(STORE)

.DEFAULT_GOAL := help
.PHONY: base-image images run-stage run-chain
.PHONY: help setup demo demo-smollm test crash-test lint bench plan status logs why clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything into .venv (the other targets do this themselves)
	@PYTHON="$(PYTHON)" ./bootstrap.sh

demo: setup ## The whole chain on tiny models, 8 to 15 minutes on 2 cores [STORE=s3://bucket/folder]
	@$(BIN)/python examples/demo/run.py $(STORE_OPTION)

demo-smollm: setup ## SmolLM2-135M learns Korean numbers: train, merge, evaluate, serve [STORE=...]
	@$(BIN)/python examples/smollm/run.py $(STORE_OPTION)

test: setup ## The tests: real S3 API, real vLLM, killed processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile

crash-test: setup ## The crash campaigns, longer and seeded [SEED=1] [KILLS=100] [PODS=8] [POD_KILLS=48]
	@HANFORGE_CRASH_SEED=$(SEED) HANFORGE_CRASH_KILLS=$(KILLS) HANFORGE_CRASH_PODS=$(PODS) \
		HANFORGE_CRASH_POD_KILLS=$(POD_KILLS) $(BIN)/python -m pytest tests/crash -s

lint: setup ## ruff and strict mypy
	@$(BIN)/ruff check . && $(BIN)/mypy && echo "lint: clean"

bench: setup ## Benchmarks of this machine: prepare, augment, merge, and the training path on tiny shapes
	@$(BIN)/python -m benchmarks.prepare
	@$(BIN)/python -m benchmarks.augment
	@$(BIN)/python -m benchmarks.merge
	@$(BIN)/python benchmarks/train.py --case all --tiny

# --- images: built and run by docker alone, nothing of .venv ---
IMAGES ?= data,train,serve
CPU ?=
BASE ?=
ARGS ?=

base-image: ## A base image by debootstrap, where none can be pulled (root) [MIRROR=] [TAG=]
	@images/base.sh

images: ## Build the images and print their sizes [IMAGES=data,train,serve] [CPU=1 for vLLM on the CPU] [BASE=]
	@python3 -m images.build --images "$(IMAGES)" $(if $(CPU),--cpu) $(if $(BASE),--base $(BASE))

run-stage: ## One stage in docker: STAGE=phase2 [RECIPE=demo] [STORE=...] [ARGS="--set phase2.max_steps=10"]
	@python3 -m images.run $(RECIPE) --store $(STORE) --only $(or $(STAGE),"") $(ARGS)

run-chain: ## A recipe's whole chain in docker: [RECIPE=demo] [STORE=...] [ARGS=...]
	@python3 -m images.run $(RECIPE) --store $(STORE) $(ARGS)

plan: setup ## What a recipe would do: RECIPE=korean-vla
	@$(HANFORGE) plan $(RECIPE) $(STORE_OPTION)

status: setup ## The stages of a run: [RUN=latest] [STORE=...]
	@$(HANFORGE) status $(RUN) $(STORE_OPTION)

logs: setup ## What a stage's processes said: STAGE=phase1 [RUN=latest] [STORE=...]
	@$(HANFORGE) logs $(STAGE) --run $(RUN) $(STORE_OPTION)

why: setup ## Why a stage is not done: [RUN=latest] [STORE=...]
	@$(HANFORGE) why $(RUN) $(STORE_OPTION)

# --- on a cluster: the kubeconfig's; NAMESPACE, VALUES=my.yaml (store, secret, images), PROFILE, RELEASE, OPTIONS='--any-nodes' ---
FROM ?=
TARGET = $(if $(NAMESPACE),--namespace $(NAMESPACE))
DEPLOY_OPTIONS = $(TARGET) $(foreach file,$(VALUES),--values $(file)) $(if $(PROFILE),--profile $(PROFILE)) \
	$(if $(RELEASE),--release $(RELEASE)) $(if $(filter command environment,$(firstword $(origin STORE))),$(STORE_OPTION)) $(OPTIONS)
.PHONY: deploy-stage deploy-chain deploy-serve stop retry

deploy-stage: setup ## One stage on the cluster: STAGE=phase2 [RECIPE=] [PROFILE=] [NAMESPACE=] [VALUES=] [STORE=s3://...]
	@$(HANFORGE) deploy stage '$(STAGE)' --recipe $(RECIPE) $(DEPLOY_OPTIONS)

deploy-chain: setup ## The whole chain on the cluster: [RECIPE=] [PROFILE=] [NAMESPACE=] [VALUES=] [STORE=s3://...]
	@$(HANFORGE) deploy chain $(RECIPE) $(DEPLOY_OPTIONS)

deploy-serve: setup ## vLLM with the promoted model on the cluster: [RECIPE=] [PROFILE=] [NAMESPACE=] [VALUES=]
	@$(HANFORGE) deploy serve $(RECIPE) $(DEPLOY_OPTIONS)

stop: setup ## Stop a release; its progress stays: [RELEASE=demo] [NAMESPACE=]
	@$(HANFORGE) stop $(or $(RELEASE),$(RECIPE)) $(TARGET)

retry: setup ## Let a release go on after it failed or was stopped: [RELEASE=demo] [FROM=phase2] [NAMESPACE=]
	@$(HANFORGE) retry $(or $(RELEASE),$(RECIPE)) $(if $(FROM),--from $(FROM)) $(TARGET)

clean: ## Remove what demos and tests made; .venv and other stores stay
	rm -rf .hanforge/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# --- a Kubernetes cluster to test on (docs/cluster.md)
.PHONY: cluster-up cluster-down
cluster-up: setup ## A Kubernetes to test on: yours, kind's, or two nodes built here [USE=auto|existing|kind|own]
	@$(BIN)/python -m tests.cluster.up --use $(or $(USE),auto)

cluster-down: setup ## End the cluster that cluster-up started
	@$(BIN)/python -m tests.cluster.down

.PHONY: test-cluster
test-cluster: setup ## Every proof on a real cluster with the images made here; ends what it starts [USE=own|kind|existing]
	@$(BIN)/python -m tests.acceptance

# --- charts (docs/charts.md)
.PHONY: chart-files
chart-files: setup ## Bring recipes, profiles, schemas and tables of values in the charts up to date
	@$(BIN)/python -m charts.generate
