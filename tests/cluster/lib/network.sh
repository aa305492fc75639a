# SPDX-License-Identifier: Apache-2.0 OR MIT
# The addresses of a cluster. They are the same in every cluster: none leaves the cluster's own namespaces. For sourcing.

api_address=192.168.50.1
api_address6=fd00:50::1
pods4=10.244.0.0/16
pods6=fd00:10:244::/48
services4=10.96.0.0/16
services6=fd00:96::/112

# node1 has number 1.
node_address() { printf '192.168.50.1%d' "${1#node}"; }
node_address6() { printf 'fd00:50::1%d' "${1#node}"; }
node_pods() { printf '10.244.%d.0/24' "${1#node}"; }
node_pods6() { printf 'fd00:10:244:%d::/64' "${1#node}"; }

# Starts what keeps a part's namespaces: keep PART COMMAND..., where COMMAND makes them and ends in a sleep.
keep() {
	local part=$1 pid
	shift
	mkdir -p "$dir/$part"
	daemon "$part" keeper "$@"
	pid=$(<"$dir/$part/keeper.pid")
	wait_for 10 "the namespaces of $part" "$dir/$part/keeper.log" has_namespace_of_its_own "$pid"
}

has_namespace_of_its_own() {
	[ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ] && [ "$(readlink "/proc/$1/exe")" = "$(readlink -f "$(command -v sleep)")" ]
}

# The control plane's namespace has a bridge, which the nodes are plugged into.
make_control_plane_network() {
	keep control-plane unshare --net sleep infinity
	in_control_plane sh -ec "
		ip link set lo up
		sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
		ip link add nodes type bridge forward_delay 0
		ip addr add $api_address/24 dev nodes
		ip addr add $api_address6/64 dev nodes nodad
		ip link set nodes up"
}

# A node has an interface on the bridge, forwards, and knows where the pods of the others are. Its default route leads to
# the control plane, which forwards nothing. It does not wait for others that could have its addresses: for a second or
# two a new pod would find nobody at the address of its gateway.
make_node_network() {
	local node=$1 other
	ip link add "uplink" netns "$(keeper "$node")" type veth peer name "$node" netns "$(keeper control-plane)"
	in_control_plane sh -ec "
		ip link set $node master nodes up
		ip route add $(node_pods "$node") via $(node_address "$node")
		ip route add $(node_pods6 "$node") via $(node_address6 "$node")"
	in_node "$node" sh -ec "
		ip link set lo up
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
		ip addr add $(node_address "$node")/24 dev uplink
		ip addr add $(node_address6 "$node")/64 dev uplink nodad
		ip link set uplink up
		ip route add default via $api_address
		ip route add default via $api_address6"
	for other in "${nodes[@]}"; do
		[ "$other" != "$node" ] || continue
		in_node "$node" sh -ec "
			ip route add $(node_pods "$other") via $(node_address "$other")
			ip route add $(node_pods6 "$other") via $(node_address6 "$other")"
	done
}
