{{/*
What every template starts from, made once per file: the recipe, its run, the stages in scope, each one's profile and
image. The recipe's text itself is never written out again from what is parsed here: Helm would turn 1000000 to 1e+06.
*/}}

{{- define "hanforge.recipeText" -}}
{{- if and .Values.recipe .Values.recipeName -}}
{{- fail "`recipe` and `recipeName` are both set. Give one of them" -}}
{{- else if .Values.recipe -}}
{{- .Values.recipe -}}
{{- else if .Values.recipeName -}}
{{- $text := .Files.Get (printf "recipes/%s.yaml" .Values.recipeName) -}}
{{- if not $text -}}
{{- $names := list -}}
{{- range $path, $_ := .Files.Glob "recipes/*.yaml" -}}{{- $names = append $names (base $path | trimSuffix ".yaml") -}}{{- end -}}
{{- fail (printf "recipeName %q comes not with the chart; valid: %s. For one of your own: hanforge render RECIPE > r.yaml, then --set-file recipe=r.yaml" .Values.recipeName (join ", " $names)) -}}
{{- end -}}
{{- $text -}}
{{- else -}}
{{- fail "no recipe is given. Set recipeName to a shipped one, or: hanforge render RECIPE > r.yaml, then --set-file recipe=r.yaml" -}}
{{- end -}}
{{- end -}}

{{- define "hanforge.recipe" -}}
{{- $recipe := include "hanforge.recipeText" . | fromYaml -}}
{{- if hasKey $recipe "Error" -}}
{{- fail (printf "the recipe is not valid YAML: %s" $recipe.Error) -}}
{{- end -}}
{{- if not (and $recipe.digest $recipe.stages $recipe.name) -}}
{{- fail "the recipe is not a resolved one, since it has no digest. Give what this prints: hanforge render RECIPE" -}}
{{- end -}}
{{- toJson $recipe -}}
{{- end -}}

