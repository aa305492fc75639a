# SPDX-License-Identifier: Apache-2.0 OR MIT
# The Rust toolchain of the scripts, for sourcing: the version that rust-toolchain.toml names.
# A script that sources this has functions `say` and `fail`, the repository in `root`, and sets `install` to yes or no.

rust_version=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$root/rust-toolchain.toml")

# Chooses the toolchain: the active one if it is of that version, else rustup's of that version.
use_rust() {
	local active
	active=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
	[ "$active" = "$rust_version" ] && return
	command -v rustup >/dev/null ||
		fail "Rust $rust_version is needed and ${active:-none} is installed: install rustup (https://rustup.rs), it brings the right one"
	if ! rustup toolchain list | grep -q "^$rust_version-"; then
		[ "$install" = yes ] || fail "Rust $rust_version is missing: rustup toolchain install --profile minimal $rust_version"
		say "installing Rust $rust_version"
		rustup toolchain install --profile minimal "$rust_version" || fail "rustup could not install Rust $rust_version"
	fi
	export RUSTUP_TOOLCHAIN=$rust_version
}

# Adds to the chosen toolchain what is missing: need_rust component|target NAME FILE, where FILE, under the sysroot,
# is there when it is installed.
need_rust() {
	local kind=$1 name=$2 file=$3 sysroot
	sysroot=$(rustc --print sysroot)
	[ -e "$sysroot/$file" ] && return
	command -v rustup >/dev/null ||
		fail "Rust's $kind $name is missing ($sysroot/$file): install it as you installed Rust"
	[ "$install" = yes ] || fail "Rust's $kind $name is missing: rustup $kind add $name"
	say "adding Rust's $kind $name"
	rustup "$kind" add "$name" || fail "rustup could not add Rust's $kind $name"
}
