# SPDX-License-Identifier: Apache-2.0 OR MIT
# A node: its mounts, containerd, kubelet and kube-proxy. For sourcing by tests/cluster/up.

# Runs in the new namespaces of a node, as its first and lasting process: sh -c "$node_mounts" sh DIRECTORY PROGRAMS
# So that nodes see neither each other's sockets, pins and pods nor the host's, the usual places are their own.
# containerd's and the kubelet's own files lie on the disk, the rest in memory.
# shellcheck disable=SC2016 # it is a program for sh
node_mounts='
	set -e
	mount --make-rshared /
	mkdir "$1/bin"
	mount --bind "$2" "$1/bin"
	mount -t tmpfs -o mode=755 run /run
	mount -t tmpfs -o mode=755 opt /opt
	mount -t tmpfs -o mode=755 log /var/log
	mount -t tmpfs -o mode=755 lib /var/lib
	mount -t bpf -o mode=700 bpf /sys/fs/bpf
	mkdir /run/etc /run/etc/upper /run/etc/work
	mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc
	mkdir -p /opt/cni/bin /etc/cni/net.d /etc/kubernetes/manifests /var/log/pods /var/log/containers /var/lib/cni
	for place in containerd kubelet; do
		mkdir -p "$1/$place" "/var/lib/$place"
		mount --bind "$1/$place" "/var/lib/$place"
	done
	exec sleep infinity'

make_node() {
	local node=$1
	keep "$node" unshare --net --mount --propagation private sh -c "$node_mounts" sh "$dir/$node" "$programs"
	make_node_network "$node"
	make_node_cgroups "$node"
	make_client "$node" kubelet "/O=system:nodes/CN=system:node:$node"
	make_client "$node" proxy /CN=system:kube-proxy
	install_cni "$node"
}

# The plugins, and the conflist: addresses of both families, and podgate behind the plugin that makes the interface.
install_cni() {
	local node=$1 ours=
	in_node "$node" cp /usr/lib/cni/{ptp,host-local,portmap,loopback} /opt/cni/bin/
	if [ "$with_podgate" = yes ]; then
		in_node "$node" install -m 0755 "$dir/podgate" /opt/cni/bin/podgate
		ours=$(jq -n --arg mode "$enforcing_mode" --argjson wait "$wait_ms" \
			'{type: "podgate", enforcingMode: $mode, waitMs: $wait}')
	fi
	jq -n --arg pods "$(node_pods "$node")" --arg pods6 "$(node_pods6 "$node")" --argjson ours "${ours:-null}" '{
		cniVersion: "1.0.0", name: "pods",
		plugins: ([
			{type: "ptp", ipam: {type: "host-local", dataDir: "/run/cni-ipam",
				ranges: [[{subnet: $pods}], [{subnet: $pods6}]], routes: [{dst: "0.0.0.0/0"}, {dst: "::/0"}]}},
			{type: "portmap", capabilities: {portMappings: true}},
			$ours
		] | map(select(. != null)))
	}' | in_node "$node" tee /etc/cni/net.d/10-pods.conflist >/dev/null
}

start_containerd() {
	local node=$1
	cat >"$dir/$node/containerd.toml" <<-TOML
		version = 3
		[plugins.'io.containerd.cri.v1.images'.pinned_images]
		  sandbox = 'podgate.test/pause:1'
		[plugins.'io.containerd.cri.v1.runtime']
		  disable_apparmor = true
		  restrict_oom_score_adj = true
		[plugins.'io.containerd.cri.v1.runtime'.cni]
		  bin_dirs = ['/opt/cni/bin']
		  conf_dir = '/etc/cni/net.d'
	TOML
	# containerd finds its shim on the path.
	daemon_in_node "$node" containerd env "PATH=$dir/$node/bin:$PATH" "$dir/$node/bin/containerd" --config "$dir/$node/containerd.toml"
	wait_for 20 "containerd of $node answers" "$dir/$node/containerd.log" in_node "$node" "$dir/$node/bin/ctr" version
	local image said
	for image in "${images[@]}"; do
		said=$(in_node "$node" "$dir/$node/bin/ctr" -n k8s.io image import --local "$dir/$node/bin/$image.tar" 2>&1) ||
			fail "containerd of $node does not take the image $image: $said"
	done
}

start_kubelet() {
	local node=$1
	cat >"$dir/$node/kubelet.yaml" <<-YAML
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		failCgroupV1: false
		cgroupDriver: cgroupfs
		cgroupRoot: /$(cgroup_of "$node")
		enforceNodeAllocatable: []
		failSwapOn: false
		evictionHard: {}
		imageGCHighThresholdPercent: 100
		clusterDNS: [10.96.0.10, "fd00:96::a"]
		clusterDomain: cluster.local
		resolvConf: ""
		staticPodPath: /etc/kubernetes/manifests
		authentication:
		  anonymous: {enabled: false}
		  x509: {clientCAFile: $dir/pki/ca.crt}
		authorization: {mode: Webhook}
	YAML
	daemon_in_node "$node" kubelet "$dir/$node/bin/kubelet" --config "$dir/$node/kubelet.yaml" \
		--kubeconfig "$dir/$node/kubelet.kubeconfig" --hostname-override "$node" \
		--node-ip "$(node_address "$node"),$(node_address6 "$node")"
}

# The global sysctls of conntrack cannot be written in a namespace, and kube-proxy ends over one that it cannot write.
start_proxy() {
	local node=$1
	daemon_in_node "$node" proxy "$dir/$node/bin/kube-proxy" --kubeconfig "$dir/$node/proxy.kubeconfig" \
		--hostname-override "$node" --proxy-mode nftables --cluster-cidr "$pods4,$pods6" \
		--conntrack-max-per-core=0 --conntrack-min=0 \
		--conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
}

is_ready() { kubectl wait --for=condition=Ready "node/$1" --timeout=1s; }
