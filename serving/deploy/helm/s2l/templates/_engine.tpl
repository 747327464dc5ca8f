{{/* The command line of an engine in a pod of its own. Given `root` and `role`. */}}
{{- define "s2l.engineArgs" -}}
{{- $role := .role }}
{{- with .root }}
- serve
- --role={{ $role }}
- --model={{ .Values.model.name }}
- --host=0.0.0.0
- --port=9100
{{- with include "s2l.slices" . | trim }}{{ . | nindent 0 }}{{ end }}
- --quiet
{{- include "s2l.engineOptions" . }}
{{- end }}
{{- end }}

{{/* Of server.options, those that an engine has to know; others are the server's. */}}
{{- define "s2l.engineOptions" -}}
{{- $own := list "block-size" "dtype" "host-kv-gib" "kv-blocks" "max-batch" "max-model-len" "max-sessions" "quantization" "token-budget" }}
{{- $options := dict }}
{{- range $own }}{{ if hasKey $.Values.server.options . }}{{ $_ := set $options . (get $.Values.server.options .) }}{{ end }}{{ end }}
{{- include "s2l.options" $options }}
{{- end }}

{{- define "s2l.enginePorts" -}}
ports:
  - name: engine
    containerPort: 9100
# It listens once all is compiled.
startupProbe:
  tcpSocket:
    port: engine
  periodSeconds: 5
  failureThreshold: {{ max 1 (div (int .Values.server.startupSeconds) 5) }}
readinessProbe:
  tcpSocket:
    port: engine
  periodSeconds: 5
livenessProbe:
  tcpSocket:
    port: engine
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* JSON list: HOST:PORT of all engines in pods of their own. */}}
{{- define "s2l.peers" -}}
{{- $peers := list }}
{{- $name := include "s2l.name" . }}
{{- $pods := .Values.engines.pods }}
{{- range $role := list "prefill" "generate" }}
{{- range until (int (get $pods $role)) }}
{{- $peers = append $peers (printf "%s-%s-%d.%s-engines:9100" $name $role . $name) }}
{{- end }}
{{- end }}
{{- toJson $peers }}
{{- end }}
