{{/* The command line of a server. Given `root` and `peers`, the addresses of engines in pods of their own. */}}
{{- define "s2l.serverArgs" -}}
{{- $peers := .peers }}
{{- with .root }}
- serve
- --model={{ .Values.model.name }}
- --host=0.0.0.0
- --port=9000
- --http-port=8000
{{- with include "s2l.slices" . | trim }}{{ . | nindent 0 }}{{ end }}
{{- if gt (int .Values.accelerator.hosts) 1 }}
{{ include "s2l.world" . }}
{{- end }}
{{- if $peers }}
- --role={{ .Values.engines.pods.own }}
- --peers={{ join "," $peers }}
{{- end }}
{{- if .Values.apiKeys.secretName }}
- --api-keys=/etc/s2l/keys/{{ .Values.apiKeys.key }}
{{- if or (ne .Values.monitoring.kind "none") .Values.gateway.enabled }}
- --open-path=/metrics
{{- end }}
{{- end }}
{{- if .Values.tls.secretName }}
- --tls-cert=/etc/s2l/tls/tls.crt
- --tls-key=/etc/s2l/tls/tls.key
{{- end }}
- --drain-timeout-s={{ .Values.server.drainTimeoutSeconds }}
- --quiet
{{- if and .Values.gateway.enabled (not (hasKey .Values.server.options "vllm-metrics")) }}
- --vllm-metrics
{{- end }}
{{- include "s2l.options" .Values.server.options }}
{{- end }}
{{- end }}

{{/* Options of `s2l serve` by their names, one argument each. */}}
{{- define "s2l.options" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}{{ if $value }}
- --{{ $name }}
{{- end }}
{{- else if kindIs "slice" $value }}{{ range $value }}
- {{ printf "--%s=%s" $name . | quote }}
{{- end }}
{{- else }}
- {{ printf "--%s=%s" $name (include "s2l.optionValue" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "s2l.serverPorts" -}}
{{- $scheme := printf "scheme: %s" (ternary "HTTPS" "HTTP" (ne .Values.tls.secretName "")) -}}
ports:
  - name: http
    containerPort: 8000
  - name: grpc
    containerPort: 9000
startupProbe:
  httpGet:
    path: /ready
    port: http
    {{ $scheme }}
  periodSeconds: 5
  failureThreshold: {{ max 1 (div (int .Values.server.startupSeconds) 5) }}
readinessProbe:
  httpGet:
    path: /ready
    port: http
    {{ $scheme }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /health
    port: http
    {{ $scheme }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.server.preStopSeconds }}
{{- end }}
