{{- define "modelferry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is put behind it. */}}
{{- define "modelferry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "modelferry.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a selector names: it must never change. Takes root and component. */}}
{{- define "modelferry.selector" -}}
app.kubernetes.io/name: {{ include "modelferry.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "modelferry.labels" -}}
{{ include "modelferry.selector" . }}
app.kubernetes.io/part-of: modelferry
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image's whole name. Takes image and tag, which is used where the image names none. */}}
{{- define "modelferry.image" -}}
{{- $path := .image.repository -}}
{{- if .image.registry }}{{ $path = printf "%s/%s" .image.registry $path }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $path .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $path (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "modelferry.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "modelferry.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "modelferry.claim" -}}
{{- default .Values.persistence.claimName .Values.persistence.existingClaim -}}
{{- end -}}

{{/* Not empty where only one node at a time can mount the volume. */}}
{{- define "modelferry.oneNode" -}}
{{- if not (has "ReadWriteMany" .Values.persistence.accessModes) -}}true{{- end -}}
{{- end -}}

{{/* Pool -> what it is, with the defaults of its kind. Only those that are enabled. */}}
{{- define "modelferry.pools" -}}
{{- $pools := dict -}}
{{- range $name, $own := .Values.pools -}}
{{- if $own -}}
{{- if ne (toString $own.enabled) "false" -}}
{{- $defaults := get $.Values.poolDefaults $own.kind | deepCopy -}}
{{- $_ := set $pools $name (mergeOverwrite $defaults (deepCopy $own)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{/* The port in an address such as http://proxy.example:912. */}}
{{- define "modelferry.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- if $port }}{{ $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end -}}
{{- end -}}
