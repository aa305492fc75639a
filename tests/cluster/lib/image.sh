# SPDX-License-Identifier: Apache-2.0 OR MIT
# The images of a cluster's tests. For sourcing by tests/cluster/up, behind install/image/oci.sh.

# An image whose only content is a static program: make_image PROGRAM REFERENCE ARCHIVE ENTRYPOINT-AS-JSON
make_image() {
	local content architecture
	content=$(mktemp -d "${3%/*}/content-XXXXXX")
	chmod 0755 "$content"
	mkdir "$content/tmp"
	chmod 1777 "$content/tmp"
	cp "$1" "$content/"
	case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
	make_oci_archive "$content" "$2" "$3" "$architecture" "$4"
	rm -r "$content"
}
