# The only commands a contributor must know. Each installs first what the machine lacks, and says so before it does.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos fuzz suites fmt

help: ## Lists these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Walks through Postern on a real PostgreSQL; KEEP=1 leaves it running
	@scripts/bootstrap.sh demo
	cargo build --locked -p postern
	@KEEP=$(KEEP) scripts/demo.sh

test: ## Runs every test, those of the whole system too
	@scripts/bootstrap.sh test
	@scripts/test.sh

check: ## Formatting, lints, the import rules, the protocol files, licences
	@scripts/bootstrap.sh check
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	scripts/check_deps.py
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	scripts/check_proto.py
	PATH="$$PATH:$(CURDIR)/.tools/bin" cargo deny --locked --log-level error check bans licenses sources

bench: ## Loads beside pgbouncer and etcd; writes docs/benchmarks.md; ONLY=part renews one part
	@scripts/bootstrap.sh bench
	@scripts/bench.sh

chaos: ## Simulates clusters that go wrong; SEEDS=n runs so many, FROM=k from there on, SEED=k replays one, TRACE=1 shows all of it
	@scripts/bootstrap.sh chaos
	@scripts/chaos.sh

fuzz: ## Looks for bytes that something falls over, by coverage; SECONDS=n for each target, TARGET=name for one
	@scripts/bootstrap.sh fuzz
	@FUZZ_SECONDS=$(SECONDS) FUZZ_TARGET=$(TARGET) scripts/fuzz.sh

suites: ## Runs PostgreSQL's and drivers' suites direct and through Postern, and compares; SUITE=name runs one, VERSION=17 with that server
	@scripts/bootstrap.sh test
	@scripts/suites.sh

fmt: ## Formats the code
	cargo fmt --all
