{{- define "s2l.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "s2l.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "s2l.labels" -}}
{{ include "s2l.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
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
{{- $all := ternary (list) (list .Values.accelerator.count) (eq $kind "cpu") }}
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
{{- if ne (int $chips) (int $accelerator.count) }}
{{- fail (printf "accelerator.gkeTpuTopology %s has %d chips, but accelerator.count is %d: s2l serves slices of one host, whose chips all belong to one pod" $accelerator.gkeTpuTopology (int $chips) (int $accelerator.count)) }}
{{- end }}
{{- end }}
{{- $engines := .Values.engines }}
{{- if or (and $engines.prefill (not $engines.generate)) (and $engines.generate (not $engines.prefill)) (and $engines.both $engines.prefill) }}
{{- fail "engines.prefill and engines.generate go together, and without engines.both" }}
{{- end }}
{{- $devices := 0 }}
{{- range concat .Values.engines.both .Values.engines.prefill .Values.engines.generate }}{{ $devices = add $devices . }}{{ end }}
{{- if and $devices (ne $accelerator.kind "cpu") (ne (int $devices) (int $accelerator.count)) }}
{{- fail (printf "engines have %d devices, but accelerator.count is %d" (int $devices) (int $accelerator.count)) }}
{{- end }}
{{- if and (eq .Values.cache.kind "create") (eq .Values.cache.accessMode "ReadWriteOnce") (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) }}
{{- fail "cache.accessMode is ReadWriteOnce, but there may be several replicas: give ReadWriteMany, or cache.kind emptyDir" }}
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
