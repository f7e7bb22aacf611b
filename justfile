# `just` lists the recipes. None of them is needed: each is one command that can be typed.

_default:
    @just --list

# what CI runs
ci:
    .ci/run

# format, lints, layers
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test --test layers

# every test; FILTER picks some
test *FILTER:
    tests/run {{FILTER}}

# a whole mesh on this machine
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# what a decision costs (criterion)
bench *ARGS:
    cargo bench --bench decide -- {{ARGS}}

# outrigger beside Envoy, HAProxy, nginx and a bare relay; about an hour. A short look: --rounds 1 --seconds 2
bench-mesh *ARGS:
    benches/mesh/setup
    benches/mesh/mesh.py {{ARGS}}

# a release binary with symbols, for perf and callgrind
profile:
    cargo build --profile profiling

# the profile that release builds are optimised by, made anew (docs/adr/0008-the-profile.md); five to ten minutes
train:
    benches/pgo/train

# rewrite the generated pages under docs/
docs:
    UPDATE_DOCS=1 cargo test --lib docs

# licences, bans, sources and advisories of the dependencies (advisories need the network)
deny:
    cargo deny check

# libFuzzer on one target (docs/fuzzing.md); needs nightly Rust and cargo-fuzz
fuzz TARGET *ARGS:
    mkdir -p target/fuzz-corpus/{{TARGET}}
    cp Cargo.lock tests/fuzz/Cargo.lock
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz {{TARGET}} target/fuzz-corpus/{{TARGET}} tests/fuzz/corpus/{{TARGET}} -- -max_len=20000 {{ARGS}}

# what 10,000 slow connections do to good clients (builds a release binary)
bench-crowd *ARGS:
    cargo build --release
    benches/crowd/run.py {{ARGS}}
