# Short names for the commands that the README spells out. `just` lists them.

cpu := "--release --no-default-features"

_list:
    @just --list

# Serve on http://127.0.0.1:8080
serve *flags:
    cargo run --release -- {{flags}}

# Draw phantoms, train the small network on them, and serve what came out
demo *flags:
    cargo run --release -- demo {{flags}}

# Run the tests, or those whose name contains a word
test *words:
    cargo test {{cpu}} {{words}}

# Format, then what CI says about the sources
lint:
    cargo fmt
    cargo clippy {{cpu}} --all-targets -- -D warnings

# Measure predictions and training steps; benches/README.md has the comparisons
bench *flags:
    cargo run {{cpu}} -- bench {{flags}}

# Write the OpenAPI document that a test compares
openapi:
    cargo run {{cpu}} -- openapi > openapi/openapi.json

# All that CI does
ci:
    .ci/run