{{- define "hanforge.context" -}}
{{- $recipe := include "hanforge.recipe" . | fromJson -}}
{{- $known := keys $recipe.stages | sortAlpha -}}
{{- range $value, $names := dict "only" .Values.only "stages" (keys .Values.stages) "workers" (keys .Values.workers) -}}
{{- range $name := $names -}}
{{- if not (has $name $known) -}}
{{- fail (printf "%s: recipe %q has no stage %q; valid: %s" $value $recipe.name $name (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .Values.inputs -}}
{{- if not (hasKey ($recipe.inputs | default dict) $name) -}}
{{- fail (printf "inputs: recipe %q has no input %q; valid: %s" $recipe.name $name (keys ($recipe.inputs | default dict) | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.store.url -}}
{{- fail "store.url is not set. Say where everything lies, for instance --set store.url=s3://bucket/folder" -}}
{{- end -}}
{{- range $name, $url := merge (dict "store.url" .Values.store.url "store.endpoint" .Values.store.endpoint) .Values.inputs -}}
{{- if regexMatch "://[^/@]*@" $url -}}
{{- fail (printf "%s holds a user or password. Put credentials into a Secret and name it in store.secret" $name) -}}
{{- end -}}
{{- end -}}
{{- $scope := .Values.only | default $known | uniq -}}
{{- $profiles := mergeOverwrite (.Files.Get "profiles.yaml" | fromYaml) (deepCopy .Values.profiles) -}}
{{- $stages := dict -}}
{{- $overrides := list -}}
{{- range $name, $settings := $recipe.stages -}}
{{- $own := index $.Values.stages $name | default dict -}}
{{- $profile := $own.profile | default $.Values.profile | default $settings.profile -}}
{{- if not (hasKey $profiles $profile) -}}
{{- fail (printf "stage %q: unknown profile %q; valid: %s" $name $profile (keys $profiles | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if ne $profile $settings.profile -}}{{- $overrides = append $overrides (printf "%s=%s" $name $profile) -}}{{- end -}}
{{- $_ := set $stages $name (include "hanforge.stage" (dict "root" $ "name" $name "settings" $settings "profileName" $profile "profile" (index $profiles $profile)) | fromJson) -}}
{{- end -}}
{{- $context := dict
  "name" $recipe.name
  "run" (printf "%s-%s-%d" $recipe.name $recipe.digest (int .Values.salt))
  "digest" $recipe.digest
  "scope" $scope
  "stages" $stages
  "override" (join "," $overrides)
-}}
{{- include "hanforge.checkNames" (dict "root" . "context" $context) -}}
{{- toJson $context -}}
{{- end -}}

{{/* One stage in the words of pods: which image, whether an engine runs beside it, what has the GPUs, how many pods. */}}
{{- define "hanforge.stage" -}}
{{- $s := .settings -}}
{{- $own := index .root.Values.stages .name | default dict -}}
{{- $image := get (dict "prepare" "data" "convert" "data" "augment" "data" "validate" "data" "promote" "data" "evaluate" "data" "predict" "data" "train" "train" "merge" "train" "serve" "serve") $s.kind -}}
{{- if not $image -}}
{{- fail (printf "stage %q: this version of the chart does not know kind %q" .name $s.kind) -}}
{{- end -}}
{{- $asks := or (eq $s.kind "augment") (and (has $s.kind (list "evaluate" "predict")) (eq ($s.backend | default "vllm") "vllm")) -}}
{{- if and (has $s.kind (list "evaluate" "predict")) (not $asks) -}}{{- $image = "train" -}}{{- end -}}
{{- $rolls := and (eq $s.kind "serve") (ne .root.Values.serve.deployment "") -}}
{{- if $rolls -}}{{- $image = "data" -}}{{- end -}}
{{- $elsewhere := $own.endpoint | default $s.endpoint -}}
{{- if eq $s.kind "augment" -}}{{- $elsewhere = $own.endpoint | default $s.teacher.endpoint -}}{{- end -}}
{{- if and $own.endpoint (not $asks) -}}
{{- fail (printf "stages.%s.endpoint: a %s stage asks no endpoint" .name $s.kind) -}}
{{- end -}}
{{- if and (eq $s.kind "augment") (not $elsewhere) (not $s.teacher.model) -}}
{{- fail (printf "stage %q names no checkpoint of its teacher, so somebody must serve it: set stages.%s.endpoint" .name .name) -}}
{{- end -}}
{{- $sidecar := and $asks (not $elsewhere) -}}
{{- $workers := int (index .root.Values.workers .name | default 1) -}}
{{- $divides := has $s.kind (list "prepare" "convert" "augment" "validate" "evaluate" "predict" "merge") -}}
{{- if and (gt $workers 1) (not $divides) -}}
{{- fail (printf "workers.%s: a %s stage is one process; several machines train together by a profile with `nodes`" .name $s.kind) -}}
{{- end -}}
{{- $nodes := 1 -}}
{{- if eq $s.kind "train" -}}{{- $nodes = int (.profile.nodes | default 1) -}}{{- end -}}
{{- dict
  "name" .name
  "kind" $s.kind
  "needs" ($s.needs | default list)
  "profileName" .profileName
  "profile" .profile
  "image" $image
  "asks" (ternary (ternary "HANFORGE_TEACHER_ENDPOINT" "HANFORGE_EVALUATE_ENDPOINT" (eq $s.kind "augment")) "" $asks)
  "endpoint" ($own.endpoint | default "")
  "sidecar" $sidecar
  "placed" (not (or $rolls (and $asks $elsewhere)))
  "rolls" $rolls
  "pods" (max $workers $nodes)
  "gang" (ternary (include "hanforge.gang" .root) "" (gt $nodes 1))
  "own" $own
| toJson -}}
{{- end -}}

{{/* What pods that train together are made by: `job` or `jobset`. */}}
{{- define "hanforge.gang" -}}
{{- $asked := .Values.gang -}}
{{- if eq $asked "auto" -}}{{- $asked = ternary "jobset" "job" (.Capabilities.APIVersions.Has "jobset.x-k8s.io/v1alpha2") -}}{{- end -}}
{{- $asked -}}
{{- end -}}

{{/* Names that Kubernetes would refuse later, or cut, are refused here with the arithmetic. */}}
{{- define "hanforge.checkNames" -}}
{{- $release := .root.Release.Name -}}
{{- $room := sub 63 (len "-driver-0123456789") | int -}}
{{- $because := "its driver" -}}
{{- $seen := dict -}}
{{- range $name := .context.scope -}}
{{- $stage := index $.context.stages $name -}}
{{- $plain := $name | replace "_" "-" -}}
{{- if hasKey $seen $plain -}}
{{- fail (printf "stages %q and %q would have the same name in Kubernetes, which knows no underscores. Rename one of them" $name (get $seen $plain)) -}}
{{- end -}}
{{- $_ := set $seen $plain $name -}}
{{- $tail := printf "-%s-0123456789" $plain -}}
{{- if eq $stage.gang "jobset" -}}{{- $tail = printf "%s-gang-0-%d-abcde" $tail (sub (int $stage.pods) 1) -}}
{{- else if gt (int $stage.pods) 1 -}}{{- $tail = printf "%s-%d" $tail (sub (int $stage.pods) 1) -}}{{- end -}}
{{- $left := sub 63 (len $tail) | int -}}
{{- if lt $left $room -}}{{- $room = $left -}}{{- $because = printf "stage %q" $name -}}{{- end -}}
{{- end -}}
{{- if gt (len $release) $room -}}
{{- fail (printf "release name %q is too long: %d characters, and %s leaves room for %d in a Job's name of 63. Choose a shorter one" $release (len $release) $because $room) -}}
{{- end -}}
{{- if gt (len .context.run) 63 -}}
{{- fail (printf "run id %q is too long for a label: %d characters of at most 63. Shorten the recipe's name" .context.run (len .context.run)) -}}
{{- end -}}
{{- end -}}
