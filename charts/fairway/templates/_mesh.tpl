{{/*
The mesh configuration, as YAML: what single values say, and over it
`meshConfig`. Takes the root context and the values.
*/}}
{{- define "fairway.mesh" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- $global := $values.global -}}
{{- $proxy := $global.proxy | default dict -}}
{{- $address := printf "%s.%s.svc:15012" (include "fairway.name" $values) $root.Release.Namespace -}}
{{- $config := dict "discoveryAddress" $address -}}
{{- with $global.meshID -}}
  {{- $_ := set $config "meshId" . -}}
{{- end -}}
{{- with coalesce $proxy.variant $global.variant -}}
  {{- $_ := set $config "image" (dict "imageType" .) -}}
{{- end -}}
{{- $tracing := dict -}}
{{- $tracers := $global.tracer | default dict -}}
{{- $tracer := $proxy.tracer | default "none" -}}
{{- if eq $tracer "zipkin" -}}
  {{- $default := printf "zipkin.%s:9411" $global.istioNamespace -}}
  {{- $_ := set $tracing "zipkin" (dict "address" (($tracers.zipkin).address | default $default)) -}}
{{- else if eq $tracer "datadog" -}}
  {{- $_ := set $tracing "datadog" (dict "address" (($tracers.datadog).address | default "$(HOST_IP):8126")) -}}
{{- else if eq $tracer "lightstep" -}}
  {{- $_ := set $tracing "lightstep" (pick ($tracers.lightstep | default dict) "address" "accessToken") -}}
{{- else if eq $tracer "stackdriver" -}}
  {{- $_ := set $tracing "stackdriver" ($tracers.stackdriver | default dict) -}}
{{- end -}}
{{- /* istiod takes this from its environment; below, it has the same meaning. */ -}}
{{- with $values.traceSampling -}}
  {{- if ne (toString .) "1" -}}
    {{- $_ := set $tracing "sampling" . -}}
  {{- end -}}
{{- end -}}
{{- with $tracing -}}
  {{- $_ := set $config "tracing" . -}}
{{- end -}}
{{- $mesh := dict "trustDomain" "cluster.local" "rootNamespace" $global.istioNamespace "defaultConfig" $config -}}
{{- if not ($values.meshConfig).defaultProviders -}}
  {{- $telemetry := $values.telemetry -}}
  {{- $v2 := $telemetry.v2 | default dict -}}
  {{- $on := and $telemetry.enabled $v2.enabled ($v2.prometheus).enabled -}}
  {{- $_ := set $mesh "defaultProviders" (dict "metrics" (not $on | ternary list (list "prometheus"))) -}}
{{- end -}}
{{- mustMergeOverwrite $mesh (deepCopy $values.meshConfig) | toYaml -}}
{{- end -}}
