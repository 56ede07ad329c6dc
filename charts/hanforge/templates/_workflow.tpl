{{/*
The same chain as an Argo Workflow. Each template is made from `hanforge.pod`: what Argo has a field for is moved there,
the rest goes into podSpecPatch. Argo calls the container `main`. `when` skips what the first step found done.
*/}}

{{- define "hanforge.workflowSpec" -}}
{{- $v := .root.Values -}}
{{- $tasks := list (dict "name" "preflight" "template" "preflight") -}}
{{- $templates := list -}}
{{- $parameters := list -}}
{{- range $name := .context.scope -}}
{{- $stage := index $.context.stages $name -}}
{{- $plain := $name | replace "_" "-" -}}
{{- $depends := list "preflight" -}}
{{- range $need := $stage.needs -}}
{{- if has $need $.context.scope -}}{{- $depends = append $depends ($need | replace "_" "-") -}}{{- end -}}
{{- end -}}
{{- $task := dict "name" $plain "template" $plain "depends" (join " && " $depends) "when" (printf "\"{{tasks.preflight.outputs.parameters.%s}}\" != \"done\"" $name) -}}
{{- if and (gt (int $stage.pods) 1) (not $stage.gang) -}}
{{- $_ := set $task "withSequence" (dict "count" (int $stage.pods | toString)) -}}
{{- $_ := set $task "arguments" (dict "parameters" (list (dict "name" "index" "value" "{{item}}"))) -}}
{{- end -}}
{{- $tasks = append $tasks $task -}}
{{- $parameters = append $parameters (dict "name" $name "valueFrom" (dict "path" (printf "/tmp/states/%s" $name))) -}}
{{- $templates = append $templates (include (ternary "hanforge.argoGang" "hanforge.argoTemplate" (ne $stage.gang "")) (dict "root" $.root "context" $.context "stage" $stage "plain" $plain) | fromJson) -}}
{{- end -}}
{{- $preflight := include "hanforge.preflight" . | fromJson -}}
{{- $_ := set $preflight "outputs" (dict "parameters" $parameters) -}}
{{- $spec := dict
  "entrypoint" "chain"
  "serviceAccountName" (printf "%s-stage" .root.Release.Name)
  "ttlStrategy" (dict "secondsAfterCompletion" (int $v.ttlSecondsAfterFinished))
  "templates" (concat (list (dict "name" "chain" "dag" (dict "failFast" false "tasks" $tasks)) $preflight) $templates)
-}}
{{- if $v.suspend -}}{{- $_ := set $spec "suspend" true -}}{{- end -}}
{{- toJson $spec -}}
{{- end -}}

{{- define "hanforge.argoTemplate" -}}
{{- $pod := include "hanforge.pod" . | fromJson -}}
{{- $template := include "hanforge.argoParts" (dict "pod" $pod "name" .plain) | fromJson -}}
{{- if gt (int .stage.pods) 1 -}}
{{- $_ := set $template "inputs" (dict "parameters" (list (dict "name" "index"))) -}}
{{- $_ := set $template.container "env" (append $template.container.env (dict "name" "HANFORGE_INDEX" "value" "{{inputs.parameters.index}}")) -}}
{{- end -}}
{{- with .stage.own.deadlineSeconds -}}{{- $_ := set $template "activeDeadlineSeconds" (int .) -}}{{- end -}}
{{- $_ := set $template "retryStrategy" (include "hanforge.argoRetry" .root.Values.retries | fromJson) -}}
{{- toJson $template -}}
{{- end -}}

{{- define "hanforge.argoRetry" -}}
{{- dict
  "limit" (. | int | toString)
  "retryPolicy" "Always"
  "expression" "lastRetry.exitCode != '2' && lastRetry.exitCode != '3'"
  "backoff" (dict "duration" "10s" "factor" "2" "maxDuration" "6h")
| toJson -}}
{{- end -}}

{{/* Argo starts no pods together: the step is the driver for this one stage, which makes and follows its Job. */}}
{{- define "hanforge.argoGang" -}}
{{- $template := include "hanforge.argoDriver" (merge (dict "name" .plain "manifests" (include "hanforge.job" .) "args" (list "--only" .stage.name)) .) | fromJson -}}
{{- $_ := set $template "retryStrategy" (include "hanforge.argoRetry" .root.Values.driver.retries | fromJson) -}}
{{- toJson $template -}}
{{- end -}}

{{/* {pod, name} -> an Argo template. Only its container `stage` or `driver` becomes `main`; init containers stay. */}}
{{- define "hanforge.argoParts" -}}
{{- $spec := .pod.spec -}}
{{- $container := first $spec.containers -}}
{{- $_ := set $container "name" "main" -}}
{{- $_ := set $container "command" (list "hanforge") -}}
{{- $template := dict "name" .name "metadata" .pod.metadata "container" $container "volumes" $spec.volumes -}}
{{- range $key := list "affinity" "nodeSelector" "tolerations" "securityContext" "priorityClassName" "serviceAccountName" "initContainers" -}}
{{- if hasKey $spec $key -}}{{- $_ := set $template $key (get $spec $key) -}}{{- end -}}
{{- end -}}
{{/* Argo itself heeds automountServiceAccountToken only where it is false (workflow/controller/workflowpod.go). */}}
{{- $patch := pick $spec "automountServiceAccountToken" "terminationGracePeriodSeconds" "enableServiceLinks" "runtimeClassName" "imagePullSecrets" -}}
{{- $_ := set $template "podSpecPatch" (toJson $patch) -}}
{{- toJson $template -}}
{{- end -}}

{{/* The first step is the driver's own pod in another mode: it makes the lock, checks, and says what is done. */}}
{{- define "hanforge.preflight" -}}
{{- $template := include "hanforge.argoDriver" (merge (dict "name" "preflight" "manifests" "" "args" (list "--preflight-only" "/tmp/states")) .) | fromJson -}}
{{- $_ := set $template "retryStrategy" (include "hanforge.argoRetry" 6 | fromJson) -}}
{{- toJson $template -}}
{{- end -}}

{{/* {name, manifests, args} -> the driver's pod as a template. */}}
{{- define "hanforge.argoDriver" -}}
{{- $pod := get (include "hanforge.driverSpec" . | fromYaml) "template" -}}
{{- $template := include "hanforge.argoParts" (dict "pod" $pod "name" .name) | fromJson -}}
{{- $_ := set $template.container "args" (concat (list "driver") .args (include "hanforge.inputArgs" . | fromYamlArray)) -}}
{{- toJson $template -}}
{{- end -}}
