# SPDX-License-Identifier: Apache-2.0 OR MIT
# Guests, for sourcing: what they are to run, and how they are started, watched and judged.

# 1 in the long form.
PODGATE_LONG=${PODGATE_LONG:-0}

# Seconds that a guest may take from power-on to its last line.
deadline=${PODGATE_GUEST_SECONDS:-$((PODGATE_LONG ? 3600 : 420))}

# The lines of a guest's plan, BINARY FILTER... --skip FILTER...: plan KERNEL
plan() {
	local kernel=$1 binary
	for binary in "${binaries[@]}"; do
		rows "$root/tests/kernels/selection" | awk -F' *[|] *' -v kernel="$kernel" -v binary="$binary" -v long="$PODGATE_LONG" '
			function here(kernels, list, count, i) {
				count = split(kernels, list, " ")
				for (i = 1; i <= count; i++) if (list[i] == "all" || list[i] == kernel) return 1
				return 0
			}
			$2 == binary && here($1) && ($3 == "run" || $3 == "long" && long) { run = run " " $4 }
			$2 == binary && here($1) && ($3 == "skip" || $3 == "short" && !long) { skip = skip " --skip " $4 }
			END { if (run != "") print binary run skip }'
	done
}

# The plan that `--only BINARY:FILTER` asks for, whatever the selection says.
asked_plan() {
	local one
	for one in "${only[@]}"; do printf '%s %s\n' "${one%%:*}" "${one#*:}"; done
}

# Boots a kernel and waits until it has turned itself off, or the deadline: boot KERNEL DIRECTORY
boot() {
	local kernel=$1 directory=$2 machine
	# What costs an emulated processor most: string instructions, which it does byte by byte and Linux prefers where they
	# are fast; the same code at other addresses, which it translates once more; clearing what is given out.
	timeout --kill-after=10 "$deadline" qemu-system-x86_64 \
		-accel tcg,thread=multi -cpu max,-erms -smp "$cpus" -m 2048 -nodefaults -no-user-config -display none -no-reboot \
		-kernel "$directory/vmlinuz" -initrd "$directory/initramfs" \
		-append "console=ttyS0 panic=-1 loglevel=5 rdinit=/init mitigations=off nokaslr norandmaps init_on_alloc=0 audit=0 tsc=reliable" \
		-serial "file:$directory/kernel.log" -serial "file:$directory/tests.log" \
		>"$directory/qemu.log" 2>&1 </dev/null &
	machine=$!
	trap 'kill "$machine" 2>/dev/null; wait "$machine"; exit 143' TERM
	wait "$machine"
}

# Prints what a guest said, with its kernel in the tests' names, and fails when it did not come to its end.
report() {
	local kernel=$1 directory=$2 status=$3
	sed -e "s/^test \(.* \.\.\. \)/test linux-$kernel::\1/" -e "s/^    \([a-z_0-9]*::\)/    linux-$kernel::\1/" -e 's/\r$//' "$directory/tests.log"
	if ! grep -q '^guest: done' "$directory/tests.log"; then
		printf 'test linux-%s::the_guest_comes_to_its_end ... FAILED\n' "$kernel"
		printf '    qemu ended with %s (124: the deadline of %s s). Its log ends so:\n' "$status" "$deadline"
		tail -n 5 "$directory/qemu.log"
		tail -n 40 "$directory/kernel.log"
		printf 'test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n'
		return 1
	fi
	if grep -qE 'Call Trace:|BUG:|WARNING:|Oops' "$directory/kernel.log"; then
		printf 'guest: the log of Linux %s has warnings:\n' "$kernel"
		grep -nE -A12 'BUG:|WARNING:|Oops' "$directory/kernel.log" | head -n 40
	fi
	if grep -q '^guest: module .* does not load' "$directory/tests.log"; then
		printf 'test linux-%s::the_guest_has_its_modules ... FAILED\n' "$kernel"
		printf 'test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n'
		return 1
	fi
	! grep -qE '^guest: [a-z]+ ended with [^0]' "$directory/tests.log"
}
