{{/*
A stage's Job as the driver creates it: whole but for the hash that ends its name and for its owner. Exit codes 2 and 3
end it at once, a lost node does not count, anything else is tried again. Pods that train together may be a JobSet of
one such Job, which then has one try, and is made anew with all its pods.
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
{{- $kind := dict "apiVersion" "batch/v1" "kind" "Job" -}}
{{- if eq $stage.gang "jobset" -}}
{{- $kind = dict "apiVersion" "jobset.x-k8s.io/v1alpha2" "kind" "JobSet" -}}
{{- $spec = include "hanforge.jobSetSpec" (dict "job" $spec "labels" $labels "retries" $v.retries) | fromJson -}}
{{- end -}}
{{- with $v.kueue.queue -}}
{{- $labels = merge (dict "kueue.x-k8s.io/queue-name" .) $labels -}}
{{- $_ := set $spec "suspend" true -}}
{{- end -}}
{{- $metadata := dict "name" (printf "%s-%s" .root.Release.Name ($stage.name | replace "_" "-")) "namespace" .root.Release.Namespace "labels" $labels -}}
{{- merge $kind (dict "metadata" $metadata "spec" $spec) | toJson -}}
{{- end -}}

{{/*
{job, labels, retries} -> a JobSet's spec. Its rules read why the Job failed: by an exit code of its podFailurePolicy
(final), by that policy's other rule, a lost node (restarted uncounted), or by anything else (restarted, counted).
An old JobSet that does not know message patterns reads a lost node as final, never an exit code as passing.
*/}}
{{- define "hanforge.jobSetSpec" -}}
{{- $codes := first .job.podFailurePolicy.rules -}}
{{- $lost := dict "action" "FailJob" "onPodConditions" (list (dict "type" "DisruptionTarget" "status" "True")) -}}
{{- $job := set (omit .job "ttlSecondsAfterFinished") "backoffLimit" 0 -}}
{{- $_ := set $job "podFailurePolicy" (dict "rules" (list $codes $lost)) -}}
{{- dict
  "ttlSecondsAfterFinished" .job.ttlSecondsAfterFinished
  "network" (dict "enableDNSHostnames" true "publishNotReadyAddresses" true)
  "successPolicy" (dict "operator" "All")
  "failurePolicy" (dict "maxRestarts" (int .retries) "rules" (list
    (dict "name" "mend" "action" "FailJobSet" "onJobFailureReasons" (list "PodFailurePolicy") "onJobFailureMessagePatterns" (list "exit code"))
    (dict "name" "late" "action" "FailJobSet" "onJobFailureReasons" (list "DeadlineExceeded"))
    (dict "name" "lost" "action" "RestartJobSetAndIgnoreMaxRestarts" "onJobFailureReasons" (list "PodFailurePolicy"))
  ))
  "replicatedJobs" (list (dict "name" "gang" "replicas" 1 "template" (dict "metadata" (dict "labels" .labels) "spec" $job)))
| toJson -}}
{{- end -}}

{{- define "hanforge.failurePolicy" -}}
{{- dict "rules" (list
  (dict "action" "FailJob" "onExitCodes" (dict "containerName" . "operator" "In" "values" (list 2 3)))
  (dict "action" "Ignore" "onPodConditions" (list (dict "type" "DisruptionTarget" "status" "True")))
) | toJson -}}
{{- end -}}
