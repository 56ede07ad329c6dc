{{- define "serve.selector" -}}
app.kubernetes.io/name: hanforge-serve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "serve.labels" -}}
{{ include "serve.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "serve.check" -}}
{{- if not .Values.model -}}
{{- fail "model is not set. Say what is served, for instance --set model=promoted@korean-vla" -}}
{{- end -}}
{{- if not .Values.store.url -}}
{{- fail "store.url is not set. Say where everything lies, for instance --set store.url=s3://bucket/folder" -}}
{{- end -}}
{{- range $name, $url := dict "store.url" .Values.store.url "store.endpoint" .Values.store.endpoint -}}
{{- if regexMatch "://[^/@]*@" $url -}}
{{- fail (printf "%s holds a user or password. Put credentials into a Secret and name it in store.secret" $name) -}}
{{- end -}}
{{- end -}}
{{- if le (int .Values.gracePeriodSeconds) (add (int .Values.takeoverSeconds) (int .Values.drainSeconds) 15) -}}
{{- fail (printf "gracePeriodSeconds %d leaves no time to answer after takeoverSeconds %d, drainSeconds %d and 15 for the end. Raise it" (int .Values.gracePeriodSeconds) (int .Values.takeoverSeconds) (int .Values.drainSeconds)) -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.by "keda") (not .Values.autoscaling.prometheus) -}}
{{- fail "autoscaling.prometheus is not set. KEDA needs the address of the Prometheus that it asks, e.g. http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas %d is over maxReplicas %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if gt (len .Release.Name) 52 -}}
{{- fail (printf "release name %q is too long: %d characters, and a Deployment's pods leave room for 52. Choose a shorter one" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{- end -}}
