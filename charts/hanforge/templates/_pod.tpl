{{/*
A stage's pod, defined once: Job, Indexed Job and Argo template are all made from it. Its container is called `stage`.
A stage reads everything about its run from the lock in the store, which the driver made before; so nothing but the
driver mounts the recipe, and a pod of an earlier run starts again after an upgrade took that run's recipe away.
*/}}

{{- define "hanforge.labels" -}}
app.kubernetes.io/name: hanforge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
hanforge.io/run: {{ .context.run | quote }}
hanforge.io/recipe: {{ .context.name | quote }}
{{- end -}}

{{- define "hanforge.stageLabels" -}}
{{ include "hanforge.labels" . }}
hanforge.io/stage: {{ .stage.name | quote }}
hanforge.io/kind: {{ .stage.kind | quote }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the driver's pod: it is of the release, and of no stage. */}}
{{- define "hanforge.driverLabels" -}}
{{ include "hanforge.labels" . }}
app.kubernetes.io/component: driver
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Environment that every container of ours has. */}}
{{- define "hanforge.env" -}}
- {name: HANFORGE_STORE, value: {{ .root.Values.store.url | toJson }}}
- {name: HANFORGE_RUN, value: {{ .context.run | toJson }}}
- {name: HANFORGE_CACHE, value: /cache}
- {name: HANFORGE_CACHE_GIB, value: {{ .root.Values.cache.sizeGib | toString | toJson }}}
- {name: HOME, value: /home/hanforge}
- {name: TMPDIR, value: /tmp}
{{- with .root.Values.store.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | toJson }}}
{{- end }}
{{- with .root.Values.store.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | toJson }}}
{{- end }}
{{- range include "hanforge.userEnv" .root.Values.env | fromJsonArray }}
- {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "hanforge.envFrom" -}}
{{- $names := list -}}
{{- with .root.Values.store.secret -}}{{- $names = append $names . -}}{{- end -}}
{{- $names = concat $names .root.Values.secrets | uniq -}}
{{- range $names }}
- secretRef: {name: {{ . | toJson }}}
{{- end }}
{{- end -}}

{{- define "hanforge.mounts" -}}
- {name: home, mountPath: /home/hanforge}
- {name: cache, mountPath: /cache}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if .root.Values.store.claim }}
- {name: store, mountPath: /store}
{{- end }}
{{- end -}}

{{- define "hanforge.volumes" -}}
- {name: home, emptyDir: {}}
{{- if .root.Values.cache.claim }}
- {name: cache, persistentVolumeClaim: {claimName: {{ .root.Values.cache.claim | toJson }}}}
{{- else }}
- {name: cache, emptyDir: {}}
{{- end }}
- {name: tmp, emptyDir: {{ with .root.Values.scratch.sizeLimit }}{sizeLimit: {{ . | toJson }}}{{ else }}{}{{ end }}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .shm | toJson }}}}
{{- with .root.Values.store.claim }}
- {name: store, persistentVolumeClaim: {claimName: {{ . | toJson }}}}
{{- end }}
{{- end -}}

{{/* The pod's template: {metadata, spec} as JSON. */}}
{{- define "hanforge.pod" -}}
{{- $pod := include "hanforge.podText" . | fromYaml -}}
{{- if hasKey $pod "Error" -}}
{{- fail (printf "stage %q: its pod is not valid YAML: %s" .stage.name $pod.Error) -}}
{{- end -}}
{{- toJson $pod -}}
{{- end -}}

