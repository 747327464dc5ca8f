{{/*
A pod, as a template of a workload. Given `root`, and `part`:
- server: what clients talk to, with an engine of its own;
- engine: an engine of `role` for one server, in a pod of its own;
- follower: what runs a server's steps with it on another host.
*/}}
{{- define "s2l.pod" -}}
{{- $part := .part }}
{{- $role := .role }}
{{- with .root }}
{{- $kind := .Values.accelerator.kind }}
{{- $peers := include "s2l.peers" . | fromJsonArray }}
metadata:
  labels:
    {{- include "s2l.labelsOf" (dict "root" . "part" $part) | nindent 4 }}
    {{- with $role }}
    s2l/role: {{ . }}
    {{- end }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "s2l.serviceAccount" . }}
  automountServiceAccountToken: false
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if ne $part "engine" }}
  # The pause before SIGTERM, the drain, and what the servers take to close.
  terminationGracePeriodSeconds: {{ add .Values.server.preStopSeconds .Values.server.drainTimeoutSeconds 15 }}
  {{- else }}
  # It ends at SIGTERM.
  terminationGracePeriodSeconds: 30
  {{- end }}
  securityContext:
    {{- if eq $kind "tpu" }}
    # GKE asks that a container raise its limit of locked memory for a TPU, which only root can.
    runAsUser: 0
    runAsGroup: 10001
    {{- else }}
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    {{- end }}
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- $isWaiting := and (eq $part "server") $peers }}
  {{- $isFetching := and (eq .Values.model.volume "emptyDir") .Values.model.fetch }}
  {{- if or $isFetching $isWaiting }}
  initContainers:
    {{- if $isFetching }}
    - name: fetch-model
      {{- toYaml .Values.model.fetch | nindent 6 }}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: models
          mountPath: /models
    {{- end }}
    {{- if $isWaiting }}
    # A server does not start without its engines, and an engine listens once it has compiled.
    - name: wait-for-engines
      image: {{ include "s2l.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command:
        - python
        - -c
        - |
          import socket, sys, time
          for host, port in (engine.rsplit(":", 1) for engine in sys.argv[1:]):
              while True:
                  try:
                      socket.create_connection((host, int(port)), timeout=5).close()
                      break
                  except OSError as error:
                      print(f"{host}: {error}", flush=True)
                      time.sleep(5)
      args: {{- toYaml $peers | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
    {{- end }}
  {{- end }}
  containers:
    - name: s2l
      image: {{ include "s2l.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if eq $kind "tpu" }}
      command: [sh, -c, 'ulimit -l 68719476736 && exec tini -- s2l "$@"', s2l]
      {{- end }}
      args: {{- include (printf "s2l.%sArgs" $part) (dict "root" . "role" $role "peers" $peers) | trim | nindent 8 }}
      {{- with .Values.server.env }}
      env: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include (printf "s2l.%sPorts" $part) . }}{{ . | nindent 6 }}{{ end }}
      resources:
        requests:
          {{- toYaml .Values.resources.requests | nindent 10 }}
          {{- with include "s2l.acceleratorResource" . }}
          {{ . }}
          {{- end }}
        limits:
          {{- toYaml .Values.resources.limits | nindent 10 }}
          {{- with include "s2l.acceleratorResource" . }}
          {{ . }}
          {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
          {{- if eq $kind "tpu" }}
          add: [SYS_RESOURCE]
          {{- end }}
      volumeMounts:
        - name: cache
          mountPath: /cache
        - name: tmp
          mountPath: /tmp
        {{- if and .Values.apiKeys.secretName (eq $part "server") }}
        - name: keys
          mountPath: /etc/s2l/keys
          readOnly: true
        {{- end }}
        {{- if and .Values.tls.secretName (eq $part "server") }}
        - name: tls
          mountPath: /etc/s2l/tls
          readOnly: true
        {{- end }}
        {{- if ne .Values.model.volume "none" }}
        - name: models
          mountPath: /models
          readOnly: true
        {{- end }}
        {{- if and (eq $kind "gpu") (gt (int .Values.accelerator.count) 1) }}
        - name: shm
          mountPath: /dev/shm
        {{- end }}
  volumes:
    - name: cache
      {{- if eq .Values.cache.kind "emptyDir" }}
      emptyDir:
        sizeLimit: {{ .Values.cache.size }}
      {{- else }}
      persistentVolumeClaim:
        claimName: {{ if eq .Values.cache.kind "create" }}{{ include "s2l.name" . }}-cache{{ else }}{{ .Values.cache.claimName }}{{ end }}
      {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    {{- if eq $part "server" }}
    {{- with .Values.apiKeys.secretName }}
    - name: keys
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- end }}
    {{- if eq .Values.model.volume "claim" }}
    - name: models
      persistentVolumeClaim:
        claimName: {{ .Values.model.claimName }}
        readOnly: true
    {{- else if eq .Values.model.volume "emptyDir" }}
    - name: models
      emptyDir:
        sizeLimit: {{ .Values.model.sizeLimit }}
    {{- end }}
    {{- if and (eq $kind "gpu") (gt (int .Values.accelerator.count) 1) }}
    # NCCL falls back to it between GPUs without a direct path; a container's own has 64 MiB.
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: 1Gi
    {{- end }}
  {{- $selector := dict }}
  {{- with .Values.accelerator.gkeTpuAccelerator }}{{ $_ := set $selector "cloud.google.com/gke-tpu-accelerator" . }}{{ end }}
  {{- with .Values.accelerator.gkeTpuTopology }}{{ $_ := set $selector "cloud.google.com/gke-tpu-topology" . }}{{ end }}
  {{- with .Values.accelerator.gkeGpuAccelerator }}{{ $_ := set $selector "cloud.google.com/gke-accelerator" . }}{{ end }}
  {{- with merge $selector .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $tolerations := .Values.tolerations }}
  {{- if eq $kind "gpu" }}
  {{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
  {{- else if eq $kind "tpu" }}
  {{- $tolerations = append $tolerations (dict "key" "google.com/tpu" "operator" "Exists" "effect" "NoSchedule") }}
  {{- end }}
  {{- with $tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
