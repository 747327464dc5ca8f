{{- define "s2l.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that say which pods: given `root`, and `part` as in s2l.pod. */}}
{{- define "s2l.selectorOf" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "s2l.labelsOf" -}}
{{ include "s2l.selectorOf" . }}
{{- with .root }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- end }}

{{- define "s2l.selector" -}}
{{ include "s2l.selectorOf" (dict "root" . "part" "server") }}
{{- end }}

{{- define "s2l.labels" -}}
{{ include "s2l.labelsOf" (dict "root" . "part" "server") }}
{{- end }}

{{- define "s2l.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "s2l.name" .) }}
{{- else }}{{ required "serviceAccount.name: give the name of the account, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "s2l.image" -}}
{{- $target := dict "cpu" "cpu" "gpu" "cuda" "tpu" "tpu" }}
{{- .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion (get $target .Values.accelerator.kind)) }}
{{- end }}

{{- define "s2l.acceleratorResource" -}}
{{- if eq .Values.accelerator.kind "tpu" }}google.com/tpu: {{ .Values.accelerator.count }}
{{- else if eq .Values.accelerator.kind "gpu" }}nvidia.com/gpu: {{ .Values.accelerator.count }}
{{- end }}
{{- end }}

{{/* One YAML scalar for a value of an option; numbers of values files are floats, which toString writes as 1e+06. */}}
{{- define "s2l.optionValue" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/* Which devices each engine has, as options. */}}
{{- define "s2l.slices" -}}
{{- $kind := .Values.accelerator.kind }}
{{- $engines := .Values.engines }}
{{- $options := list (list "prefill-slices" $engines.prefill) (list "generate-slices" $engines.generate) }}
{{- if not $engines.prefill }}
{{- $all := ternary (list) (list (mul .Values.accelerator.count .Values.accelerator.hosts)) (eq $kind "cpu") }}
{{- $options = list (list "slices" ($engines.both | default $all)) }}
{{- end }}
{{- range $options }}
{{- $slices := list }}
{{- range last . }}{{ $slices = append $slices (printf "%s=%d" $kind (int .)) }}{{ end }}
{{- if $slices }}
- --{{ first . }}={{ join "," $slices }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a schema cannot say: values that do not go together. */}}
{{- define "s2l.check" -}}
{{- $accelerator := .Values.accelerator }}
{{- if $accelerator.gkeTpuTopology }}
{{- $chips := 1 }}
{{- range splitList "x" $accelerator.gkeTpuTopology }}{{ $chips = mul $chips (atoi .) }}{{ end }}
{{- if ne (int $chips) (int (mul $accelerator.count $accelerator.hosts)) }}
{{- fail (printf "accelerator.gkeTpuTopology %s has %d chips, but accelerator.count times accelerator.hosts is %d: all chips of a slice belong to one server" $accelerator.gkeTpuTopology (int $chips) (int (mul $accelerator.count $accelerator.hosts))) }}
{{- end }}
{{- end }}
{{- if gt (int $accelerator.hosts) 1 }}
{{- if or .Values.engines.both .Values.engines.prefill .Values.engines.generate .Values.engines.pods.prefill .Values.engines.pods.generate }}
{{- fail "an engine over several hosts is a server's only one: leave out engines, or let accelerator.hosts be 1" }}
{{- end }}
{{- if eq $accelerator.kind "cpu" }}
{{- fail "accelerator.hosts is for accelerators: let it be 1" }}
{{- end }}
{{- if .Values.strategy }}
{{- fail "strategy is of a Deployment, and several hosts are a LeaderWorkerSet: leave it out" }}
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
{{- fail "the hosts of an engine listen to each other without keys, which only a network policy makes up for: leave networkPolicy.enabled" }}
{{- end }}
{{- end }}
{{- $engines := .Values.engines }}
{{- $pods := add $engines.pods.prefill $engines.pods.generate }}
{{- if $pods }}
{{- if or $engines.both $engines.prefill $engines.generate }}
{{- fail "engines.pods are beside one engine of the server's own: leave out engines.both, engines.prefill and engines.generate" }}
{{- end }}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}
{{- fail "engines.pods are of one server: leave replicas at 1 and autoscaling off, and install the chart once more for another" }}
{{- end }}
{{- if and (eq $engines.pods.own "prefill") (not $engines.pods.generate) }}
{{- fail "engines.pods has nobody who generates: raise engines.pods.generate, or let engines.pods.own be both" }}
{{- end }}
{{- if and (eq $engines.pods.own "generate") (not $engines.pods.prefill) }}
{{- fail "engines.pods has nobody who computes contexts: raise engines.pods.prefill, or let engines.pods.own be both" }}
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
{{- fail "engines.pods listen without keys, which only a network policy makes up for: leave networkPolicy.enabled" }}
{{- end }}
{{- end }}
{{- if or (and $engines.prefill (not $engines.generate)) (and $engines.generate (not $engines.prefill)) (and $engines.both $engines.prefill) }}
{{- fail "engines.prefill and engines.generate go together, and without engines.both" }}
{{- end }}
{{- $devices := 0 }}
{{- range concat .Values.engines.both .Values.engines.prefill .Values.engines.generate }}{{ $devices = add $devices . }}{{ end }}
{{- if and $devices (ne $accelerator.kind "cpu") (ne (int $devices) (int $accelerator.count)) }}
{{- fail (printf "engines have %d devices, but accelerator.count is %d" (int $devices) (int $accelerator.count)) }}
{{- end }}
{{- if and (eq .Values.cache.kind "create") (eq .Values.cache.accessMode "ReadWriteOnce") (or $pods .Values.autoscaling.enabled (gt (int .Values.replicas) 1) (gt (int $accelerator.hosts) 1)) }}
{{- fail "cache.accessMode is ReadWriteOnce, but there may be several pods: give ReadWriteMany, or cache.kind emptyDir" }}
{{- end }}
{{- if and (eq .Values.model.volume "none") (hasPrefix "/" .Values.model.name) }}
{{- fail (printf "model.name is the directory %s, but model.volume is none: give claim or emptyDir" .Values.model.name) }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.egress) }}
{{- $outward := list }}
{{- if .Values.model.fetch }}{{ $outward = append $outward "model.fetch" }}{{ end }}
{{- if hasKey .Values.server.options "otlp-endpoint" }}{{ $outward = append $outward "server.options.otlp-endpoint" }}{{ end }}
{{- if $outward }}
{{- fail (printf "%s has to connect to somewhere, but networkPolicy.egress lets nothing out: give rules, such as [{}]" (join " and " $outward)) }}
{{- end }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas" }}
{{- end }}
{{- end }}
