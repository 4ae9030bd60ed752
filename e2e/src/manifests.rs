//! The manifests that several scenarios apply; everything of theirs is in the namespace `e2e`.

use std::fmt::Write as _;

pub const NAMESPACE: &str = "e2e";

/// A namespace that lets in no pod but those of Pod Security's strictest standard.
pub fn restricted_namespace(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
"
    )
}

/// A Service with a Deployment of the echo backend.
pub fn echo(name: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  replicas: {replicas}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
{}
---",
        echo_pod(name)
    )
}

/// The `spec` of a Deployment's pod template: the echo backend, which says that it is of the Service `name`.
pub fn echo_pod(name: &str) -> String {
    format!(
        "    spec:
      enableServiceLinks: false
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: echo
          image: docker.io/local/e2e:1
          imagePullPolicy: Never
          command: [/echo, serve]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
          env:
            - {{name: SERVICE, value: {name}}}
            - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
          readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}"
    )
}

/// An Ingress for one host, with annotations (of the prefix of ingress-nginx) and, if named, a Secret for TLS.
pub fn ingress(name: &str, host: &str, service: &str, annotations: &[(&str, &str)], secret: Option<&str>) -> String {
    let mut manifest = format!(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: {NAMESPACE}
  annotations:
    e2e: \"true\"
"
    );
    for (annotation, value) in annotations {
        let _ = writeln!(manifest, "    nginx.ingress.kubernetes.io/{annotation}: \"{value}\"");
    }
    let _ = write!(
        manifest,
        "spec:
  ingressClassName: sluice
  rules:
    - host: {host}
      http:
        paths:
          - {{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{name: http}}}}}}}}
"
    );
    if let Some(secret) = secret {
        let _ = writeln!(manifest, "  tls: [{{hosts: [{host}], secretName: {secret}}}]");
    }
    manifest + "---"
}

/// The Gateway of the scenarios: one listener for HTTP, one for HTTPS with the Secret `gateway-tls`.
pub const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: e2e}
spec:
  gatewayClassName: sluice
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - name: https
      port: 443
      protocol: HTTPS
      hostname: '*.gateway.test'
      tls: {certificateRefs: [{name: gateway-tls}]}
---";

/// An HTTPRoute of the Gateway `web` with one rule: this Service, and the response header `x-edit` with this value.
pub fn route(name: &str, host: &str, service: &str, edit: usize) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [{host}]
  rules:
    - filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{set: [{{name: x-edit, value: '{edit}'}}]}}
      backendRefs: [{{name: {service}, port: 80}}]
---"
    )
}
