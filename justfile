# The everyday commands. `just --list` shows them.

# The packages that build for this machine; `bpf` builds for the eBPF target, by `bpf/build`.
packages := "--workspace --exclude podgate-bpf"

# Builds everything that runs on this machine, for its tests.
build:
    cargo build --locked {{ packages }}

# Builds the eBPF object bpf/podgate.o after a change in bpf/, bpf/abi or core.
bpf:
    bpf/build

# Formats, and says what the lints say.
lint:
    cargo fmt --all
    cargo clippy --locked {{ packages }} --all-targets -- -D warnings

# Runs levels of the tests: `just test unit kernel`; without any, all of them.
test *levels:
    tests/run {{ levels }}

# Runs levels in their long form.
test-long level:
    tests/run --long {{ level }}

# Looks for inputs that break what must hold of any: `just fuzz --seconds 600 packet`.
fuzz *flags:
    fuzz/run {{ flags }}

# Runs the Stars demo; `just demo --ui` serves its page.
demo *flags:
    demo/run {{ flags }}

# Prints what podgate costs on this machine.
figures:
    bench/figures

# Prints what the control plane costs on this machine.
control-plane:
    bench/control-plane

# Opens the documentation of the crates.
doc:
    cargo doc --locked {{ packages }} --no-deps --open
