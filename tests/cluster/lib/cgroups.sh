# SPDX-License-Identifier: Apache-2.0 OR MIT
# The control groups of a node. For sourcing by the scripts of tests/cluster.

# Every hierarchy of cgroups that the kubelet may write to: version 1 has one for each controller.
cgroup_hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts; }

cgroup_of() { printf 'podgate-%s-%s' "$name" "$1"; }

# Two kubelets under one root cgroup would end each other's pods.
make_node_cgroups() {
	local hierarchy cgroup file
	while read -r hierarchy; do
		[ -w "$hierarchy" ] || continue
		if [ -s "$hierarchy/cgroup.controllers" ]; then
			sed 's/[^ ]*/+&/g' "$hierarchy/cgroup.controllers" >"$hierarchy/cgroup.subtree_control" || true
		fi
		cgroup=$hierarchy/$(cgroup_of "$1")
		mkdir -p "$cgroup"
		# Version 1 starts a cpuset empty, and nothing can run in it.
		for file in cpuset.cpus cpuset.mems; do
			if [ -e "$hierarchy/$file" ] && [ -z "$(<"$cgroup/$file")" ]; then cat "$hierarchy/$file" >"$cgroup/$file"; fi
		done
	done < <(cgroup_hierarchies)
}

# The top cgroups of a node that are there.
node_cgroups() {
	local hierarchy
	while read -r hierarchy; do
		[ ! -d "$hierarchy/$(cgroup_of "$1")" ] || printf '%s\n' "$hierarchy/$(cgroup_of "$1")"
	done < <(cgroup_hierarchies)
}

# Ends what runs in the containers of a node.
end_node_cgroups() {
	local cgroups pids
	mapfile -t cgroups < <(node_cgroups "$1")
	[ ${#cgroups[@]} -gt 0 ] || return 0
	for _ in {1..50}; do
		# A cgroup may go away while it is read.
		mapfile -t pids < <(find "${cgroups[@]}" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
		[ ${#pids[@]} -gt 0 ] || return 0
		kill -KILL "${pids[@]}" 2>/dev/null || true
		sleep 0.1
	done
	fail "processes of $1 do not end: ${pids[*]}"
}

remove_node_cgroups() {
	local cgroups
	mapfile -t cgroups < <(node_cgroups "$1")
	[ ${#cgroups[@]} = 0 ] || find "${cgroups[@]}" -depth -type d -exec rmdir {} + ||
		fail "the cgroups of $1 cannot be removed: ${cgroups[*]}"
}
