# SPDX-License-Identifier: Apache-2.0 OR MIT
# The programs and images of a cluster, built once from Go modules and Debian packages. For sourcing by tests/cluster/up.

# What the modules' go.mod files pin; kept here for the name of the cache and for what the programs say of themselves.
kubernetes_version=1.36.3
etcd_version=3.6.16
containerd_version=2.2.9

# An image of each of these programs is on every node.
images=(pause agnhost talker)

# One set of flags for all modules: with any difference every package is compiled twice.
build_flags=(-trimpath -buildvcs=false -mod=readonly)
stamp=k8s.io/component-base/version
link_flags="-s -w -X $stamp.gitVersion=v$kubernetes_version -X $stamp.gitMajor=${kubernetes_version%%.*}"
link_flags+=" -X $stamp.gitMinor=$(cut -d. -f2 <<<"$kubernetes_version") -X $stamp.gitTreeState=clean"

need_go() {
	local version
	command -v go >/dev/null ||
		fail "there is no go on the path: install Go 1.26 or newer, the cluster's programs are built from their Go modules"
	version=$(go env GOVERSION)
	[ "$(printf '%s\n' go1.26 "$version" | sort -V | head -n 1)" = go1.26 ] ||
		fail "$version is too old for Kubernetes $kubernetes_version: install Go 1.26 or newer"
}

# The cache holds one directory for each set of versions; a change of modules, flags or images makes a new one.
cache_place() {
	local content
	content=$(
		cd "$here/modules" || exit
		{
			cat ./*/go.* own/*/main.go
			printf '%s\n' "${build_flags[@]}" "$link_flags"
			declare -f make_image make_oci_archive same_tar blob
		} | sha256sum | cut -c1-8
	)
	printf '%s/podgate/cluster/kubernetes-%s_etcd-%s_containerd-%s_%s' \
		"${XDG_CACHE_HOME:-$HOME/.cache}" "$kubernetes_version" "$etcd_version" "$containerd_version" "$content"
}

# Builds a module's tools into a directory: build_module MODULE DIRECTORY
build_module() {
	local started=$SECONDS
	say "building $1"
	(cd "$here/modules/$1" && CGO_ENABLED=0 GOWORK=off GOFLAGS='' nice -n 5 \
		go build "${build_flags[@]}" -ldflags "$link_flags" -o "$2/" "${3:-tool}") ||
		fail "$1 cannot be built: see what go says above"
	say "$1 took $((SECONDS - started)) s"
}

# Builds the directory $programs with everything.
build_programs() {
	mkdir -p "${programs%/*}"
	# Whoever comes second waits, and finds the work done.
	exec 8>"$programs.lock"
	if ! flock -n 8; then
		say "another run builds the cluster's programs, waiting for it"
		flock 8
	fi
	if [ ! -e "$programs" ]; then
		say "building the cluster's programs into $programs: about ten minutes on two cores, once"
		local building=$programs.building image
		rm -rf "$building"
		mkdir "$building"
		build_module kubernetes "$building"
		build_module etcd "$building"
		mv "$building/server" "$building/etcd"
		build_module containerd "$building"
		build_module helm "$building"
		build_module own "$building" ./...
		for image in "${images[@]}"; do
			make_image "$building/$image" "podgate.test/$image:1" "$building/$image.tar" "[\"/$image\"]"
		done
		mv "$building" "$programs"
	fi
	exec 8>&-
}
