{{/*
Where a secret is, as YAML: `secret`, `key`, `file` (its name in the pod) and `variable` (which names that file to the
process). Nothing where there is none. Takes root and name.
*/}}
{{- define "modelferry.secret" -}}
{{- $values := .root.Values -}}
{{- $own := include "modelferry.fullname" .root -}}
{{- $secret := "" -}}
{{- $key := "" -}}
{{- $file := "" -}}
{{- $variable := "" -}}
{{- if eq .name "database" -}}
  {{- $file = "database-url" -}}
  {{- $variable = "DATABASE_URL_FILE" -}}
  {{- $key = "database-url" -}}
  {{- if $values.postgresql.enabled -}}
    {{- $secret = default (printf "%s-made" $own) $values.postgresql.auth.existingSecret -}}
  {{- else if $values.externalDatabase.existingSecret -}}
    {{- $secret = $values.externalDatabase.existingSecret -}}
    {{- $key = $values.externalDatabase.key -}}
  {{- else if $values.externalDatabase.url -}}
    {{- $secret = $own -}}
  {{- else -}}
    {{- fail "There is no database: set postgresql.enabled, externalDatabase.existingSecret or externalDatabase.url" -}}
  {{- end -}}
{{- else if eq .name "redis" -}}
  {{- $file = "redis-url" -}}
  {{- $variable = "REDIS_URL_FILE" -}}
  {{- $key = "redis-url" -}}
  {{- if $values.redis.enabled -}}
    {{- $secret = default (printf "%s-made" $own) $values.redis.auth.existingSecret -}}
  {{- else if $values.externalRedis.existingSecret -}}
    {{- $secret = $values.externalRedis.existingSecret -}}
    {{- $key = $values.externalRedis.key -}}
  {{- else if $values.externalRedis.url -}}
    {{- $secret = $own -}}
  {{- else -}}
    {{- fail "There is no queue: set redis.enabled, externalRedis.existingSecret or externalRedis.url" -}}
  {{- end -}}
{{- else -}}
  {{- $given := get $values.secrets .name -}}
  {{- $file = kebabcase .name -}}
  {{- $variable = get (dict "adminKey" "MODELFERRY_ADMIN_KEY_FILE" "secretKey" "MODELFERRY_SECRET_KEY_FILE" "hfToken" "HF_TOKEN_FILE" "getiToken" "GETI_TOKEN_FILE") .name -}}
  {{- $key = $given.key -}}
  {{- if $given.existingSecret -}}
    {{- $secret = $given.existingSecret -}}
  {{- else if $given.value -}}
    {{- $secret = $own -}}
    {{- $key = $file -}}
  {{- else if and (eq .name "adminKey") (include "modelferry.makesAdminKey" .root) -}}
    {{- $secret = printf "%s-made" $own -}}
    {{- $key = $file -}}
  {{- end -}}
{{- end -}}
{{- if $secret -}}
{{- dict "secret" $secret "key" $key "file" $file "variable" $variable | toYaml -}}
{{- end -}}
{{- end -}}

{{/* Not empty where callers are asked and the operator has brought no key to begin with. */}}
{{- define "modelferry.makesAdminKey" -}}
{{- $given := .Values.secrets.adminKey -}}
{{- if and (eq .Values.access.mode "required") (not $given.existingSecret) (not $given.value) -}}true{{- end -}}
{{- end -}}

{{/*
A password that is made once: what the cluster has already, else a new one. It is remembered in the values, because each
template that asks must hear the same. Takes root, key (in the secret `...-made`) and length.
*/}}
{{- define "modelferry.password" -}}
{{- $made := get .root.Values "made" | default dict -}}
{{- if not (hasKey $made .key) -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace (printf "%s-made" (include "modelferry.fullname" .root)) | default dict -}}
{{- $old := get (get $there "data" | default dict) .key -}}
{{- $_ := set $made .key (ternary (b64dec $old) (randAlphaNum (int .length)) (not (empty $old))) -}}
{{- $_ := set .root.Values "made" $made -}}
{{- end -}}
{{- get $made .key -}}
{{- end -}}
