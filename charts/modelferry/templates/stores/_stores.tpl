{{/* What the pods of Postgres and Redis have in common. Takes root, component and values. */}}
{{- define "modelferry.storePod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
serviceAccountName: {{ include "modelferry.serviceAccount" .root }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .values.userId }}
  runAsGroup: {{ .values.userId }}
  fsGroup: {{ .values.userId }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: 60
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The volume of a store. Takes values. */}}
{{- define "modelferry.storeClaim" -}}
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .values.persistence.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .values.persistence.size }}
{{- end -}}

{{/* The Service of a store, by which its one pod is found. Takes root, component and port. */}}
{{- define "modelferry.storeService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "modelferry.fullname" .root }}-{{ .component }}
  labels:
    {{- include "modelferry.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "modelferry.selector" . | nindent 4 }}
  ports:
    - name: {{ .component }}
      port: {{ .port }}
      targetPort: {{ .component }}
{{- end -}}
