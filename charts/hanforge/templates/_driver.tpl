{{/*
The driver's Job. It is light, killed at will, and restarted by its Job; `observe` makes it the observer beside a
Workflow. The hash of the whole spec ends its name, since a Job cannot be changed.
*/}}

{{- define "hanforge.inputArgs" -}}
{{- range $name, $url := .root.Values.inputs }}
- --input
- {{ printf "%s=%s" $name $url | toJson }}
{{- end }}
{{- end -}}

{{- define "hanforge.driverEnv" -}}
{{ include "hanforge.env" . }}
- {name: HANFORGE_RECIPE, value: /etc/hanforge/recipe.yaml}
- {name: HANFORGE_MANIFESTS, value: /etc/hanforge/manifests}
- {name: HANFORGE_NAMESPACE, value: {{ .root.Release.Namespace | quote }}}
{{- if .root.Values.profiles }}
- {name: HANFORGE_PROFILES, value: /etc/hanforge/profiles.yaml}
{{- end }}
{{- with .context.override }}
- {name: HANFORGE_PROFILE, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "hanforge.recipeName" -}}
{{- printf "%s-recipe-%s-%d" .root.Release.Name .context.digest (int .root.Values.salt) -}}
{{- with .root.Values.profiles -}}{{- printf "-%s" (toJson . | sha256sum | trunc 6) -}}{{- end -}}
{{- end -}}

{{- define "hanforge.driverVolumes" -}}
{{ include "hanforge.volumes" (dict "root" .root "shm" "64Mi") }}
- name: hanforge
  projected:
    sources:
      - configMap: {name: {{ include "hanforge.recipeName" . }}}
      - configMap:
          name: {{ .root.Release.Name }}-manifests
          items:
            {{- range append .context.scope "chain" }}
            - {key: {{ . }}.json, path: manifests/{{ . }}.json}
            {{- end }}
{{- end -}}

{{- define "hanforge.driverMounts" -}}
{{ include "hanforge.mounts" . }}
- {name: hanforge, mountPath: /etc/hanforge}
{{- end -}}

{{- define "hanforge.driverSpec" -}}
{{- $v := .root.Values -}}
backoffLimit: {{ int $v.driver.retries }}
ttlSecondsAfterFinished: {{ int $v.ttlSecondsAfterFinished }}
podReplacementPolicy: Failed
podFailurePolicy: {{ include "hanforge.failurePolicy" "driver" }}
{{- if and $v.suspend (eq $v.engine "jobs") }}
suspend: true
{{- end }}
template:
  metadata:
    labels:
      {{- include "hanforge.driverLabels" . | nindent 6 }}
    annotations:
      hanforge.io/manifests: {{ .manifests | sha256sum | trunc 16 | quote }}
      {{- with $v.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    restartPolicy: Never
    terminationGracePeriodSeconds: 30
    serviceAccountName: {{ .root.Release.Name }}-driver
    automountServiceAccountToken: true
    enableServiceLinks: false
    securityContext: {{ include "hanforge.podSecurityContext" $v.podSecurity.runAsUser }}
    {{- with $v.priorityClassName }}
    priorityClassName: {{ . | quote }}
    {{- end }}
    {{- with $v.images.pullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- range $key, $value := include "hanforge.placement" (dict "profile" dict "nodeSelector" $v.nodeSelector "tolerations" $v.tolerations) | fromJson }}
    {{ $key }}: {{ toJson $value }}
    {{- end }}
    containers:
      - name: driver
        image: {{ $v.images.data | quote }}
        imagePullPolicy: {{ $v.images.pullPolicy }}
        args:
          - driver
          {{- if eq $v.engine "argo" }}
          - --observe-only
          {{- end }}
          {{- include "hanforge.inputArgs" . | nindent 10 }}
        env:
          {{- include "hanforge.driverEnv" . | nindent 10 }}
        {{- with include "hanforge.envFrom" . | trim }}
        envFrom:
          {{- . | nindent 10 }}
        {{- end }}
        resources: {{ include "hanforge.resources" (dict "cpu" $v.driver.cpu "memory" $v.driver.memory) }}
        securityContext: {{ include "hanforge.securityContext" true }}
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
          {{- include "hanforge.driverMounts" . | nindent 10 }}
    volumes:
      {{- include "hanforge.driverVolumes" . | nindent 6 }}
{{- end -}}
