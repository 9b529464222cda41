# Tessera. `make` alone lists what there is. Everything is set up inside this folder; nothing is installed outside it.

CARGO ?= cargo
# Paths may not contain spaces; make cannot pass them on.
C4 ?=
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test models bench-ingest bench-encoder bench-ingest-parts bench-loader bench-gpu bench-scaling bench-glue bench-pareto build libtorch check-tools lint fmt clean-demo test-transformers test-azure

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## documentation of the locked crates -> shards -> a trained tiny MosaicBERT -> demo/report.html (C4="FILE..." takes your own text)
	@CARGO="$(CARGO)" sh tests/demo/demo.sh $(C4)

test: lint ## everything: formatting, clippy, unit, property, parity and end-to-end tests
	@echo "== loader, with overflow checks"
	$(CARGO) test --locked -p loader
	@echo "== loader, without vector instructions: the same batches"
	$(CARGO) test --locked -p loader --no-default-features -- mask golden
	@$(MAKE) --no-print-directory models
	@tests/tensorboard/setup.sh || echo "TensorBoard could not be installed: the test that it reads our event files will be skipped"
	@echo "== all crates"
	$(CARGO) build --locked --release --workspace --bins --examples
	$(CARGO) test --locked --release --workspace

test-transformers: build ## exported and imported models beside Hugging Face's transformers (5 GB into .python/transformers, or TESSERA_PYTHON=...)
	@[ -n "$(TESSERA_PYTHON)" ] || tests/transformers/setup.sh
	$(CARGO) test --locked --release --workspace --test all -- --nocapture --test-threads 1 transformers

test-azure: libtorch ## shards in Azure's blob storage, on Microsoft's emulator (190 MB into .node/azurite; wants npm)
	@CARGO="$(CARGO)" tests/azure/run.sh

models: ## the loader's ring under loom, its worker set under shuttle
	@echo "== ring, under loom"
	$(CARGO) test --locked -p loader --features loom --test ring_loom
	@echo "== workers, under shuttle"
	$(CARGO) test --locked -p loader --features shuttle --lib shuttle

build: libtorch ## the two programs, target/release/{ingest,train}
	$(CARGO) build --locked --release --workspace --bins --examples

lint: libtorch ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings

fmt: ## format all sources
	$(CARGO) fmt --all

libtorch: check-tools ## libtorch from the torch wheel into .libtorch (respects LIBTORCH)
	@model/libtorch.sh

check-tools:
	@missing=; \
	command -v $(CARGO) >/dev/null 2>&1 || missing="$$missing cargo(https://rustup.rs)"; \
	command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || missing="$$missing a-C++-compiler(Debian:apt-install-g++)"; \
	command -v python3 >/dev/null 2>&1 || missing="$$missing python3(Debian:apt-install-python3-pip)"; \
	if [ -n "$$missing" ]; then echo "make: missing on this machine:$$missing" >&2; exit 1; fi

clean-demo: ## remove what the demo wrote
	rm -rf demo

bench-ingest: build ## ingest beside the pipelines people use, on the demo corpus or C4="FILE..."
	@tests/bench/setup.sh
	@.python/bench/bin/python tests/bench/ingest.py $(if $(C4),$(C4),demo/crate-docs/corpus)

bench-gpu: build ## training steps on this machine's GPU beside plain PyTorch and transformers (PYTHON=... with torch for CUDA and transformers)
	$(PYTHON) tests/bench/gpu.py

bench-glue: build ## GLUE of the same pretrained model by this program and by transformers, MINILM=DIR GLUE=DIR (PYTHON=... with torch and transformers)
	$(PYTHON) tests/bench/glue_minilm.py --minilm $(MINILM) --data $(GLUE) --out bench-glue

bench-pareto: build ## MosaicBERT against BERT with the same time, to the Pareto page, SHARDS="DIR..." GLUE=DIR
	$(PYTHON) tests/bench/pareto.py --shards $(SHARDS) --data $(GLUE) --out bench-pareto --scratch bench-pareto

bench-scaling: build ## data-parallel training on 1, 2, 4, 8 of this machine's GPUs, and what becomes of a killed rank (SHARDS=DIR for the runs)
	$(PYTHON) tests/bench/scaling.py $(if $(SHARDS),--shards $(SHARDS),--only speed)

bench-encoder: build ## the WordPiece encoder alone beside nanotoken's, on C4="FILE..."
	@tests/bench/setup.sh
	@.python/bench/bin/python tests/bench/encoder.py $(if $(C4),$(C4),demo/crate-docs/corpus)

bench-loader: build ## masked batches a second beside mosaicml-streaming, HF datasets and litdata, on the demo corpus or C4="FILE..."
	@tests/bench/setup.sh
	$(CARGO) bench --locked --workspace --bench mask
	@.python/bench/bin/python tests/bench/loader.py $(if $(C4),$(C4),demo/crate-docs/corpus)

bench-ingest-parts: ## unpack, parse, encode, write by themselves: time, and instructions if valgrind is there
	$(CARGO) bench --locked -p ingest --bench parts --bench encode
	@CARGO="$(CARGO)" tests/bench/instructions.sh
