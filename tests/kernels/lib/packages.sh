# SPDX-License-Identifier: Apache-2.0 OR MIT
# Debian's packages of kernels, for sourcing: which are pinned, where they are kept, and how apt-get fetches them without
# the system's sources, lists and status. A script that sources this has functions `say` and `fail`, sets `root`, and
# sets `scratch` to a directory that goes away with it.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/podgate/kernels

# The rows of a data file, without comments, one space between fields.
rows() { sed -e 's/#.*//' -e 's/[[:space:]]\+/ /g' -e 's/^ //' -e 's/ $//' -e '/^$/d' "$1"; }

pins() { rows "$root/tests/kernels/pins"; }

kernels() { pins | cut -d' ' -f1 | uniq; }

# The file of a pinned package: kept PACKAGE VERSION
kept() { printf '%s/%s_%s.deb' "$cache" "$1" "$2"; }

# Whether the file is there and is the pinned one: is_pinned FILE SHA256
is_pinned() { [ -f "$1" ] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

# The archive that has a suite, `main` or `security`, as the system's apt sources name it.
mirror_of() {
	local kind=$1 line origin label uri main=${PODGATE_DEBIAN_MIRROR:-} security=
	main=${main%/}
	[ -z "$main" ] || security=${main%/debian}/debian-security
	if [ -z "$main" ]; then
		while IFS='|' read -r origin label uri; do
			uri=${uri%/}
			case $origin/$label/$uri in
			Debian/Debian-Security/*) security=${security:-$uri} ;;
			Debian/Debian/*) main=${main:-$uri} ;;
			# Nothing is known of a source before the first update.
			//*/debian-security) security=${security:-$uri} ;;
			//*/debian) main=${main:-$uri} ;;
			esac
		done < <(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed 's/\$([A-Z_]*)//g')
	fi
	[ -n "$main" ] || fail "no apt source of this machine is a Debian archive: set PODGATE_DEBIAN_MIRROR to the URL of one that ends in /debian"
	case $kind in
	main) printf '%s' "$main" ;;
	security) printf '%s' "${security:-${main%/debian}/debian-security}" ;;
	esac
}

# apt with directories of its own: private_apt COMMAND ARGUMENT...
private_apt() {
	local command=$1
	shift
	"$command" -q -o Dir::State="$scratch/apt/state" -o Dir::State::status="$scratch/apt/status" \
		-o Dir::Cache="$scratch/apt/cache" -o Dir::Etc::sourcelist="$scratch/apt/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null -o APT::Architecture=amd64 -o APT::Sandbox::User=root \
		-o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false "$@"
}

# Reads what these suites have into the private directory. Debian's keys vouch for it.
read_suites() {
	local suite kind mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -f "$keys" ] || fail "$keys is missing, with which Debian's packages are verified: apt-get install debian-archive-keyring"
	mkdir -p "$scratch/apt"/state/lists/partial "$scratch/apt"/cache/archives/partial
	: >"$scratch/apt/status"
	: >"$scratch/apt/sources.list"
	for suite; do
		kind=main
		[[ $suite != *-security ]] || kind=security
		mirror=$(mirror_of "$kind") || exit
		printf 'deb [target=Packages arch=amd64 signed-by=%s] %s %s main\n' "$keys" "$mirror" "$suite" >>"$scratch/apt/sources.list"
	done
	private_apt apt-get update >"$scratch/apt/log" 2>&1 || fail "apt-get cannot read suite $*: $(tail -n 3 "$scratch/apt/log")"
}
