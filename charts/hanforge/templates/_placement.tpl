{{/*
Where a pod of a profile may run. Shared by both charts: edit it in charts/hanforge, `make chart-files` copies it.
Node selector terms are ORed: labels of GPU feature discovery, of GKE, of Karpenter, since a cluster that scales from
zero has a node's labels only in its cloud's words. Memory is never compared for equality: T4s report 15109 or 15360 MiB.
*/}}

{{- define "hanforge.placement" -}}
{{- $gpu := .profile.gpu -}}
{{- $own := list -}}
{{- range $key, $value := .profile.node_labels | default dict -}}
{{- $own = append $own (dict "key" $key "operator" "In" "values" (list $value)) -}}
{{- end -}}
{{- $terms := list -}}
{{- if $gpu -}}
{{- $several := printf "%d" (sub (int $gpu.count) 1) -}}
{{- $memory := printf "%d" (mulf (float64 $gpu.memory_gib) 921.6 | floor | int) -}}
{{- $counted := gt (int $gpu.count) 1 -}}
{{- if $gpu.products -}}
{{- $term := list (dict "key" "nvidia.com/gpu.product" "operator" "In" "values" $gpu.products) -}}
{{- if $counted -}}{{- $term = append $term (dict "key" "nvidia.com/gpu.count" "operator" "Gt" "values" (list $several)) -}}{{- end -}}
{{- $terms = append $terms $term -}}
{{- end -}}
{{- if $gpu.gke -}}
{{- $terms = append $terms (list (dict "key" "cloud.google.com/gke-accelerator" "operator" "In" "values" $gpu.gke)) -}}
{{- end -}}
{{- if $gpu.karpenter -}}
{{- $term := list
  (dict "key" "karpenter.k8s.aws/instance-gpu-name" "operator" "In" "values" $gpu.karpenter)
  (dict "key" "karpenter.k8s.aws/instance-gpu-memory" "operator" "Gt" "values" (list $memory))
-}}
{{- if $counted -}}{{- $term = append $term (dict "key" "karpenter.k8s.aws/instance-gpu-count" "operator" "Gt" "values" (list $several)) -}}{{- end -}}
{{- $terms = append $terms $term -}}
{{- end -}}
{{- if not $terms -}}
{{- $term := list (dict "key" "nvidia.com/gpu.memory" "operator" "Gt" "values" (list $memory)) -}}
{{- if $counted -}}{{- $term = append $term (dict "key" "nvidia.com/gpu.count" "operator" "Gt" "values" (list $several)) -}}{{- end -}}
{{- $terms = append $terms $term -}}
{{- end -}}
{{- else if $own -}}
{{- $terms = append $terms list -}}
{{- end -}}
{{- $tolerations := concat (.profile.tolerations | default list) (.tolerations | default list) -}}
{{- if $gpu -}}
{{- $tolerations = prepend $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists") -}}
{{- end -}}
{{- $placement := dict -}}
{{- if $terms -}}
{{- $selector := list -}}
{{- range $terms -}}{{- $selector = append $selector (dict "matchExpressions" (concat . $own)) -}}{{- end -}}
{{- $_ := set $placement "affinity" (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $selector))) -}}
{{- end -}}
{{- with .nodeSelector -}}{{- $_ := set $placement "nodeSelector" . -}}{{- end -}}
{{- with $tolerations -}}{{- $_ := set $placement "tolerations" (uniq .) -}}{{- end -}}
{{- toJson $placement -}}
{{- end -}}

{{/* GPUs are a limit; requests follow. Memory is asked for and limited alike, so that one pod cannot starve a node. */}}
{{- define "hanforge.resources" -}}
{{- $limits := dict "memory" .memory -}}
{{- with .gpu -}}{{- $_ := set $limits (.resource | default "nvidia.com/gpu") (printf "%d" (int .count)) -}}{{- end -}}
{{- dict "requests" (dict "cpu" .cpu "memory" .memory) "limits" $limits | toJson -}}
{{- end -}}

{{- define "hanforge.podSecurityContext" -}}
{{- dict "runAsNonRoot" true "runAsUser" (int .) "runAsGroup" (int .) "fsGroup" (int .) "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") | toJson -}}
{{- end -}}

{{- define "hanforge.securityContext" -}}
{{- dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" . "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL")) | toJson -}}
{{- end -}}

{{/* "128" GiB -> "131072Mi": profiles may say 0.5, which a quantity in Gi may not. */}}
{{- define "hanforge.gib" -}}
{{- printf "%dMi" (mulf (float64 .) 1024 | floor | int) -}}
{{- end -}}

{{/* Environment variables of the user's; one that looks secret must come from a Secret. */}}
{{- define "hanforge.userEnv" -}}
{{- range . -}}
{{- if and (hasKey . "value") (regexMatch "(?i)(secret|token|password|passwd|api_?key|access_key|credential)" .name) -}}
{{- fail (printf "env %s: a secret is not written into values. Use valueFrom.secretKeyRef, or a Secret in `secrets` or `store.secret`" .name) -}}
{{- end -}}
{{- end -}}
{{- toJson . -}}
{{- end -}}