{{- define "hanforge.podText" -}}
{{- $v := .root.Values -}}
{{- $stage := .stage -}}
{{- $profile := $stage.profile -}}
{{- $gpu := ternary $profile.gpu nil $stage.placed -}}
{{- $readOnly := or (not $gpu) $v.podSecurity.readOnlyRootOnGpu -}}
{{- $client := printf "%dMi" (mulf (float64 $v.engineSidecar.clientMemoryGib) 1024 | floor | int) -}}
{{- $cpu := $stage.own.cpu | default $profile.host_cpus | default 1 | toString -}}
{{- $memory := $stage.own.memory | default (include "hanforge.gib" ($profile.host_memory_gib | default 16)) -}}
{{- $ownMemory := ternary $memory $client $stage.placed -}}
{{- if and $stage.sidecar (not $stage.own.memory) -}}
{{- $left := subf (float64 ($profile.host_memory_gib | default 16)) (float64 $v.engineSidecar.clientMemoryGib) -}}
{{- if lt $left 1.0 -}}
{{- fail (printf "stage %q: profile %q has %v GiB of memory, and the client takes %v of it. Lower engineSidecar.clientMemoryGib or raise the profile's host_memory_gib" $stage.name $stage.profileName $profile.host_memory_gib $v.engineSidecar.clientMemoryGib) -}}
{{- end -}}
{{- $memory = include "hanforge.gib" $left -}}
{{- $ownMemory = $client -}}
{{- end -}}
{{- $stageGpu := ternary nil $gpu $stage.sidecar -}}
{{- $byArgo := and (eq $v.engine "argo") (not $stage.gang) -}}
metadata:
  labels:
    {{- include "hanforge.stageLabels" . | nindent 4 }}
    {{- with $v.kueue.queue }}
    {{- if $byArgo }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
    {{- end }}
  {{- with $v.podAnnotations }}
  annotations: {{ toJson . }}
  {{- end }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $v.gracePeriodSeconds }}
  serviceAccountName: {{ .root.Release.Name }}-{{ ternary "serve" "stage" $stage.rolls }}
  automountServiceAccountToken: {{ or $stage.rolls $byArgo }}
  enableServiceLinks: false
  securityContext: {{ include "hanforge.podSecurityContext" $v.podSecurity.runAsUser }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- if and $gpu $v.gpuRuntimeClassName }}
  runtimeClassName: {{ $v.gpuRuntimeClassName | quote }}
  {{- end }}
  {{- with $v.images.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- $where := ternary $profile (dict "node_labels" ($profile.node_labels | default dict)) $stage.placed -}}
  {{- range $key, $value := include "hanforge.placement" (dict "profile" $where "nodeSelector" $v.nodeSelector "tolerations" $v.tolerations) | fromJson }}
  {{ $key }}: {{ toJson $value }}
  {{- end }}
  {{- if $stage.gang }}
  {{- if eq $stage.gang "job" }}
  subdomain: {{ .root.Release.Name }}-gang
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {hanforge.io/run: {{ .context.run | quote }}, hanforge.io/stage: {{ $stage.name | quote }}}}
  {{- end }}
  {{- if $stage.sidecar }}
  initContainers:
    - name: engine
      image: {{ $v.images.serve | quote }}
      imagePullPolicy: {{ $v.images.pullPolicy }}
      restartPolicy: Always
      args: [engine, --for, "{{ .context.run }}:{{ $stage.name }}"]
      env:
        {{- include "hanforge.env" . | nindent 8 }}
      {{- with include "hanforge.envFrom" . | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      resources: {{ include "hanforge.resources" (dict "cpu" $cpu "memory" $memory "gpu" $gpu) }}
      securityContext: {{ include "hanforge.securityContext" $readOnly }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "hanforge.mounts" . | nindent 8 }}
  {{- end }}
  containers:
    - name: stage
      image: {{ index $v.images $stage.image | quote }}
      imagePullPolicy: {{ $v.images.pullPolicy }}
      args: [stage, {{ $stage.name | quote }}]
      env:
        {{- include "hanforge.env" . | nindent 8 }}
        - {name: HANFORGE_GRACE_SECONDS, value: {{ max 1 (sub (int $v.gracePeriodSeconds) 10) | toString | quote }}}
        {{- if gt (int $stage.pods) 1 }}
        - {name: HANFORGE_OF, value: {{ int $stage.pods | toString | quote }}}
        {{- end }}
        {{- if $stage.gang }}
        - {name: HANFORGE_JOB, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
        {{- if eq $stage.gang "jobset" }}
        - {name: HANFORGE_JOBSET, valueFrom: {fieldRef: {fieldPath: "metadata.labels['jobset.sigs.k8s.io/jobset-name']"}}}
        - {name: HANFORGE_MASTER_ADDR, value: "$(HANFORGE_JOB)-0.$(HANFORGE_JOBSET)"}
        {{- else }}
        - {name: HANFORGE_MASTER_ADDR, value: "$(HANFORGE_JOB)-0.{{ .root.Release.Name }}-gang"}
        {{- end }}
        {{- end }}
        {{- if $stage.sidecar }}
        - {name: {{ $stage.asks }}, value: "http://127.0.0.1:8000/v1"}
        {{- else if $stage.endpoint }}
        - {name: {{ $stage.asks }}, value: {{ $stage.endpoint | toJson }}}
        {{- end }}
        {{- if $stage.rolls }}
        - {name: HANFORGE_SERVE_DEPLOYMENT, value: {{ $v.serve.deployment | quote }}}
        - {name: HANFORGE_SERVE_ENDPOINT, value: {{ $v.serve.url | default (printf "http://%s:8000/v1" $v.serve.deployment) | quote }}}
        - {name: HANFORGE_SERVE_MODEL, value: {{ $v.serve.model | quote }}}
        {{- end }}
        {{- range include "hanforge.userEnv" ($stage.own.env | default list) | fromJsonArray }}
        - {{ toJson . }}
        {{- end }}
      {{- with include "hanforge.envFrom" . | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      resources: {{ include "hanforge.resources" (dict "cpu" (ternary "100m" $cpu (or $stage.sidecar (not $stage.placed))) "memory" $ownMemory "gpu" $stageGpu) }}
      securityContext: {{ include "hanforge.securityContext" $readOnly }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- include "hanforge.mounts" . | nindent 8 }}
  volumes:
    {{- include "hanforge.volumes" (dict "root" .root "shm" (include "hanforge.gib" ($profile.shm_gib | default 1))) | nindent 4 }}
{{- end -}}
