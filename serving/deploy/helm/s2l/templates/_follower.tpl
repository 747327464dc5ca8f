{{/* Which of an engine's processes this is, the set's controller says in the environment. */}}
{{- define "s2l.world" -}}
- --world=lws
- --world-join-s={{ .Values.server.startupSeconds }}
{{- end }}

{{/* The command line of a process that runs the steps of a server on another host. Given `root`. */}}
{{- define "s2l.followerArgs" -}}
{{- with .root }}
- serve
- --model={{ .Values.model.name }}
{{- with include "s2l.slices" . | trim }}{{ . | nindent 0 }}{{ end }}
{{ include "s2l.world" . }}
- --quiet
{{- include "s2l.engineOptions" . }}
{{- end }}
{{- end }}

{{/* Clients have no business here; its leader notices when it falls silent, ends, and the set starts both anew. */}}
{{- define "s2l.followerPorts" -}}
{{- end }}
