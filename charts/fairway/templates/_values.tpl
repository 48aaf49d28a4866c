{{/*
The values that every template reads, as JSON: defaults, then the profile, then
the platform, then what the user says, each over the one before. What is below
`pilot` is as if it were at the top level, as in istiod's chart, and wins there.
What is below the name that istiod's chart has for its defaults is over ours.

A template begins with

  {{- $values := include "fairway.values" . | fromJson }}

because Helm gives no order to templates in which one of them could prepare
.Values for the others.
*/}}
{{- define "fairway.values" -}}
{{- $given := include "fairway.given" . | fromJson -}}
{{- $values := include "fairway.defaults" . | fromJson -}}
{{- $global := $given.global | default dict -}}
{{- $profile := coalesce $given.profile $global.profile $values.profile -}}
{{- $platform := coalesce $global.platform $given.platform $values.platform | default "" -}}
{{- $file := printf "files/profiles/%s.yaml" $profile | .Files.Get -}}
{{- if or (not $file) (hasPrefix "platform-" $profile) -}}
  {{- fail (printf "profile: there is no profile %q" $profile) -}}
{{- end -}}
{{- $values = mustMergeOverwrite $values (fromYaml $file) -}}
{{- with $platform -}}
  {{- if eq . "openshift" -}}
    {{- $values = mustMergeOverwrite $values ($.Files.Get "files/profiles/platform-openshift.yaml" | fromYaml) -}}
  {{- else if not (has . (list "gke" "k3d" "k3s" "microk8s" "minikube")) -}}
    {{- fail (printf "platform: there is no platform %q" .) -}}
  {{- end -}}
{{- end -}}
{{- $values = mustMergeOverwrite $values $given -}}
{{- include "fairway.prune" $values -}}
{{- include "fairway.shapes" $values -}}
{{- range $list := list "env" "global" "meshConfig" "resources" "cpu" "memory" "pdb" "telemetry" "gateways" "base" "fairway" -}}
  {{- if not (kindIs "map" (index $values $list)) -}}
    {{- $_ := set $values $list dict -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $values "profile" $profile -}}
{{- $_ := set $values "platform" $platform -}}
{{- $_ := set $values.global "platform" $platform -}}
{{- if eq (toString $values.revision) "default" -}}
  {{- /* The control plane takes the two for one, too. */ -}}
  {{- $_ := set $values "revision" "" -}}
{{- end -}}
{{- $secrets := list -}}
{{- range $secret := $values.global.imagePullSecrets -}}
  {{- /* A name, or an object with one as pods have it. */ -}}
  {{- if kindIs "map" $secret -}}
    {{- $secret = $secret.name -}}
  {{- end -}}
  {{- $secrets = append $secrets $secret -}}
{{- end -}}
{{- $_ := set $values.global "imagePullSecrets" $secrets -}}
{{- include "fairway.refuse" $values -}}
{{- toJson $values -}}
{{- end -}}

{{/* What is over the values of nobody: ours, and those given as istiod's, as JSON. */}}
{{- define "fairway.defaults" -}}
{{- $defaults := deepCopy .Values.defaults -}}
{{- with index .Values "_internal_defaults_do_not_set" -}}
  {{- $defaults = mustMergeOverwrite $defaults (deepCopy .) -}}
{{- end -}}
{{- if eq (include "fairway.foreignImage" $defaults) "true" -}}
  {{- $_ := set $defaults "image" .Chart.Name -}}
{{- end -}}
{{- toJson $defaults -}}
{{- end -}}

