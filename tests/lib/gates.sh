# SPDX-License-Identifier: Apache-2.0 OR MIT
# Gates over the crates of the workspace, for sourcing by tests/run.

# crate | crates of ours below it, however deep | what must not be below it, however deep
# The arrows of docs/adr/0018; tests and fuzzers may know everything, and nothing may know them.
arrows='
podgate-core     |                                                  | aya tokio kube k8s-openapi
podgate-abi      | podgate-core                                     | aya tokio kube k8s-openapi
podgate-bpf      | podgate-abi podgate-core                         | aya tokio kube k8s-openapi
podgate-handoff  | podgate-core                                     | aya tokio kube k8s-openapi
podgate-policy   | podgate-core                                     | aya tokio kube k8s-openapi
podgate-conflist |                                                  | aya tokio kube k8s-openapi
podgate-datapath | podgate-abi podgate-core                         | tokio kube k8s-openapi
podgate          | podgate-abi podgate-core podgate-datapath podgate-handoff | tokio kube k8s-openapi
podgate-enforcer | podgate-abi podgate-core podgate-datapath podgate-handoff podgate-policy |
podgate-install  | podgate podgate-abi podgate-conflist podgate-core podgate-datapath podgate-handoff | tokio kube k8s-openapi
podgate-demo     |                                                  | aya kube k8s-openapi
podgate-bench    | podgate-abi podgate-core podgate-datapath podgate-demo podgate-enforcer podgate-handoff podgate-policy |
podgate-tests    | podgate-abi podgate-core podgate-datapath podgate-enforcer podgate-handoff podgate-policy podgate podgate-demo |
podgate-fuzz     | podgate-abi podgate-core podgate-datapath podgate-enforcer podgate-handoff podgate-policy podgate podgate-demo podgate-tests |
'

# Whether systemd takes every unit as it is written, and its sandbox keeps it below this exposure (of 10).
units_are_sound() {
	local units=(install/systemd/*.service) unit program place status=0 exposure
	place=$(mktemp -d)
	mkdir -p "$place/etc/systemd/system" "$place/usr/bin" "$place/usr/local/bin"
	cp "${units[@]}" "$place/etc/systemd/system/"
	cp -r --parents /lib/systemd/system "$place" || status=1
	for program in /usr/bin/mkdir /usr/local/bin/podgate-enforcer /usr/local/bin/podgate-install; do
		cp "$(type -P true)" "$place$program"
	done
	systemd-analyze verify --root="$place" "${units[@]##*/}" || status=1
	for unit in "${units[@]##*/}"; do
		exposure=$(systemd-analyze security --offline=yes --root="$place" --threshold=26 "$unit" | tail -n 1) || status=1
		printf '%s: %s\n' "$unit" "$exposure"
	done
	rm -r "$place"
	return "$status"
}

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

