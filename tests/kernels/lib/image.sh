# SPDX-License-Identifier: Apache-2.0 OR MIT
# Initramfs images of guests, for sourcing: one with the programs, for all, and one with its modules for each kernel.
# The kernel unpacks both, one behind the other.

# Programs of this machine that tests and CNI plugins call.
tools=(/bin/sh ip tc bridge ethtool nft sleep cat setarch /usr/lib/cni/ptp /usr/lib/cni/bridge /usr/lib/cni/host-local /usr/lib/cni/bandwidth
	/usr/lib/cni/portmap /usr/lib/cni/macvlan /usr/lib/cni/static)

# Packs a directory into an initramfs: pack DIRECTORY FILE
pack() { (cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2"; }

# Copies a program, and the libraries that it names: bring FILE PLACE
bring() {
	local from=$1 to=$2 library
	mkdir -p "$(dirname "$to")"
	cp -L "$from" "$to"
	chmod 0755 "$to"
	# A static program names none.
	{ ldd "$from" 2>/dev/null | grep -oE '/[^ ]+' || true; } | while read -r library; do
		[ -e "$tree$library" ] || { mkdir -p "$tree$(dirname "$library")" && cp -L "$library" "$tree$library"; }
	done
}

# The image with programs: programs_image FILE NAME=TEST_BINARY...
programs_image() {
	local file=$1 tree=$scratch/programs tool path pair name
	shift
	mkdir -p "$tree"/{bin,dev,proc,sys,tmp,run,root,etc,var,podgate/deps}
	bring "$(command -v busybox)" "$tree/bin/busybox"
	cp "$root/tests/kernels/init" "$tree/init"
	for tool in "${tools[@]}"; do
		path=$(command -v "$tool") || fail "$tool is missing"
		bring "$path" "$tree$path"
	done
	for pair; do
		name=${pair%%=*}
		bring "${pair#*=}" "$tree/podgate/$name"
		strip "$tree/podgate/$name"
	done
	pack "$tree" "$file"
}

# Unpacks the pinned packages of a kernel, each verified first: unpack KERNEL DIRECTORY
unpack() {
	local package version sum file
	while read -r _ _ package version sum; do
		file=$(kept "$package" "$version")
		is_pinned "$file" "$sum" || fail "$file is not the package of tests/kernels/pins: tests/kernels/fetch"
		dpkg-deb --fsys-tarfile "$file" | tar -x -C "$2" --wildcards '*/vmlinuz*' \
			'*/kernel/net/*' '*/kernel/drivers/net/*' '*/kernel/lib/*' '*/kernel/crypto/*' '*/kernel/arch/x86/crypto/*' \
			2>/dev/null || true
	done < <(pins | awk -v kernel="$1" '$1 == kernel')
}

# The kernel, as DIRECTORY/vmlinuz, and its modules as an image: kernel_image KERNEL DIRECTORY
kernel_image() {
	local kernel=$1 directory=$2 release tree=$2/tree modules found name path
	mkdir -p "$directory/unpacked" "$tree/modules"
	unpack "$kernel" "$directory/unpacked"
	found=$(find "$directory/unpacked" -name 'vmlinuz*' -type f)
	[ -n "$found" ] || fail "the packages of kernel $kernel have no vmlinuz"
	mv "$found" "$directory/vmlinuz"
	modules=$(find "$directory/unpacked" -type d -path '*/lib/modules/*' -prune | head -n 1)
	release=$(basename "$modules")
	mkdir -p "$directory/lib/modules"
	mv "$modules" "$directory/lib/modules/$release"
	modules=$directory/lib/modules/$release
	find "$modules" -name '*.ko.xz' -exec xz -d -T1 {} +
	dependencies "$modules" >"$directory/dependencies"
	modules_of "$kernel" >"$directory/wanted"
	while read -r name _; do
		grep -q "^$name " "$directory/dependencies" ||
			fail "Linux $kernel has no module $name: tests/kernels/modules is to say which kernels have it"
	done <"$directory/wanted"
	while read -r name path; do
		# Without their types and signature, which a guest would verify for seconds.
		objcopy --remove-section .BTF "$path" "$tree/modules/$name.ko"
		awk -v name="$name" '$1 == name { found = $0 } END { print found == "" ? name : found }' "$directory/wanted" >>"$tree/modules/order"
	done < <(in_order "$directory/dependencies" <"$directory/wanted")
	cp "$directory/plan" "$tree/plan"
	pack "$tree" "$directory/modules.img"
	rm -rf "${directory:?}/unpacked" "${directory:?}/lib" "$tree"
}

# name parameter... of every module that a kernel's guest loads: modules_of KERNEL
modules_of() {
	rows "$root/tests/kernels/modules" | awk -F' *[|] *' -v kernel="$1" '
		$2 == "" || index(" " $2 " ", " " kernel " ") { name = $1; sub(" .*", "", name); rest = substr($1, length(name) + 1)
			gsub("-", "_", name); print name rest }'
}

# name path dependency... of every module below a directory, as the modules say themselves.
dependencies() {
	find "$1" -name '*.ko' -exec grep -azHo '^depends=.*' {} + | tr '\0' '\n' | awk -F: '{
		path = $1; name = $1; needs = $2
		sub(".*/", "", name); sub("[.]ko$", "", name); gsub("-", "_", name)
		sub("^depends=", "", needs); gsub(",", " ", needs); gsub("-", "_", needs)
		print name, path, needs }'
}

# name path of the modules that stdin names, with all that they need, each behind what it needs: in_order DEPENDENCIES
in_order() {
	awk '
		NR == FNR { path[$1] = $2; for (i = 3; i <= NF; i++) needs[$1] = needs[$1] " " $i; next }
		function visit(name, list, count, i) {
			if (name in seen || !(name in path)) return
			seen[name] = 1
			count = split(needs[name], list, " ")
			for (i = 1; i <= count; i++) visit(list[i])
			print name, path[name]
		}
		{ visit($1) }' "$1" -
}
