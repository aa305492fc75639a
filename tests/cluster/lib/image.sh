# SPDX-License-Identifier: Apache-2.0 OR MIT
# Images without a registry: an OCI archive of one static program. For sourcing by tests/cluster/up.

# Adds a file to the archive's blobs under its digest, and says its descriptor: blob LAYOUT FILE MEDIA-TYPE
blob() {
	local digest size
	digest=$(sha256sum <"$2" | cut -d' ' -f1)
	size=$(stat -c %s "$2")
	mv "$2" "$1/blobs/sha256/$digest"
	printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d}' "$3" "$digest" "$size"
}

# An image whose only content is a static program: make_image PROGRAM REFERENCE ARCHIVE ENTRYPOINT-AS-JSON
make_image() {
	local layout layer config manifest difference architecture
	layout=$(mktemp -d "${3%/*}/image-XXXXXX")
	mkdir -p "$layout/blobs/sha256" "$layout/root/tmp"
	chmod 1777 "$layout/root/tmp"
	cp "$1" "$layout/root/"
	tar -C "$layout/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$layout/layer" .
	rm -r "$layout/root"
	case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac

	difference=sha256:$(sha256sum <"$layout/layer" | cut -d' ' -f1)
	layer=$(blob "$layout" "$layout/layer" layer.v1.tar)
	printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":%s},"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
		"$architecture" "$4" "$difference" >"$layout/config"
	config=$(blob "$layout" "$layout/config" config.v1+json)
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
		"$config" "$layer" >"$layout/manifest"
	manifest=$(blob "$layout" "$layout/manifest" manifest.v1+json)
	printf '{"schemaVersion":2,"manifests":[%s]}' \
		"$(jq -c --arg name "$2" '.annotations = {"io.containerd.image.name": $name}' <<<"$manifest")" >"$layout/index.json"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
	tar -C "$layout" -cf "$3" oci-layout index.json blobs
	rm -r "$layout"
}