# Whether every document that a file of ours cites is there: paths below docs/, records by number (adr/0006) or name, and
# relative links of Markdown. No file cites the design, which is not in this repository, and the index has every record.
citations_resolve() {
	local files=() pages=() records=() file line cited name status=0
	unresolved() {
		printf '%s:%s cites %s, which is not there\n' "$file" "$line" "$cited"
		status=1
	}
	mapfile -t files < <(find . \( -name target -o -name .git \) -prune -o -type f \
		\( -name '*.md' -o -name '*.rs' -o -name '*.sh' -o -name '*.toml' \) -print)
	mapfile -t pages < <(printf '%s\n' "${files[@]}" | grep '\.md$')

	while IFS=: read -r file line cited; do
		cited=docs/${cited#*docs/}
		while [[ $cited == *[.-] ]]; do cited=${cited%?}; done
		[[ $cited == docs/adr/@([0-9]*|NNNN) ]] || [ -e "$cited" ] || unresolved
	done < <(grep -HnoE '(^|[^[:alnum:]_/.-])(\.\.?/)*docs/[[:alnum:]_./-]+' "${files[@]}")

	while IFS=: read -r file line cited; do
		cited=docs/adr/${cited#*adr/}
		while [[ $cited == *[.-] ]]; do cited=${cited%?}; done
		[ -e "$cited" ] || [[ $cited =~ /[0-9]{4}$ && -n $(compgen -G "$cited-*.md") ]] || unresolved
	done < <(grep -HnoE '(^|[^[:alnum:]_-])adr/[0-9][[:alnum:]_.-]*' "${files[@]}")

	while IFS=: read -r file line cited; do
		cited=${cited#*\](}
		case $cited in *://* | mailto:* | \#*) continue ;; esac
		[ -e "${file%/*}/${cited%%#*}" ] || unresolved
	done < <(grep -HnoE '\]\([^)[:space:]]+' "${pages[@]}")

	if grep -HnE '\<DESIG[N]\>' "${files[@]}"; then
		printf 'these cite the design: cite the record with the reason, as docs/adr/NNNN\n'
		status=1
	fi

	records=(docs/adr/[0-9]*.md)
	for file in "${records[@]}"; do
		name=${file##*/}
		if ! grep -qF "[${name%%-*}]($name)" docs/adr/README.md; then
			printf '%s has no row in docs/adr/README.md\n' "$file"
			status=1
		fi
		if ! grep -qE "^# ${name%%-*}\. " "$file" || ! grep -qE '^Status: (accepted|superseded by )' "$file"; then
			printf '%s does not begin as a record does: see docs/adr/README.md\n' "$file"
			status=1
		fi
		if [ "$(compgen -G "docs/adr/${name%%-*}-*.md" | wc -l)" != 1 ]; then
			printf '%s shares its number with another record\n' "$file"
			status=1
		fi
	done
	return "$status"
}

# Whether the threat model names every test of an attack, and no other.
attacks_are_listed() {
	local tests listed
	tests=$(grep -rhoE --include='*.rs' --exclude-dir=target '\bfn attack_[0-9]+_\w+' . | sed 's/^fn //' | sort -u)
	listed=$(grep -oE '\battack_[0-9]+_\w+' docs/threat-model.md | sort -u)
	diff <(printf '%s\n' "$tests") <(printf '%s\n' "$listed") |
		sed -n 's/^< /docs\/threat-model.md does not name /p; s/^> /there is no test by this name: /p'
	[ "$tests" = "$listed" ]
}

# Whether all crates from elsewhere are of the registry, under licenses that deny.toml allows, and none that it bans.
dependencies_are_allowed() {
	local allowed banned wrong
	allowed=$(sed -n '/^allow = \[/,/^\]/s/^ *"\(.*\)",$/\1/p' deny.toml | jq -Rn '[inputs]') || return
	banned=$(sed -n 's/^ *{ crate = "\(.*\)" },$/\1/p' deny.toml | jq -Rn '[inputs]') || return
	# An expression of SPDX: one of the parts around OR has to be allowed in each part around AND.
	wrong=$(cargo metadata --locked --format-version 1 | jq -r --argjson allowed "$allowed" --argjson banned "$banned" '
		def alternatives: gsub("[()]"; "") | gsub("\\+"; "") | [splits(" OR |/| / ")] | map(gsub("^ +| +$"; ""));
		.packages[] | select(.source != null)
		| (.license // "") as $license
		| (if .source != "registry+https://github.com/rust-lang/crates.io-index" then "is from \(.source)"
		   elif (.name | IN($banned[])) then "is banned"
		   elif ([$license | splits(" AND ")] | all(alternatives | any(IN($allowed[]))) | not) then "is under \"\($license)\""
		   else empty end) as $why
		| "\(.name) \(.version) \($why): deny.toml"') || return
	[ -z "$wrong" ] || { printf '%s\n' "$wrong"; return 1; }
}

# The scripts of the repository: what says so in its first line, and what such files source.
scripts() {
	local file first
	git ls-files | while read -r file; do
		case $file in *.sh) printf '%s\n' "$file"; continue ;; esac
		[ -f "$file" ] && IFS= read -r first <"$file" 2>/dev/null || continue
		case $first in '#!'*bash | '#!'*sh) printf '%s\n' "$file" ;; esac
	done
}

scripts_are_sound() {
	local files
	mapfile -t files < <(scripts)
	[ ${#files[@]} -gt 0 ] || { printf 'there are no scripts in what git lists\n'; return 1; }
	shellcheck --shell=bash --severity=warning "${files[@]}"
}

# A link that leads nowhere, or markup that is none.
documents_build() {
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet "$@"
}

# Whether every name of a function, and so of a test, has at most 60 characters: what does not fit is for its doc comment.
names_are_short() {
	local files=() file line name status=0
	mapfile -t files < <(find . \( -name target -o -name .git \) -prune -o -type f -name '*.rs' -print)
	[ ${#files[@]} -gt 0 ] || { printf 'there are no .rs files below %s\n' "$PWD"; return 1; }
	while IFS=: read -r file line name; do
		name=${name##*[[:space:]]}
		printf '%s:%s: %s has %d characters, and may have 60: shorten it, and say the rest in a doc comment\n' \
			"$file" "$line" "$name" "${#name}"
		status=1
	done < <(grep -HnoE '\<fn[[:space:]]+[[:alnum:]_]{61,}' "${files[@]}")
	return "$status"
}

# Whether every source file says its license: the eBPF programs theirs, all others the workspace's.
files_say_their_license() {
	local file license status=0
	while read -r file; do
		case $file in bpf/src/*) license='MIT OR GPL-2.0-only' ;; *) license='Apache-2.0 OR MIT' ;; esac
		head -2 "$file" | grep -qE "^(//|#) SPDX-License-Identifier: $license\$" && continue
		printf '%s does not say in its first two lines: SPDX-License-Identifier: %s\n' "$file" "$license"
		status=1
	done < <(git ls-files '*.rs' '*.go'; scripts)
	return "$status"
}
