# Common tasks. `just` lists them; https://just.systems installs it.

_default:
    @just --list

# Run the gateway with embedded defaults
run *FLAGS:
    cargo run --release -- {{FLAGS}}

# Run the checks that every change must pass
test *STEPS:
    tests/run {{STEPS}}

# Run every check, the long ones included
test-all:
    tests/run --all

# Run the checks that need no other tools: seconds
check:
    tests/run fmt clippy doc

# Format the source and the wire contract
fmt:
    cargo fmt
    tests/run buf-format || true

# Write docs/SETTINGS.md, .env.example and examples/duologue.toml anew
generate:
    UPDATE_GENERATED=1 cargo test --lib generated

# Run the benchmarks: see docs/PERFORMANCE.md
bench *ARGUMENTS:
    benches/run {{ARGUMENTS}}

# Open the documentation of the crate
doc:
    cargo doc --no-deps --open
