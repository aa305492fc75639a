# SPDX-License-Identifier: Apache-2.0 OR MIT
# Container images without a daemon and without a registry: OCI archives (image-spec 1.0, image layout). For sourcing.

# Adds a file to the archive's blobs under its digest, and says its descriptor: blob LAYOUT FILE MEDIA-TYPE
blob() {
	local digest size
	digest=$(sha256sum <"$2" | cut -d' ' -f1)
	size=$(stat -c %s "$2")
	mv "$2" "$1/blobs/sha256/$digest"
	printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d}' "$3" "$digest" "$size"
}

# The same bytes from the same files, whoever owns them and whenever they were made.
same_tar() {
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar "$@"
}

# An image with the files of a directory: make_oci_archive DIRECTORY REFERENCE ARCHIVE ARCHITECTURE ENTRYPOINT-AS-JSON
make_oci_archive() {
	local layout layer config manifest difference
	layout=$(mktemp -d "${3%/*}/image-XXXXXX")
	mkdir -p "$layout/blobs/sha256"
	same_tar -C "$1" -cf "$layout/layer" .
	difference=sha256:$(sha256sum <"$layout/layer" | cut -d' ' -f1)
	gzip -n -9 "$layout/layer"
	layer=$(blob "$layout" "$layout/layer.gz" layer.v1.tar+gzip)
	printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":%s},"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
		"$4" "$5" "$difference" >"$layout/config"
	config=$(blob "$layout" "$layout/config" config.v1+json)
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
		"$config" "$layer" >"$layout/manifest"
	manifest=$(blob "$layout" "$layout/manifest" manifest.v1+json)
	printf '{"schemaVersion":2,"manifests":[%s]}' \
		"$(jq -c --arg name "$2" '.annotations = {"io.containerd.image.name": $name}' <<<"$manifest")" >"$layout/index.json"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
	same_tar -C "$layout" -cf "$3" oci-layout index.json blobs
	rm -r "$layout"
}