{{/* What the user says, without `pilot`, as JSON. */}}
{{- define "fairway.given" -}}
{{- $given := omit .Values "defaults" "_internal_defaults_do_not_set" "pilot" | deepCopy -}}
{{- with .Values.pilot -}}
  {{- $given = mustMergeOverwrite $given (deepCopy .) -}}
{{- end -}}
{{- /* A name with nothing below it, such as one whose lines are all comments. */}}
{{- range $block := list "base" "env" "fairway" "gateways" "global" "meshConfig" "telemetry" -}}
  {{- if kindIs "invalid" (index $given $block) -}}
    {{- $_ := unset $given $block -}}
  {{- end -}}
{{- end -}}
{{- /* istiod's own image is not ours. */ -}}
{{- if eq (include "fairway.foreignImage" $given) "true" -}}
  {{- $_ := unset $given "image" -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{/* Whether the image that is said is the one of istiod. */}}
{{- define "fairway.foreignImage" -}}
{{- $name := toString .image | splitList "/" | last | splitList "@" | first | splitList ":" | first -}}
{{- eq $name "pilot" -}}
{{- end -}}

{{/* Takes out what is null: that is how a user takes a default away. */}}
{{- define "fairway.prune" -}}
{{- range $key, $value := . -}}
  {{- if kindIs "invalid" $value -}}
    {{- $_ := unset $ $key -}}
  {{- else if kindIs "map" $value -}}
    {{- include "fairway.prune" $value -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses a text where a list belongs, and the like: templates would say less of it. */}}
{{- define "fairway.shapes" -}}
{{- $lists := list "envVarFrom" "extraContainerArgs" "initContainers" "ipFamilies" "revisionTags" "tolerations" "topologySpreadConstraints" "volumeMounts" "volumes" -}}
{{- $maps := list "affinity" "base" "cpu" "deploymentAnnotations" "deploymentLabels" "env" "fairway" "gatewayClasses" "gateways" "global" "memory" "meshConfig" "nodeSelector" "pdb" "podAnnotations" "podLabels" "resources" "serviceAccountAnnotations" "serviceAnnotations" "telemetry" -}}
{{- range $kind, $names := dict "list" $lists "map" $maps -}}
  {{- range $name := $names -}}
    {{- if and (hasKey $ $name) (not (eq (kindOf (index $ $name) | replace "slice" "list") $kind)) -}}
      {{- fail (printf "%s: %s is not a %s" $name (index $ $name | toJson) $kind) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $secrets := (.global).imagePullSecrets -}}
{{- if not (or (kindIs "invalid" $secrets) (kindIs "slice" $secrets)) -}}
  {{- fail (printf "global.imagePullSecrets: %s is not a list" (toJson $secrets)) -}}
{{- end -}}
{{- end -}}

{{/*
Refuses what would be an installation of another shape. To ignore these would
leave a cluster with a control plane it must not have, or proxies without one.
*/}}
{{- define "fairway.refuse" -}}
{{- if (.istiodRemote).enabled -}}
  {{- fail "istiodRemote.enabled: a control plane outside the cluster is not supported" -}}
{{- end -}}
{{- if .global.externalIstiod -}}
  {{- fail "global.externalIstiod: a control plane for other clusters is not supported" -}}
{{- end -}}
{{- $provider := toString .global.pilotCertProvider -}}
{{- if or (eq $provider "kubernetes") (hasPrefix "k8s.io/" $provider) -}}
  {{- fail (printf "global.pilotCertProvider: %s is not supported" $provider) -}}
{{- end -}}
{{- /* Proxies would get certificates of another root than those that there are. */ -}}
{{- if and .env.EXTERNAL_CA (ne (toString .env.ENABLE_CA_SERVER) "false") -}}
  {{- fail (printf "env.EXTERNAL_CA: %s: certificates are not asked for elsewhere; set env.ENABLE_CA_SERVER to false if proxies ask somebody else" (toString .env.EXTERNAL_CA)) -}}
{{- end -}}
{{- if not (has .global.resourceScope (list "all" "cluster" "namespace")) -}}
  {{- fail (printf "global.resourceScope: %q is not all, cluster or namespace" (toString .global.resourceScope)) -}}
{{- end -}}
{{- end -}}

{{/*
What the user says and this chart does not read, as JSON: `ignored`, reasons by
path, and `unknown`, paths. Nothing is ignored that is empty or false, so that a
file with all of istiod's defaults is not complained of.
*/}}
{{- define "fairway.unread" -}}
{{- $table := .Files.Get "files/values-table.yaml" | fromYaml -}}
{{- $found := dict "ignored" dict "unknown" list -}}
{{- /* Somebody's defaults are among ours, which are all read. */}}
{{- $given := deepCopy .Values.defaults -}}
{{- with index .Values "_internal_defaults_do_not_set" -}}
  {{- $given = mustMergeOverwrite $given (deepCopy .) -}}
{{- end -}}
{{- $given = omit .Values "defaults" "_internal_defaults_do_not_set" "pilot" | deepCopy | mustMergeOverwrite $given -}}
{{- with .Values.pilot -}}
  {{- $given = mustMergeOverwrite $given (deepCopy .) -}}
{{- end -}}
{{- if eq (include "fairway.foreignImage" $given) "true" -}}
  {{- $_ := set $found.ignored "image" (printf "%s is the image of istiod" $given.image) -}}
{{- end -}}
{{- include "fairway.walk" (dict "value" $given "path" "" "row" "" "table" $table "found" $found) -}}
{{- $_ := set $found "unknown" (sortAlpha $found.unknown) -}}
{{- toJson $found -}}
{{- end -}}

{{- define "fairway.walk" -}}
{{- $row := .row -}}
{{- if and (not $row) (hasKey .table.ignored .path) -}}
  {{- $row = .path -}}
{{- end -}}
{{- if has .path .table.read -}}
{{- else if kindIs "map" .value -}}
  {{- range $key, $value := .value -}}
    {{- $path := empty $.path | ternary $key (printf "%s.%s" $.path $key) -}}
    {{- include "fairway.walk" (dict "value" $value "path" $path "row" $row "table" $.table "found" $.found) -}}
  {{- end -}}
{{- else if $row -}}
  {{- if .value -}}
    {{- $_ := set .found.ignored $row (index .table.ignored $row) -}}
  {{- end -}}
{{- else if not (kindIs "invalid" .value) -}}
  {{- $_ := set .found "unknown" (append .found.unknown .path) -}}
{{- end -}}
{{- end -}}

{{/* The same for people, one line each; nothing if there is nothing. */}}
{{- define "fairway.unreadLines" -}}
{{- $unread := include "fairway.unread" . | fromJson -}}
{{- range $path, $reason := $unread.ignored }}
{{ $path }}: {{ $reason }}
{{- end }}
{{- range $path := $unread.unknown }}
{{ $path }}: not a value of this chart, nor of istiod's
{{- end }}
{{- end -}}

{{/* A value as text. Helm reads numbers as floats, and prints long ones as 1e+06. */}}
{{- define "fairway.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}
