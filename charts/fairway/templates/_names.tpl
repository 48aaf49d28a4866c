{{/* The name of nearly everything. Takes the values. */}}
{{- define "fairway.name" -}}
istiod{{ include "fairway.suffix" . }}
{{- end -}}

{{- define "fairway.suffix" -}}
{{- with .revision }}-{{ . }}{{ end -}}
{{- end -}}

{{/*
Whether objects of a scope, "cluster" or "namespace", are installed. Takes the
values and the scope.
*/}}
{{- define "fairway.scope" -}}
{{- $values := index . 0 -}}
{{- if has $values.global.resourceScope (list "all" (index . 1)) -}}true{{- end -}}
{{- end -}}

{{/* Labels of every object. Takes the root context and the values. */}}
{{- define "fairway.labels" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
app: istiod
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service | quote }}
app.kubernetes.io/name: istiod
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | quote }}
istio.io/rev: {{ $values.revision | default "default" | quote }}
release: {{ $root.Release.Name | quote }}
{{- end -}}

{{/*
The labels of an object to which the user adds some. Takes the root context, the
values, what is added, which wins over those of every object, and what wins over
that because selectors need it.
*/}}
{{- define "fairway.labelsWith" -}}
{{- $labels := include "fairway.labels" . | fromYaml -}}
{{- range $more := list (index . 2) (index . 3) -}}
  {{- range $key, $value := $more -}}
    {{- $_ := set $labels $key (include "fairway.text" $value) -}}
  {{- end -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{/*
The pods of this control plane. A Deployment's selector cannot change, so this is
exactly istiod's: one release can change from one chart to the other and back.
*/}}
{{- define "fairway.selector" -}}
{{- if .revision -}}
app: istiod
istio.io/rev: {{ .revision | quote }}
{{- else -}}
istio: pilot
{{- end -}}
{{- end -}}

{{/* What a Service for this control plane looks like. Takes the values. */}}
{{- define "fairway.serviceSpec" -}}
ports:
# Plaintext, without secrets.
- name: grpc-xds
  port: 15010
  protocol: TCP
- name: https-dns
  port: 15012
  protocol: TCP
# Nothing is served there yet. The port is part of what others expect.
- name: https-webhook
  port: 443
  protocol: TCP
  targetPort: 15017
- name: http-monitoring
  port: 15014
  protocol: TCP
selector:
  app: istiod
  {{- if .revision }}
  istio.io/rev: {{ .revision | quote }}
  {{- else }}
  istio: pilot
  {{- end }}
{{- with .ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .ipFamilies }}
ipFamilies: {{ toYaml . | nindent 0 }}
{{- end }}
{{- with .trafficDistribution }}
trafficDistribution: {{ . }}
{{- end }}
{{- end -}}

{{/* The image of the control plane. Takes the root context and the values. */}}
{{- define "fairway.image" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- if contains "/" $values.image -}}
{{- $values.image -}}
{{- else -}}
{{- $tag := include "fairway.text" ($values.tag | default $root.Chart.AppVersion) -}}
{{- printf "%s%s:%s" (empty $values.hub | ternary "" (printf "%s/" $values.hub)) $values.image $tag -}}
{{- end -}}
{{- end -}}

{{/* The account that ztunnels have. Takes the root context and the values. */}}
{{- define "fairway.ztunnel" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- printf "%s/%s" ($values.trustedZtunnelNamespace | default $root.Release.Namespace) ($values.trustedZtunnelName | default "ztunnel") -}}
{{- end -}}

{{/* How many replicas there are at least. Takes the values. */}}
{{- define "fairway.replicas" -}}
{{- if .autoscaleEnabled -}}
{{- .autoscaleMin | default 1 | int -}}
{{- else -}}
{{- hasKey . "replicaCount" | ternary (get . "replicaCount") 1 | int -}}
{{- end -}}
{{- end -}}
