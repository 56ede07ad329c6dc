{{/*
A stage's Job as the driver creates it: whole but for the hash that ends its name and for its owner. Exit codes 2 and 3
end it at once, a lost node does not count, anything else is tried again.
*/}}

{{- define "hanforge.job" -}}
{{- $v := .root.Values -}}
{{- $stage := .stage -}}
{{- $spec := dict
  "ttlSecondsAfterFinished" (int $v.ttlSecondsAfterFinished)
  "podReplacementPolicy" "Failed"
  "podFailurePolicy" (include "hanforge.failurePolicy" "stage" | fromJson)
  "template" (include "hanforge.pod" . | fromJson)
-}}
{{- if gt (int $stage.pods) 1 -}}
{{- $_ := merge $spec (dict "completionMode" "Indexed" "completions" (int $stage.pods) "parallelism" (int $stage.pods)) -}}
{{- end -}}
{{- if and (gt (int $stage.pods) 1) (not $stage.gang) -}}
{{- $_ := set $spec "backoffLimitPerIndex" (int $v.retries) -}}
{{- else -}}
{{- $_ := set $spec "backoffLimit" (mul (int $v.retries) (int $stage.pods)) -}}
{{- end -}}
{{- with $stage.own.deadlineSeconds -}}{{- $_ := set $spec "activeDeadlineSeconds" (int .) -}}{{- end -}}
{{- $labels := include "hanforge.stageLabels" . | fromYaml -}}
{{- with $v.kueue.queue -}}
{{- $_ := set $labels "kueue.x-k8s.io/queue-name" . -}}
{{- $_ := set $spec "suspend" true -}}
{{- end -}}
{{- $metadata := dict "name" (printf "%s-%s" .root.Release.Name ($stage.name | replace "_" "-")) "namespace" .root.Release.Namespace "labels" $labels -}}
{{- dict "apiVersion" "batch/v1" "kind" "Job" "metadata" $metadata "spec" $spec | toJson -}}
{{- end -}}

{{- define "hanforge.failurePolicy" -}}
{{- dict "rules" (list
  (dict "action" "FailJob" "onExitCodes" (dict "containerName" . "operator" "In" "values" (list 2 3)))
  (dict "action" "Ignore" "onPodConditions" (list (dict "type" "DisruptionTarget" "status" "True")))
) | toJson -}}
{{- end -}}
