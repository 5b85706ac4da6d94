{{- define "vfl.name" -}}
{{- printf "%s-%s" .Release.Name .Values.mode | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "vfl.labels" -}}
app.kubernetes.io/name: vfl
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end -}}

{{- define "vfl.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "vfl.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "vfl.listens" -}}
{{- if or .Values.service.enabled (eq .Values.mode "relay") -}}yes{{- end -}}
{{- end -}}

{{- define "vfl.figures" -}}
{{- if and .Values.metrics.enabled (eq .Values.mode "serve") -}}yes{{- end -}}
{{- end -}}
