# SPDX-License-Identifier: Apache-2.0 OR MIT
# Which cluster is meant, where it is, and how to get into its parts. For sourcing by the scripts of tests/cluster.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
root=$(cd "$here/../.." && pwd -P)
clusters=${PODGATE_CLUSTERS:-/tmp/podgate-clusters}
nodes=(node1 node2)

say() { printf '==> %s\n' "$*"; }
fail() {
	printf 'tests/cluster/%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Chooses the cluster: its directory holds all it has on disk, and marks its processes.
use_cluster() {
	name=$1
	[[ $name =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
		fail "$name cannot be a cluster's name: at most 20 lower-case letters, digits and dashes"
	dir=$clusters/$name
	mark=PODGATE_CLUSTER_PROCESS_OF=$dir
}

# Takes a leading --name NAME from the arguments, else the environment says which one: use_cluster_of "$@"; shift "$taken"
use_cluster_of() {
	taken=0
	if [ "${1:-}" = --name ]; then
		[ $# -ge 2 ] || fail "--name needs a name"
		use_cluster "$2"
		taken=2
	else
		use_cluster "${PODGATE_CLUSTER:-podgate}"
	fi
}

as_root() { [ "$(id -u)" = 0 ] || fail "a cluster is made of namespaces, run this as root: sudo env PATH=\"\$PATH\" $0"; }

must_be_up() { [ -e "$dir/up" ] || fail "there is no cluster $name in $clusters: tests/cluster/up --name $name"; }

is_node() { [[ " ${nodes[*]} " == *" $1 "* ]]; }

# The process that keeps the namespaces of a part: the control plane's, or a node's.
keeper() { cat "$dir/$1/keeper.pid" 2>/dev/null || fail "$1 of cluster $name is not running: tests/cluster/up --name $name"; }

# Runs a command in the control plane's network namespace; files are the host's.
in_control_plane() { nsenter --net="/proc/$(keeper control-plane)/ns/net" -- "$@"; }

# Runs a command in a node's network and mount namespaces: in_node NODE COMMAND...
in_node() {
	local pid
	pid=$(keeper "$1")
	shift
	nsenter --target "$pid" --net --mount -- "$@"
}

kubectl() { in_control_plane "$dir/bin/kubectl" --kubeconfig "$dir/control-plane/admin.kubeconfig" "$@"; }

# Closes all descriptors but the standard ones: what a process that outlives this script would hold for its caller, such as
# a lock or a pipe that somebody reads to its end. 255 is bash's own for the script, and closed by exec.
close_inherited() {
	local fd
	for fd in "/proc/$BASHPID/fd/"*; do
		fd=${fd##*/}
		[ "$fd" -le 2 ] || [ "$fd" = 255 ] || eval "exec $fd>&-"
	done
}

# Starts a process that outlives this script: daemon PART NAME COMMAND..., with its log and its id in the part's directory.
# COMMAND is a program, or a function that ends in one: the id must be the daemon's.
daemon() {
	local part=$1 what=$2
	shift 2
	{ close_inherited; exec env "$mark" setsid "$@"; } >>"$dir/$part/$what.log" 2>&1 </dev/null &
	echo $! >"$dir/$part/$what.pid"
}

daemon_in_control_plane() {
	local what=$1
	shift
	daemon control-plane "$what" nsenter --net="/proc/$(keeper control-plane)/ns/net" -- "$@"
}

daemon_in_node() {
	local node=$1 what=$2
	shift 2
	daemon "$node" "$what" nsenter --target "$(keeper "$node")" --net --mount -- "$@"
}

# Whether the process with this id is one of this cluster, and lives: ids are used again.
is_of_cluster() { [ -n "$1" ] && grep -qzxF "$mark" "/proc/$1/environ" 2>/dev/null; }

# All processes of this cluster that are not in containers.
processes() { { grep -lzxF "$mark" /proc/[0-9]*/environ 2>/dev/null || true; } | cut -d/ -f3; }

# Ends processes and waits until they are gone: end SIGNAL PID...
end() {
	local signal=$1 pid
	shift
	kill "-$signal" "$@" 2>/dev/null || true
	for pid; do
		for _ in {1..100}; do
			is_of_cluster "$pid" || continue 2
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null || true
	done
}

# Ends a daemon of a part, if it runs: end_daemon SIGNAL PART NAME
end_daemon() {
	local pid
	pid=$(cat "$dir/$2/$3.pid" 2>/dev/null) || return 0
	if is_of_cluster "$pid"; then end "$1" "$pid"; fi
	rm -f "$dir/$2/$3.pid"
}

# Waits until a command succeeds, of whose daemon LOG is: wait_for SECONDS WHAT LOG COMMAND...
# If it does not, or the daemon ends, shows what the log and the command said last.
wait_for() {
	local deadline=$((SECONDS + $1)) what=$2 log=$3 said why
	shift 3
	until said=$("$@" 2>&1); do
		why=
		[ "$SECONDS" -lt "$deadline" ] || why="not within the time allowed"
		kill -0 "$(<"${log%.log}.pid")" 2>/dev/null || why="it has ended"
		if [ -n "$why" ]; then
			tail -n 15 "$log" >&2
			fail "waited in vain until $what: $why. It said: $said. Logs are in $dir; tests/cluster/down --name $name takes it away"
		fi
		sleep 0.1
	done
}
