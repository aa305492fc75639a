{{/* SPDX-License-Identifier: Apache-2.0 OR MIT */}}
{{- define "podgate.labels" -}}
app.kubernetes.io/name: podgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "podgate.selector" -}}
app.kubernetes.io/name: podgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podgate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* A boolean that may be a string. */}}
{{- define "podgate.isTrue" -}}
{{- if eq (toString .) "true" }}true{{ end }}
{{- end }}

{{/* A bare port is one of loopback. */}}
{{- define "podgate.address" -}}
{{- $it := toString . -}}
{{- if and (regexMatch "^[0-9]+$" $it) (ne $it "0") }}127.0.0.1:{{ $it }}{{ else }}{{ $it }}{{ end }}
{{- end }}

{{/* Where the kubelet asks a listener of this address. */}}
{{- define "podgate.probeHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" -}}
{{- if has $host (list "" "0.0.0.0" "::") }}127.0.0.1{{ else }}{{ $host }}{{ end }}
{{- end }}

{{- define "podgate.metricsAddress" -}}
{{- $it := include "podgate.address" .Values.nodeAgent.metricsBindAddr -}}
{{- if and .Values.serviceMonitor.enabled (eq $it "0") }}{{ fail "serviceMonitor.enabled needs a port in nodeAgent.metricsBindAddr" }}{{ end -}}
{{- if .Values.serviceMonitor.enabled }}:{{ regexFind "[0-9]+$" $it }}{{ else }}{{ $it }}{{ end }}
{{- end }}

{{/* The plugin's object in the chain. */}}
{{- define "podgate.entry" -}}
{{- $entry := dict "type" "podgate" "enforcingMode" .Values.env.NETWORK_POLICY_ENFORCING_MODE -}}
{{- $_ := set $entry "waitMs" (int .Values.plugin.waitMs) -}}
{{- $_ := set $entry "onTimeout" .Values.plugin.onTimeout -}}
{{- $_ := set $entry "exemptNamespaces" .Values.plugin.exemptNamespaces -}}
{{ $entry | toJson }}
{{- end }}

{{- define "podgate.chainArgs" -}}
- --conf-dir={{ .Values.cni.confDir }}
- --bin-dir={{ .Values.cni.binDir }}
- --mode={{ .Values.cni.mode }}
- --own-file={{ .Values.cni.ownFile }}
- --entry={{ include "podgate.entry" . }}
{{- if .Values.cni.chainEarlier }}
- --chain-earlier
{{- end }}
{{- end }}

{{/* For containers that only write root-owned files of the host. */}}
{{- define "podgate.confined" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}
