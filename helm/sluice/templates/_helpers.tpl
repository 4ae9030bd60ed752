{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.controller" -}}{{ include "sluice.fullname" . }}-controller{{- end -}}
{{- define "sluice.dataplane" -}}{{ include "sluice.fullname" . }}-dataplane{{- end -}}

{{/*
The election ID: of this release alone, so that two releases in a namespace lead apart.
*/}}
{{- define "sluice.electionID" -}}
{{- .Values.controller.electionID | default (printf "%s-leader" (include "sluice.fullname" .)) -}}
{{- end -}}

{{/*
Whether another release of the cluster has the class "sluice", or had it when this one was installed: then classes and controller
names are made from the name of this release. Needs a cluster to ask: with `helm template` set the values.
*/}}
{{- define "sluice.second" -}}
{{- $full := include "sluice.fullname" . -}}
{{- $state := dict "second" false -}}
{{- range list (list "networking.k8s.io/v1" "IngressClass") (list "gateway.networking.k8s.io/v1" "GatewayClass") -}}
{{- with lookup (index . 0) (index . 1) "" "sluice" -}}
{{- $annotations := .metadata.annotations | default dict -}}
{{- $name := index $annotations "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := index $annotations "meta.helm.sh/release-namespace" | default "" -}}
{{- if and $name (or (ne $name $.Release.Name) (ne $namespace $.Release.Namespace)) -}}{{- $_ := set $state "second" true -}}{{- end -}}
{{- end -}}
{{- if ne $full "sluice" -}}
{{- with lookup (index . 0) (index . 1) "" $full -}}
{{- $annotations := .metadata.annotations | default dict -}}
{{- if eq (index $annotations "meta.helm.sh/release-name" | default "") $.Release.Name -}}{{- $_ := set $state "second" true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $state.second -}}true{{- end -}}
{{- end -}}

{{/* The names of the classes and controllers: as the values say, else those of a single installation, else of this release. */}}
{{- define "sluice.ingressClass" -}}
{{- .Values.controller.ingressClassResource.name | default (ternary (include "sluice.fullname" .) "sluice" (eq (include "sluice.second" .) "true")) -}}
{{- end -}}
{{- define "sluice.gatewayClass" -}}
{{- .Values.controller.gatewayClassResource.name | default (ternary (include "sluice.fullname" .) "sluice" (eq (include "sluice.second" .) "true")) -}}
{{- end -}}
{{- define "sluice.ingressController" -}}
{{- .Values.controller.ingressClassResource.controllerValue | default (printf "sluice.dev/ingress-controller%s" (include "sluice.suffix" .)) -}}
{{- end -}}
{{- define "sluice.gatewayController" -}}
{{- .Values.controller.gatewayControllerName | default (printf "sluice.dev/gateway-controller%s" (include "sluice.suffix" .)) -}}
{{- end -}}
{{- define "sluice.suffix" -}}
{{- if include "sluice.second" . -}}-{{ include "sluice.fullname" . }}{{- end -}}
{{- end -}}

{{/* Whether the chart makes the GatewayClass, without which no Gateway is served. */}}
{{- define "sluice.gateways" -}}
{{- if and .Values.controller.gatewayClassResource.enabled (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/GatewayClass") -}}
true
{{- end -}}
{{- end -}}

{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The user of all pods; empty where the platform chooses one, as OpenShift's security context constraints do. */}}
{{- define "sluice.user" -}}
{{- if not (.Capabilities.APIVersions.Has "security.openshift.io/v1") -}}65532{{- end -}}
{{- end -}}

{{/* How the data planes of Gateways look where no GatewayConfig says otherwise: as the shared ones. */}}
{{- define "sluice.gatewayDefaults" -}}
{{- $spec := dict "service" .Values.controller.gatewayService "terminationGracePeriodSeconds" (max 10 (int .Values.dataplane.terminationGracePeriodSeconds)) -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "logLevel" "resources" "podLabels" -}}
{{- with index $.Values.dataplane $field -}}{{- $_ := set $spec $field . -}}{{- end -}}
{{- end -}}
{{- with .Values.dataplane.topologySpreadConstraints -}}
{{- $constraints := list -}}
{{- range . -}}{{- $constraints = append $constraints (omit . "labelSelector") -}}{{- end -}}
{{- $_ := set $spec "topologySpreadConstraints" $constraints -}}
{{- end -}}
{{- toJson $spec -}}
{{- end -}}

{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
{{- with include "sluice.user" . }}
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sluice.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Scheduling of a component. Arguments: list of the root context, the component's values and its name. */}}
{{- define "sluice.scheduling" -}}
{{- $root := index . 0 }}{{- $values := index . 1 }}{{- $component := index . 2 -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sluice.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "sluice.metricsAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "10254"
prometheus.io/path: /metrics
{{- end -}}
