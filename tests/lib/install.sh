# SPDX-License-Identifier: Apache-2.0 OR MIT
# What a level needs of the machine, for sourcing by tests/run.

# Is the command on the path, or the file there, if it begins with a slash?
has() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# Installs the Debian package that has a command or a file, if it is missing: need_package PACKAGE COMMAND|FILE
need_package() {
	has "$2" && return
	[ "$install" = yes ] || fail "$2 is missing: apt-get install $1"
	has apt-get || fail "$2 is missing: install the package of your distribution that is called $1 in Debian"
	[ "$(id -u)" = 0 ] || fail "$2 is missing: run tests/run as root, or: sudo apt-get install $1"
	say "installing $1"
	export DEBIAN_FRONTEND=noninteractive
	local try
	for try in 1 2 3; do
		if apt-get update -q && apt-get install -q -y --no-install-recommends "$1"; then
			has "$2" || fail "$1 is installed, and $2 is missing still"
			return
		fi
		say "apt-get failed ($try of 3)"
	done
	fail "$1 cannot be installed: see what apt-get says above"
}

# The plugin is a static binary.
need_musl() {
	local target
	target=$(uname -m)-unknown-linux-musl
	need_rust target "$target" "lib/rustlib/$target/lib"
}
