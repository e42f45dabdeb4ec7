{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 34 | trimSuffix "-" -}}
{{- else if contains (include "penstock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 34 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "penstock.name" .) | trunc 34 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "penstock.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "penstock.selector" . }}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* A pool's name as part of an object's name: pools may have capitals and underscores, and long names that begin alike. */}}
{{- define "penstock.poolName" -}}
{{- $plain := lower . | replace "_" "-" | trimAll "-" -}}
{{- if and (eq $plain .) (le (len .) 20) -}}{{ . }}{{- else -}}{{ printf "%s-%s" ($plain | trunc 13 | trimSuffix "-") (sha256sum . | trunc 6) }}{{- end -}}
{{- end -}}

{{/* An image: (dict "root" . "image" .Values.image.api) */}}
{{- define "penstock.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- $name := .image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}{{- end -}}
{{- if .image.digest -}}{{ printf "%s@%s" $name .image.digest }}{{- else -}}{{ printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}{{- end -}}
{{- end -}}

{{- define "penstock.secret" -}}
{{- default (printf "%s-secrets" (include "penstock.fullname" .)) .Values.secrets.existingSecret -}}
{{- end -}}

{{- define "penstock.serviceAccount" -}}
{{- default (include "penstock.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The account of workers that patch their own pods. Accounts that you make yourself are one. */}}
{{- define "penstock.workerAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ include "penstock.serviceAccount" . }}-worker{{- else -}}{{ include "penstock.serviceAccount" . }}{{- end -}}
{{- end -}}

{{/* The fewest replicas of a pool: `default` would take 0 for unset. */}}
{{- define "penstock.minReplicas" -}}
{{- $scaling := default dict .autoscaling -}}
{{- if hasKey $scaling "minReplicas" -}}{{ int $scaling.minReplicas }}{{- else -}}1{{- end -}}
{{- end -}}

{{/* Not empty if a pool's workers say on their pods how busy they are. */}}
{{- define "penstock.saysCost" -}}
{{- if .Values.worker.podDeletionCost -}}
{{- if .Values.operator.enabled -}}yes{{- end -}}
{{- range $own := .Values.pools -}}{{- if and $own.autoscaling $own.autoscaling.enabled -}}yes{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Not empty if KEDA asks the api about a pool. */}}
{{- define "penstock.asksApi" -}}
{{- if and .Values.operator.enabled (eq .Values.keda.trigger "metrics-api") -}}yes{{- end -}}
{{- range $own := .Values.pools -}}
{{- if and $own.autoscaling $own.autoscaling.enabled (eq (default $.Values.keda.trigger $own.autoscaling.trigger) "metrics-api") -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* The address of Redis for a role: (dict "root" . "role" "api") */}}
{{- define "penstock.redisUrl" -}}
{{- if .root.Values.valkey.enabled -}}
redis://{{ .role }}@{{ include "penstock.fullname" .root }}-valkey:6379/0
{{- else -}}
{{- $forgotten := ternary ". An upgrade with --set begins with the chart's own values: give your file again (-f FILE), or add --reset-then-reuse-values" "" .root.Release.IsUpgrade -}}
{{- $url := required (printf "redis.url is not set: give the address of your Redis or Valkey, or set valkey.enabled=true to try one without replication%s" $forgotten) .root.Values.redis.url -}}
{{- if .root.Values.redis.users -}}
{{- $parts := splitn "://" 2 $url -}}
{{ $parts._0 }}://{{ .role }}@{{ $parts._1 }}
{{- else -}}{{ $url }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The key of the secret that has a role's password of Redis. */}}
{{- define "penstock.redisKey" -}}
{{- if or .root.Values.valkey.enabled .root.Values.redis.users -}}redis_{{ .role }}{{- else -}}redis_password{{- end -}}
{{- end -}}

{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What every pod of ours begins with: (dict "root" . "role" "api" "component" "api" "own" .Values.api) */}}
{{- define "penstock.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: {{ default false .token }}
serviceAccountName: {{ if .account }}{{ .account }}{{ else if .token }}{{ include "penstock.workerAccount" .root }}{{ else }}{{ include "penstock.serviceAccount" .root }}{{ end }}
securityContext: {{- include "penstock.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* What every container of ours has in its environment. */}}
{{- define "penstock.env" -}}
- {name: PENSTOCK_SETTINGS_FILE, value: /etc/penstock/penstock.toml}
- {name: PENSTOCK_SECRETS_DIR, value: /run/secrets/penstock}
- {name: PENSTOCK_REDIS_URL, value: {{ include "penstock.redisUrl" . | quote }}}
- {name: PENSTOCK_LOG_JSON, value: "true"}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- {name: PENSTOCK_METRICS_HOST, value: 0.0.0.0}
- {name: PENSTOCK_METRICS_PORT, value: "9100"}
- {name: PENSTOCK_METRICS_ADVERTISE_HOST, value: $(POD_IP)}
{{- if not (hasKey .root.Values.settings "files_url") }}
- {name: PENSTOCK_FILES_URL, value: {{ default "/var/lib/penstock-files" .root.Values.files.url | quote }}}
{{- end }}
{{- with .root.Values.files.credentialsSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ . }}, key: access_key_id}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: secret_access_key}}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "penstock.mounts" -}}
- {name: settings, mountPath: /etc/penstock, readOnly: true}
- {name: secrets, mountPath: /run/secrets/penstock, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if not .root.Values.files.url }}
- {name: files, mountPath: /var/lib/penstock-files}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts. "keys": keys of the secret that this role has beside its password. */}}
{{- define "penstock.volumes" -}}
- name: settings
  configMap: {name: {{ include "penstock.fullname" .root }}-settings}
- name: secrets
  secret:
    secretName: {{ include "penstock.secret" .root }}
    defaultMode: 0440
    optional: false
    items:
      - {key: {{ include "penstock.redisKey" . }}, path: penstock_redis_password}
      {{- range .keys }}
      - {key: {{ . }}, path: penstock_{{ . }}}
      {{- end }}
      {{- if .root.Values.encryption.enabled }}
      - {key: encryption_keys, path: penstock_encryption_keys}
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ default "256Mi" .tmp }}}
{{- if not .root.Values.files.url }}
- name: files
  persistentVolumeClaim: {claimName: {{ default (printf "%s-files" (include "penstock.fullname" .root)) .root.Values.files.existingClaim }}}
{{- end }}
{{- end -}}

{{/* A change of settings starts new pods. One of secrets does not: a hash of a short password would give it away. */}}
{{- define "penstock.checksums" -}}
checksum/settings: {{ include (print .Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end -}}
