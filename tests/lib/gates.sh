# Gates over the crates of the workspace, for sourcing by tests/run.

# crate | crates of ours below it, however deep | what must not be below it, however deep
# The arrows of the design's picture of the parts; tests may know everything, and nothing may know tests.
arrows='
podgate-abi      |                                                  | aya tokio kube k8s-openapi
podgate-bpf      | podgate-abi                                      | aya tokio kube k8s-openapi
podgate-handoff  |                                                  | aya tokio kube k8s-openapi
podgate-policy   |                                                  | aya tokio kube k8s-openapi
podgate-datapath | podgate-abi                                      | tokio kube k8s-openapi
podgate          | podgate-abi podgate-datapath podgate-handoff     | tokio kube k8s-openapi
podgate-enforcer | podgate-abi podgate-datapath podgate-handoff podgate-policy |
podgate-demo     |                                                  | aya kube k8s-openapi
podgate-bench    | podgate-abi podgate-datapath podgate-demo podgate-enforcer podgate-handoff podgate-policy |
podgate-tests    | podgate-abi podgate-datapath podgate-enforcer podgate-handoff podgate-policy podgate podgate-demo |
'

lints_are_inherited() {
	local files manifest status=0
	files=$(manifests | jq -r '.packages[] | .manifest_path') || return
	for manifest in $files; do
		if ! grep -A1 -x '\[lints\]' "$manifest" | grep -qx 'workspace = true'; then
			printf '%s does not say: [lints] workspace = true\n' "$manifest"
			status=1
		fi
	done
	return "$status"
}

arrows_hold() {
	local crates crate ours never below name status=0 rows=()
	crates=$(manifests | jq -r '.packages[] | .name') || return
	for crate in $crates; do
		mapfile -t rows < <(awk -F'|' -v crate="$crate" '{ name = $1; gsub(/ /, "", name) } name == crate' <<<"$arrows")
		if [ ${#rows[@]} != 1 ]; then
			printf '%s has %d rows in the table of tests/lib/gates.sh, and needs one\n' "$crate" ${#rows[@]}
			status=1
			continue
		fi
		IFS='|' read -r _ ours never <<<"${rows[0]}"
		below=$(cargo tree --locked -p "$crate" --edges normal,build --prefix none --format '{p}' | cut -d' ' -f1 | sort -u) || return
		for name in $below; do
			case $name in
			"$crate") continue ;;
			podgate | podgate-*) [[ " $ours " == *" $name "* ]] && continue ;;
			*) [[ " $never " == *" $name "* ]] || continue ;;
			esac
			printf '%s may not depend on %s: cargo tree -p %s -i %s\n' "$crate" "$name" "$crate" "$name"
			status=1
		done
	done
	return "$status"
}
