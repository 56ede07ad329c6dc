{{/* The data of the manifests ConfigMap: a Job for each stage in scope, and chain.json. */}}
{{- define "hanforge.manifests" -}}
{{- $data := dict -}}
{{- $chain := list -}}
{{- range $name := .context.scope -}}
{{- $stage := index $.context.stages $name -}}
{{- $_ := set $data (printf "%s.json" $name) (include "hanforge.job" (dict "root" $.root "context" $.context "stage" $stage)) -}}
{{- $chain = append $chain (dict "name" $name "needs" $stage.needs) -}}
{{- end -}}
{{- $_ := set $data "chain.json" (dict "run" .context.run "stages" $chain "owner" (printf "%s-manifests" .root.Release.Name) | toJson) -}}
{{- toJson $data -}}
{{- end -}}
