# SPDX-License-Identifier: Apache-2.0 OR MIT
# Keys, certificates and kubeconfigs of a cluster. For sourcing by tests/cluster/up.

# The machine's own openssl.cnf would add extensions.
no_configuration=$'[req]\ndistinguished_name=none\n[none]'
key_settings=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30)

make_authority() {
	certificate ca /CN=podgate-test-cluster -addext basicConstraints=critical,CA:TRUE
	# The API server reads no PKCS #8 here.
	openssl ecparam -name prime256v1 -genkey -noout -out "$dir/pki/service-accounts.key"
}

# A key and its certificate: certificate NAME SUBJECT OPTION...
certificate() {
	local name=$1 subject=$2 said
	shift 2
	said=$(openssl req -x509 -config <(echo "$no_configuration") "${key_settings[@]}" -subj "$subject" "$@" \
		-keyout "$dir/pki/$name.key" -out "$dir/pki/$name.crt" 2>&1) || fail "no certificate for $name: $said"
}

# A certificate of the cluster's authority: make_certificate NAME SUBJECT USAGE [SUBJECT-ALTERNATIVE-NAMES]
make_certificate() {
	certificate "$1" "$2" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" \
		-addext basicConstraints=critical,CA:FALSE -addext "extendedKeyUsage=$3" ${4:+-addext "subjectAltName=$4"}
}

# The kubeconfig of somebody with a certificate, or with a token: write_kubeconfig FILE CREDENTIALS-AS-JSON
write_kubeconfig() {
	jq -n --arg server "https://$api_address:6443" --arg ca "$(base64 -w0 "$dir/pki/ca.crt")" --argjson user "$2" '{
		apiVersion: "v1", kind: "Config", "current-context": "podgate",
		clusters: [{name: "podgate", cluster: {server: $server, "certificate-authority-data": $ca}}],
		users: [{name: "podgate", user: $user}],
		contexts: [{name: "podgate", context: {cluster: "podgate", user: "podgate"}}]
	}' >"$1"
}

# The certificate and the kubeconfig of a client of the API server: make_client PART NAME SUBJECT
make_client() {
	make_certificate "$2" "$3" clientAuth
	write_kubeconfig "$dir/$1/$2.kubeconfig" "$(
		jq -n --arg certificate "$(base64 -w0 "$dir/pki/$2.crt")" --arg key "$(base64 -w0 "$dir/pki/$2.key")" \
			'{"client-certificate-data": $certificate, "client-key-data": $key}'
	)"
}
