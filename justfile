# Short names for common commands. `just` lists them.

cpu := "--release --no-default-features"

_list:
    @just --list

# Run the server on http://127.0.0.1:8080
serve *flags:
    cargo run --release -- serve {{flags}}

# Run a server with synthetic data and a small model trained on it (CPU-only build)
demo *flags:
    cargo run {{cpu}} -- demo {{flags}}

# Run the tests, or those whose name contains a word
test *words:
    cargo test {{cpu}} {{words}}

# Run the tests with a process per test and a list of slow tests (needs cargo-nextest)
nextest *flags:
    cargo nextest run {{cpu}} {{flags}}

# Format, then run the lints of CI
lint:
    cargo fmt --all
    cargo clippy {{cpu}} --all-targets -- -D warnings

# Benchmark prediction and training steps; benches/README.md has the comparisons
bench *flags:
    cargo run {{cpu}} -- bench {{flags}}

# Generate the OpenAPI document
openapi:
    cargo run {{cpu}} -- openapi > openapi/openapi.json

# Generate docs/configuration.md and docs/plan-reference.md
docs:
    cargo run {{cpu}} -- docs configuration > docs/configuration.md
    cargo run {{cpu}} -- docs plan > docs/plan-reference.md

# Run the commands of README.md and docs/, or of the pages named
check-docs *pages:
    cargo build {{cpu}}
    PATH="${CARGO_TARGET_DIR:-$PWD/target}/release:$PATH" tests/docs.sh {{pages}}

# Fuzz all targets, or those named, for so many seconds each
fuzz seconds="60" *targets:
    fuzz/run {{seconds}} {{targets}}

# Measure test coverage as HTML below target/llvm-cov (needs cargo-llvm-cov)
coverage *flags:
    cargo llvm-cov {{cpu}} --html {{flags}}

# Run everything that CI runs
ci:
    .ci/run
