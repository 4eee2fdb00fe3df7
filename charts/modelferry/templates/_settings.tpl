{{/* The settings that every process has, by the names of their variables. */}}
{{- define "modelferry.settings" -}}
{{- $all := dict
  "MODELS_DIR" "/opt/models"
  "MODEL_PATH" .Values.modelPath
  "ENABLED_PLUGINS" .Values.enabledPlugins
  "MODELFERRY_LOG_LEVEL" .Values.log.level
  "MODELFERRY_LOG_FORMAT" .Values.log.format
  "MODELFERRY_METRICS_HOST" "0.0.0.0"
  "MODELFERRY_METRICS_PORT" (.Values.metrics.port | toString)
  "MODELFERRY_ACCESS" .Values.access.mode
  "MODELFERRY_KEEP_AUDIT_DAYS" (.Values.access.keepAuditDays | toString)
-}}
{{- if .Values.access.openNetworks }}{{ $_ := set $all "MODELFERRY_OPEN_NETWORKS" (join "," .Values.access.openNetworks) }}{{ end -}}
{{- if .Values.access.trustedProxies }}{{ $_ := set $all "MODELFERRY_TRUSTED_PROXIES" (join "," .Values.access.trustedProxies) }}{{ end -}}
{{- if .Values.access.allowedHosts }}{{ $_ := set $all "MODELFERRY_ALLOWED_HOSTS" (include "modelferry.hosts" .) }}{{ end -}}
{{- if .Values.access.rateLimit }}{{ $_ := set $all "MODELFERRY_RATE_LIMIT" .Values.access.rateLimit }}{{ end -}}
{{- with .Values.access.oidc -}}
{{- if .issuer -}}
{{- $_ := set $all "MODELFERRY_OIDC_ISSUER" .issuer -}}
{{- $_ := set $all "MODELFERRY_OIDC_AUDIENCE" .audience -}}
{{- $_ := set $all "MODELFERRY_OIDC_ROLES_CLAIM" .rolesClaim -}}
{{- $_ := set $all "MODELFERRY_OIDC_NAME_CLAIM" .nameClaim -}}
{{- $pairs := list -}}
{{- range $value, $role := .roles }}{{ $pairs = append $pairs (printf "%s=%s" $value $role) }}{{ end -}}
{{- $_ := set $all "MODELFERRY_OIDC_ROLES" (join "," $pairs) -}}
{{- end -}}
{{- end -}}
{{- if .Values.flower.url }}{{ $_ := set $all "MODELFERRY_FLOWER_URL" .Values.flower.url }}{{ end -}}
{{- if .Values.tracing.endpoint }}{{ $_ := set $all "OTEL_EXPORTER_OTLP_ENDPOINT" .Values.tracing.endpoint }}{{ end -}}
{{- include "modelferry.asText" (mergeOverwrite $all .Values.config) -}}
{{- end -}}

{{/* Name -> value, each value as the text that an environment holds: numbers without an exponent. */}}
{{- define "modelferry.asText" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "modelferry.text" $value | quote }}
{{- end -}}
{{- end -}}

{{- define "modelferry.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* The names by which the API may be called: those that the operator lists, and the Service's. */}}
{{- define "modelferry.hosts" -}}
{{- $name := include "modelferry.fullname" . -}}
{{- $namespace := .Release.Namespace -}}
{{- concat .Values.access.allowedHosts (list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace)) | uniq | join "," -}}
{{- end -}}

{{/* Proxies as YAML: http, https, no. Those of the chart that holds this one count where no own ones are set. */}}
{{- define "modelferry.proxy" -}}
{{- $shared := get (.Values.global | default dict) "proxy" | default dict -}}
{{- dict
  "http" (default (get $shared "http_proxy" | default "") .Values.proxy.http)
  "https" (default (get $shared "https_proxy" | default "") .Values.proxy.https)
  "no" (default (get $shared "no_proxy" | default "") .Values.proxy.noProxy)
| toYaml -}}
{{- end -}}

{{/* The variables that lead processes to proxies. */}}
{{- define "modelferry.proxyEnv" -}}
{{- $proxy := include "modelferry.proxy" . | fromYaml -}}
{{- range $way := list "http" "https" "no" }}
{{- $name := printf "%s_proxy" $way }}
{{- if $.Values.proxy.existingSecret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $.Values.proxy.existingSecret }}, key: {{ $name }}, optional: true}
{{- else if get $proxy $way }}
- name: {{ $name }}
  value: {{ get $proxy $way | quote }}
{{- end }}
{{- end }}
{{- end -}}
