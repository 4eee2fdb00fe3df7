{{/*
The pod of one kind of process. Takes root, component, values (what an operator may say of it), command, and if need be:
labels, annotations, secrets (their names), volume (whether it sees the models), proxies, settings (whether it has the
common ones), env, ports, probes, graceSeconds, spread, mounts, volumes, restartPolicy, account (whether it has the
service account).
*/}}
{{- define "modelferry.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $image := mergeOverwrite (deepCopy $root.Values.image) (deepCopy (get $values "image" | default dict)) -}}
{{- $secrets := list -}}
{{- range .secrets -}}
{{- with include "modelferry.secret" (dict "root" $root "name" .) -}}
{{- $secrets = append $secrets (fromYaml .) -}}
{{- end -}}
{{- end -}}
metadata:
  labels:
    {{- include "modelferry.labels" . | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if .volume }}
    modelferry/volume: {{ include "modelferry.claim" $root }}
    {{- end }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := merge (dict) (get $values "podAnnotations" | default dict) (get . "annotations" | default dict) }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # A Service called modelferry would become variables MODELFERRY_..., which are no settings: nothing would start.
  enableServiceLinks: false
  automountServiceAccountToken: false
  {{- if ne (toString .account) "false" }}
  serviceAccountName: {{ include "modelferry.serviceAccount" $root }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- mergeOverwrite (deepCopy $root.Values.podSecurityContext) (deepCopy (get $values "podSecurityContext" | default dict)) | toYaml | nindent 4 }}
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with .graceSeconds }}
  terminationGracePeriodSeconds: {{ . }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $affinity := deepCopy (get $values "affinity" | default dict) }}
  {{- if and .volume (include "modelferry.oneNode" $root) }}
  {{- /* One node mounts the volume: whoever sees it has to be where the others are. */}}
  {{- $near := get $affinity "podAffinity" | default dict }}
  {{- $same := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "modelferry/volume" (include "modelferry.claim" $root))) }}
  {{- $required := append (get $near "requiredDuringSchedulingIgnoredDuringExecution" | default list) $same }}
  {{- $_ := set $near "requiredDuringSchedulingIgnoredDuringExecution" $required }}
  {{- $_ := set $affinity "podAffinity" $near }}
  {{- end }}
  {{- with $affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml $values.topologySpreadConstraints | nindent 4 }}
  {{- else if and .spread (not (include "modelferry.oneNode" $root)) }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "modelferry.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: {{ .container | default "modelferry" }}
      image: {{ include "modelferry.image" (dict "image" $image "tag" $root.Chart.AppVersion) }}
      imagePullPolicy: {{ $image.pullPolicy }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      # Behind the image's own entry, which reaps what nobody else does.
      args: {{ toJson .command }}
      {{- if .settings }}
      envFrom:
        - configMapRef:
            name: {{ include "modelferry.fullname" $root }}
      {{- end }}
      env:
        # Nothing is written there: the root of the file system is read-only.
        - name: HOME
          value: /tmp
        {{- range $secrets }}
        - name: {{ .variable }}
          value: /run/modelferry/{{ .file }}
        {{- end }}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- if .proxies }}
        {{- with include "modelferry.proxyEnv" $root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .ports }}
      ports:
        {{- range $name, $port := . }}
        - name: {{ $name }}
          containerPort: {{ $port }}
        {{- end }}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if $secrets }}
        - name: secrets
          mountPath: /run/modelferry
          readOnly: true
        {{- end }}
        {{- if .volume }}
        - name: models
          mountPath: /opt/models
          {{- with $root.Values.persistence.subPath }}
          subPath: {{ . }}
          {{- end }}
        {{- end }}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ get $values "tmpSize" | default "64Mi" }}
    {{- with $secrets }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range . }}
          - secret:
              name: {{ .secret }}
              items:
                - key: {{ .key }}
                  path: {{ .file }}
          {{- end }}
    {{- end }}
    {{- if .volume }}
    - name: models
      persistentVolumeClaim:
        claimName: {{ include "modelferry.claim" $root }}
    {{- end }}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* What changes a pod when it changes: settings, and secrets that are in the values. Takes root. */}}
{{- define "modelferry.checksums" -}}
checksum/settings: {{ include "modelferry.settings" .root | sha256sum }}
checksum/secrets: {{ include "modelferry.given" .root | sha256sum }}
{{- end -}}

{{/* The three probes at the port of health and metrics. Takes probes: the operator's numbers. */}}
{{- define "modelferry.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  {{- toYaml .probes.startup | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  {{- toYaml .probes.readiness | nindent 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  {{- toYaml .probes.liveness | nindent 2 }}
{{- end -}}

{{/* A limit to evictions. Takes root, component, name and budget. */}}
{{- define "modelferry.budget" -}}
{{- if .budget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "modelferry.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .budget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "modelferry.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
