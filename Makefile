# Verbs only; what has logic is in Rust.
.DEFAULT_GOAL := help
.PHONY: help build demo run test fuzz bench lint catalogue prepare

SERVERS := target/debug/servers
EKTOLA := target/debug/ektola

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the shipped binary, target/release/ektola
	cargo build --release -p api

demo: ## run a campaign of 1,000 contacts against the sandbox and check every figure (QUEUE=rabbitmq)
	cargo build --workspace
	$(EKTOLA) demo $(if $(QUEUE),--queue $(QUEUE))

run: ## start a private engine on 127.0.0.1:8000 with data in ./ektola-data (ARGS="--listen ADDR ...")
	cargo build --workspace
	$(EKTOLA) dev $(ARGS)

test: ## run every test against private servers, or those of DATABASE_URL and AMQP_URL
	cargo build --workspace
	$(SERVERS) run --rabbitmq -- cargo test --workspace

fuzz: ## feed spoilt payloads to everything that reads foreign input (TIME=300 ARGS="--target webhook")
	cargo build -p tests --example fuzz
	target/debug/examples/fuzz --time $(or $(TIME),60) $(ARGS)

bench: ## measure the shipped binary on private servers, a table and target/bench/report.json (ONLY=end_to_end)
	cargo build --release -p api
	cargo bench -p tests --bench bench -- $(ONLY)

lint: ## check the format and the lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

catalogue: ## write the catalogue of events, docs/events.md, from the code
	EKTOLA_TEST_WRITE_CATALOGUE=1 cargo test --quiet -p tests --test catalogue

prepare: ## describe the checked queries anew, in .sqlx
	cargo build --workspace
	$(SERVERS) prepare
