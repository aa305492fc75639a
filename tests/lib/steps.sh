# SPDX-License-Identifier: Apache-2.0 OR MIT
# Steps of levels: run within the level's budget, shown, counted. For sourcing by tests/run.

passed=0
failed=0
failures=()
results=()
running=
scratch=$(mktemp -d "${TMPDIR:-/tmp}/podgate-tests-XXXXXX")
# What tests make, they make here: those that are killed cannot take it away again.
export TMPDIR=$scratch/tmp
mkdir "$TMPDIR"
trap clean_up EXIT
trap 'stop INT' INT
trap 'stop TERM' TERM

# Takes away what is left of this run, and of no other one: clusters, mounts (named namespaces among them) and files.
# What cannot be taken away is said; what the tests have found stays what they have found.
clean_up() {
	local place
	# Tests that were told to end still use it.
	for _ in {1..50}; do
		grep -qzsx "TMPDIR=$TMPDIR" /proc/[0-9]*/environ || break
		sleep 0.1
	done
	for place in "$TMPDIR"/clusters/*/; do
		[ -d "$place" ] || continue
		PODGATE_CLUSTERS=$TMPDIR/clusters "$root/tests/cluster/down" --name "$(basename "$place")" ||
			say "a cluster is left in $place"
	done
	while read -r place; do
		umount -l "$place" || say "$place is left mounted"
	done < <(awk -v below="$scratch/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | sort -r)
	rm -rf "$scratch" || say "files are left in $scratch"
}

# Ends what is running, with all its children, and waits until it has cleaned up.
stop() {
	if [ -n "$running" ]; then
		kill "$running" 2>/dev/null || true
		wait "$running" 2>/dev/null || true
	fi
	fail "ended by SIG$1"
}

passed_step() {
	passed=$((passed + 1))
	say "passed: $1"
}

failed_step() {
	failed=$((failed + 1))
	failures+=("$level: $1")
	say "FAILED: $1"
}

# Runs a command within what is left of the level's budget: its output is shown, and stays in $scratch/log.
within_budget() {
	local left=$((budget[$level] - (SECONDS - level_start))) status=0
	: >"$scratch/log"
	if [ "$left" -le 0 ]; then
		say "the budget of level $level, ${budget[$level]} s, is used up"
		return 124
	fi
	timeout --kill-after=30 "$left" "$@" >"$scratch/log" 2>&1 </dev/null &
	running=$!
	# A process that somebody leaves behind holds no pipe open this way.
	tail -n +1 -f --pid="$running" --sleep-interval=0.2 "$scratch/log" &
	local shown=$!
	wait "$running" || status=$?
	running=
	wait "$shown" || true
	[ "$status" != 124 ] || say "ended: the budget of level $level is ${budget[$level]} s"
	return "$status"
}

# One step that passes or fails as a whole: step NAME COMMAND...; a COMMAND may be a function of ours.
step() {
	local name=$1 status=0
	shift
	say "$level: $name"
	if [ "$(type -t "$1")" = function ]; then
		"$@" || status=$?
	else
		within_budget "$@" || status=$?
	fi
	if [ "$status" = 0 ]; then passed_step "$name"; else failed_step "$name (exit $status)"; fi
}

# One step whose tests are counted by what cargo says of them.
cargo_tests() {
	local name=$1 status=0 ran bad ignored
	shift
	say "$level: $name"
	within_budget "$@" || status=$?
	read -r ran bad ignored < <(awk '
		/^test result: / { ran += $4; bad += $6; ignored += $8 }
		END { print ran + 0, bad + 0, ignored + 0 }' "$scratch/log")
	passed=$((passed + ran))
	failed=$((failed + bad))
	if [ "$bad" -gt 0 ]; then
		failures+=("$level: $name: $(awk '/^test .* FAILED$/ { printf "%s%s", sep, $2; sep = ", " }' "$scratch/log")")
	elif [ "$status" != 0 ]; then
		failed_step "$name (exit $status)"
	elif [ "$ignored" -gt 0 ]; then
		failed_step "$name: $ignored tests are ignored, and a test that does not run does not count as passed"
	elif [ "$ran" = 0 ]; then
		failed_step "$name: not one test ran"
	fi
	say "$name: $ran passed, $bad failed"
}

# What a level took, against what it should take with warm caches and may take with cold ones: took LEVEL VERDICT SECONDS
took() {
	local note=
	if [ -n "${long[$1]:-}" ]; then
		note=', its long form'
	elif [ "$3" -gt "${warm[$1]}" ]; then
		note=', over what it should take with warm caches'
	fi
	printf '%-7s %-6s  %4d s, should take %4d s warm, may take %4d s%s' \
		"$1" "$2" "$3" "${warm[$1]}" "${budget[$1]}" "$note"
}

# Runs the level; one that cannot run has failed, and the next one runs nevertheless.
run_level() {
	level_start=$SECONDS
	local before=$((passed + failed)) failed_before=$failed verdict=passed
	say "level $level${long[$level]:+ in its long form}, at most ${budget[$level]} s"
	if (needs_to_build && "needs_$level"); then
		"level_$level"
		[ $((passed + failed)) -gt "$before" ] || failed_step "nothing ran"
	else
		failed_step "it cannot run: $(cat "$scratch/why")"
	fi
	[ "$failed" = "$failed_before" ] || verdict=FAILED
	results+=("$(took "$level" "$verdict" $((SECONDS - level_start)))")
	say "level ${results[-1]}"
}

# What became of every level, and of all of it in the last line.
summary() {
	printf '\n'
	printf '%s\n' "${results[@]}"
	printf '%-7s %-6s  %4d s\n' all '' $((SECONDS - began))
	[ "$failed" = 0 ] || printf 'failed: %s\n' "${failures[@]}"
	printf '%d passed, %d failed\n' "$passed" "$failed"
	[ "$failed" = 0 ]
}
