# SPDX-License-Identifier: Apache-2.0 OR MIT
# etcd, API server, controller manager and scheduler. For sourcing.

start_api_server() {
	local pki=$dir/pki bin=$dir/bin
	make_client control-plane admin /O=system:masters/CN=admin
	make_certificate api-server-to-kubelet /O=system:masters/CN=api-server clientAuth
	make_certificate api-server /CN=kube-apiserver serverAuth \
		"DNS:kubernetes,DNS:kubernetes.default.svc,IP:$api_address,IP:$api_address6,IP:10.96.0.1,IP:fd00:96::1,IP:127.0.0.1"

	daemon_in_control_plane etcd "$bin/etcd" --data-dir "$dir/control-plane/etcd" --unsafe-no-fsync --log-level warn
	run_api_server
}

run_api_server() {
	local pki=$dir/pki
	# The address is not the loopback: it is what pods and nodes find behind the Service kubernetes.
	# Without a preferred address type, exec and logs would look the node's name up in DNS.
	daemon_in_control_plane api-server "$dir/bin/kube-apiserver" \
		--advertise-address="$api_address" \
		--etcd-servers=http://127.0.0.1:2379 \
		--service-cluster-ip-range="$services4,$services6" \
		--authorization-mode=Node,RBAC \
		--kubelet-preferred-address-types=InternalIP \
		--cert-dir="$dir/control-plane" \
		--client-ca-file="$pki/ca.crt" \
		--tls-cert-file="$pki/api-server.crt" --tls-private-key-file="$pki/api-server.key" \
		--kubelet-client-certificate="$pki/api-server-to-kubelet.crt" \
		--kubelet-client-key="$pki/api-server-to-kubelet.key" \
		--service-account-issuer=https://kubernetes.default.svc \
		--service-account-key-file="$pki/service-accounts.key" \
		--service-account-signing-key-file="$pki/service-accounts.key"
	wait_for 60 "the API server is ready" "$dir/control-plane/api-server.log" kubectl get --raw /readyz
}

start_controllers() {
	local pki=$dir/pki bin=$dir/bin
	make_client control-plane controller-manager /CN=system:kube-controller-manager
	make_client control-plane scheduler /CN=system:kube-scheduler

	# ServiceAccounts, tokens, EndpointSlices and DaemonSets are the controller manager's work.
	daemon_in_control_plane controller-manager "$bin/kube-controller-manager" \
		--kubeconfig="$dir/control-plane/controller-manager.kubeconfig" \
		--leader-elect=false --bind-address=127.0.0.1 --cert-dir="$dir/control-plane" \
		--use-service-account-credentials \
		--root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/service-accounts.key"
	daemon_in_control_plane scheduler "$bin/kube-scheduler" \
		--kubeconfig="$dir/control-plane/scheduler.kubeconfig" \
		--leader-elect=false --bind-address=127.0.0.1 --cert-dir="$dir/control-plane"
}
