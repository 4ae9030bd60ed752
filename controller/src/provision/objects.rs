//! The manifests of the data planes of a Gateway, or of those that all Gateways of a class share.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::ApiResource;
use serde_json::{Value, json};
use translate::{CLASS_NAME, DataPlane, GATEWAY_NAME, Parameters, ServiceType, Transport, label_value};

use super::Wanted;
use super::owner::{INSTALLATION, Installation};

/// How long a pod lives after it is asked to stop, in seconds, unless parameters say otherwise.
const GRACE: u32 = 300;
/// How much earlier its data plane has to finish its connections.
const EARLIER: u32 = 5;

/// What the data planes of all Gateways have in common.
#[derive(Clone, Debug)]
pub struct Template {
    /// The image; it holds `/sluice-dataplane`.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
    /// `imagePullSecrets`, by name; looked for in the namespace of the pods.
    pub pull_secrets: Vec<String>,
    /// `sizeLimit` of the volume for the last good snapshot.
    pub state_size_limit: String,
    /// How many seconds a connection without HTTP may carry nothing.
    pub tunnel_idle_seconds: u64,
    /// How many seconds a UDP session may see no datagram.
    pub udp_idle_seconds: u64,
    /// How many pods each Gateway, or class, gets.
    pub replicas: u32,
    /// The user that runs them; `None` for one that the platform chooses.
    pub user: Option<u32>,
    /// Where the controllers listen: a headless Service's name with the port.
    pub controllers: String,
    /// The certificates of the internal CA, in PEM.
    pub ca: String,
    /// This installation, which tells its objects from those of another one.
    pub installation: Installation,
    /// Whether a NetworkPolicy guards them, as the chart's guards the shared ones.
    pub network_policies: bool,
    /// Whether pods have the annotations by which Prometheus finds their metrics, as the chart's pods do.
    pub metrics_annotations: bool,
}

/// The kinds that are made.
pub fn kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
    ]
}

impl Template {
    /// Whether data planes have an object of this kind.
    pub(super) fn makes(&self, kind: &str) -> bool {
        self.network_policies || kind != NetworkPolicy::kind(&())
    }

    /// Everything that data planes consist of, in the order in which it is applied.
    pub fn objects(&self, plane: &DataPlane, wanted: &Wanted) -> Vec<Value> {
        let infrastructure = &wanted.infrastructure;
        let parameters = infrastructure.parameters.clone().unwrap_or_default();
        let (namespace, name) = (infrastructure.key.namespace.as_str(), infrastructure.key.name.as_str());
        let label = |value: &str| label_value(value, name).to_owned();
        let Some((owner_kind, owner)) = plane.owner() else { return Vec::new() };
        // Pods of a Gateway carry the name of their class too: what they are keeps them apart from those of the class.
        let (owner_label, what) = match plane {
            DataPlane::Gateway(_) => (GATEWAY_NAME, "sluice-gateway"),
            DataPlane::Class(_) | DataPlane::Shared => (CLASS_NAME, "sluice-gateway-class"),
        };
        let selector: BTreeMap<String, String> =
            [(owner_label.to_owned(), label(&owner.name)), ("app.kubernetes.io/name".to_owned(), what.to_owned())]
                .into();
        let mut labels = infrastructure.labels.clone();
        labels.extend(selector.clone());
        labels.extend([
            (CLASS_NAME.to_owned(), label(&infrastructure.class)),
            ("app.kubernetes.io/managed-by".to_owned(), "sluice".to_owned()),
            (INSTALLATION.to_owned(), self.installation.label().to_owned()),
        ]);
        let object = |api_version: &str, kind: &str, mut body: Value| {
            body["apiVersion"] = api_version.into();
            body["kind"] = kind.into();
            body["metadata"] = json!({
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": infrastructure.annotations,
                "ownerReferences": [{
                    "apiVersion": owner_kind.api_version(),
                    "kind": owner_kind.name(),
                    "name": owner.name,
                    "uid": wanted.uid,
                    "controller": true,
                }],
            });
            body
        };
        let mut objects = vec![
            object("v1", "ServiceAccount", json!({ "automountServiceAccountToken": false })),
            object("v1", "ConfigMap", json!({ "data": { "ca.crt": self.ca } })),
        ];
        if self.network_policies {
            let listeners = infrastructure
                .ports
                .iter()
                .map(|(port, transport)| json!({ "protocol": transport.to_string(), "port": port }));
            let metrics = json!({ "protocol": "TCP", "port": "metrics" });
            let ports: Vec<_> = listeners.chain([metrics]).collect();
            let spec = json!({
                "podSelector": { "matchLabels": selector },
                "policyTypes": ["Ingress"],
                "ingress": [{ "ports": ports }],
            });
            objects.push(object("networking.k8s.io/v1", "NetworkPolicy", json!({ "spec": spec })));
        }
        let mut pod_labels = labels.clone();
        pod_labels.extend(parameters.pod_labels.clone().into_iter().filter(|(name, _)| !labels.contains_key(name)));
        pod_labels.insert("sluice.dev/stream-client".into(), "true".into()); // what network policies let in
        let mut pod_annotations = BTreeMap::new();
        if self.metrics_annotations {
            let annotations = [("scrape", "true"), ("port", "10254"), ("path", "/metrics")];
            pod_annotations
                .extend(annotations.map(|(name, value)| (format!("prometheus.io/{name}"), value.to_owned())));
        }
        pod_annotations.extend(infrastructure.annotations.clone());
        let deployment = json!({
            "spec": {
                "replicas": parameters.replicas.unwrap_or(self.replicas),
                "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
                "selector": { "matchLabels": selector },
                "template": {
                    "metadata": { "labels": pod_labels, "annotations": pod_annotations },
                    "spec": self.pod(name, &selector, &parameters),
                },
            }
        });
        objects.push(object("apps/v1", "Deployment", deployment));
        let port = |(number, transport): &(u16, Transport)| {
            let name = match transport {
                Transport::Tcp => format!("p-{number}"),
                Transport::Udp => format!("p-{number}-udp"),
            };
            json!({ "name": name, "port": number, "targetPort": number, "protocol": transport.to_string() })
        };
        let ports: Vec<_> = infrastructure.ports.iter().map(port).collect();
        let mut spec = json!({ "type": parameters.service_type.to_string(), "selector": selector, "ports": ports });
        if let (ServiceType::LoadBalancer, Some(address)) = (parameters.service_type, infrastructure.address) {
            spec["loadBalancerIP"] = address.to_string().into();
        }
        for (name, value) in &parameters.service_fields {
            let fits = match *name {
                "externalTrafficPolicy" => parameters.service_type != ServiceType::ClusterIP,
                _ => parameters.service_type == ServiceType::LoadBalancer,
            };
            if fits {
                spec[*name] = value.clone();
            }
        }
        let mut service = object("v1", "Service", json!({ "spec": spec }));
        for (name, value) in parameters.service_annotations {
            service["metadata"]["annotations"][name] = value.into();
        }
        objects.push(service);
        let budget = json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector } } });
        objects.push(object("policy/v1", "PodDisruptionBudget", budget));
        objects
    }

    /// The pod: within Pod Security "restricted", with no token but the one that the stream asks for.
    fn pod(&self, name: &str, selector: &BTreeMap<String, String>, parameters: &Parameters) -> Value {
        let grace = parameters.grace_seconds.unwrap_or(GRACE);
        let drain = grace.saturating_sub(EARLIER);
        let resources = match &parameters.resources {
            Some(resources) => json!(resources),
            None => json!({ "requests": { "cpu": "100m", "memory": "32Mi" } }),
        };
        let pull_secrets: Vec<_> = self.pull_secrets.iter().map(|name| json!({ "name": name })).collect();
        let spread = |topology: &str| {
            json!({
                "maxSkew": 1,
                "topologyKey": topology,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": selector },
            })
        };
        let mut security = json!({
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
        });
        if let Some(user) = self.user {
            for field in ["runAsUser", "runAsGroup", "fsGroup"] {
                security[field] = user.into();
            }
        }
        let environment = match &parameters.log_level {
            Some(level) => json!([{ "name": "RUST_LOG", "value": level }]),
            None => json!([]),
        };
        let mut pod = json!({
            "serviceAccountName": name,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull_secrets,
            "terminationGracePeriodSeconds": grace,
            "securityContext": security,
            "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
            "containers": [{
                "name": "dataplane",
                "image": self.image,
                "imagePullPolicy": self.pull_policy,
                "command": ["/sluice-dataplane"],
                "args": [
                    format!("--controllers={}", self.controllers),
                    "--ca=/var/run/sluice/ca/ca.crt",
                    "--token=/var/run/sluice/token/token",
                    "--state-dir=/var/run/sluice/state",
                    format!("--drain-seconds={drain}"),
                    format!("--tunnel-idle-seconds={}", self.tunnel_idle_seconds),
                    format!("--udp-idle-seconds={}", self.udp_idle_seconds),
                ],
                "env": environment,
                "ports": [{ "name": "metrics", "containerPort": 10254 }],
                "readinessProbe": {
                    "httpGet": { "path": "/readyz", "port": "metrics" },
                    "periodSeconds": 2,
                    // A busy node makes all replicas slow at once; none of them is better than a slow one.
                    "timeoutSeconds": 3,
                    "failureThreshold": 3,
                },
                "livenessProbe": {
                    "httpGet": { "path": "/healthz", "port": "metrics" },
                    "initialDelaySeconds": 10,
                    "timeoutSeconds": 5,
                    "failureThreshold": 5,
                },
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": [
                    { "name": "ca", "mountPath": "/var/run/sluice/ca", "readOnly": true },
                    { "name": "token", "mountPath": "/var/run/sluice/token", "readOnly": true },
                    { "name": "state", "mountPath": "/var/run/sluice/state" },
                ],
            }],
            "volumes": [
                { "name": "ca", "configMap": { "name": name } },
                { "name": "token", "projected": { "sources": [{ "serviceAccountToken": {
                    "path": "token", "audience": "sluice", "expirationSeconds": 3600,
                }}]}},
                // The last good snapshot holds private keys: it stays in memory.
                { "name": "state", "emptyDir": { "medium": "Memory", "sizeLimit": self.state_size_limit } },
            ],
        });
        for (field, value) in &parameters.pod_fields {
            pod[*field] = value.clone();
        }
        for constraint in pod["topologySpreadConstraints"].as_array_mut().into_iter().flatten() {
            if constraint.get("labelSelector").is_none() {
                constraint["labelSelector"] = json!({ "matchLabels": selector });
            }
        }
        pod
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crds::policy::ComputeResources;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use translate::{Infrastructure, ObjectKey};

    use super::*;

    fn template() -> Template {
        Template {
            image: "sluice:1".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: vec!["registry".into()],
            state_size_limit: "64Mi".into(),
            tunnel_idle_seconds: 3600,
            udp_idle_seconds: 60,
            replicas: 2,
            user: Some(65532),
            controllers: "sluice-controller.sluice.svc:15010".into(),
            ca: "PEM".into(),
            installation: Installation::new("sluice", "sluice", "sluice.dev/gateway-controller"),
            network_policies: true,
            metrics_annotations: true,
        }
    }

    fn web() -> DataPlane {
        DataPlane::Gateway(ObjectKey::new("shop", "web"))
    }

    /// What a Gateway `shop/web` of class `sluice` needs.
    pub(in crate::provision) fn infrastructure() -> Infrastructure {
        Infrastructure {
            key: ObjectKey::new("shop", "web-sluice"),
            class: "sluice".into(),
            ports: [(80, Transport::Tcp)].into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            address: None,
            parameters: Some(Parameters::default()),
        }
    }

    #[test]
    fn a_probe_that_is_late_once_takes_no_data_plane_out() {
        let pod = template().pod("web-sluice", &BTreeMap::new(), &Parameters::default());
        let probe = |name: &str| pod["containers"][0][name].clone();
        let [ready, alive] = ["readinessProbe", "livenessProbe"].map(probe);
        assert_eq!((&ready["timeoutSeconds"], &ready["failureThreshold"]), (&json!(3), &json!(3)));
        assert_eq!((&alive["timeoutSeconds"], &alive["failureThreshold"]), (&json!(5), &json!(5)));
        // The chart's data planes are probed in the same way.
        let chart = include_str!("../../../deploy/sluice.yaml");
        for lines in [
            "path: /readyz, port: metrics}\n            periodSeconds: 2\n            timeoutSeconds: 3\n            failureThreshold: 3\n",
            "initialDelaySeconds: 10\n            timeoutSeconds: 5\n            failureThreshold: 5\n",
        ] {
            assert!(chart.contains(lines), "{lines}");
        }
    }

    #[test]
    fn what_a_class_shares_belongs_to_the_class_and_selects_no_pod_of_a_single_gateway() {
        let of = |plane: &DataPlane, key: ObjectKey| {
            let infrastructure = Infrastructure { key, ..infrastructure() };
            template().objects(plane, &Wanted { uid: "1".into(), infrastructure })
        };
        let shared = of(&DataPlane::Class("sluice".into()), ObjectKey::new("system", "all-gateways-sluice"));
        for object in &shared {
            let metadata = &object["metadata"];
            assert_eq!((&metadata["namespace"], &metadata["name"]), (&json!("system"), &json!("all-gateways-sluice")));
            let owner = &metadata["ownerReferences"][0];
            assert_eq!((&owner["kind"], &owner["name"]), (&json!("GatewayClass"), &json!("sluice")));
            assert_eq!(metadata["labels"][CLASS_NAME], "sluice");
            assert!(metadata["labels"].get(GATEWAY_NAME).is_none());
        }
        let deployment = |objects: &[Value]| {
            let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
            let map = |value: &Value| serde_json::from_value::<BTreeMap<String, String>>(value.clone()).unwrap();
            let spec = &deployment["spec"];
            (map(&spec["selector"]["matchLabels"]), map(&spec["template"]["metadata"]["labels"]))
        };
        let single = of(&web(), ObjectKey::new("system", "web-sluice"));
        let selects = |selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>| {
            selector.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        let ((of_class, class_pod), (of_gateway, gateway_pod)) = (deployment(&shared), deployment(&single));
        assert!(selects(&of_class, &class_pod) && selects(&of_gateway, &gateway_pod));
        assert!(!selects(&of_class, &gateway_pod) && !selects(&of_gateway, &class_pod));
    }

    #[test]
    fn own_labels_win_over_those_of_the_user_and_fit() {
        let gateway = DataPlane::Gateway(ObjectKey::new("shop", "g".repeat(253)));
        let labels = [(GATEWAY_NAME.to_owned(), "other".to_owned()), ("team".to_owned(), "a".to_owned())].into();
        let infrastructure = Infrastructure { labels, ..infrastructure() };
        let objects = template().objects(&gateway, &Wanted { uid: "1".into(), infrastructure });
        assert_eq!(objects.len(), 6);
        for object in &objects {
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels["team"], "a");
            assert_ne!(labels[GATEWAY_NAME], "other");
            assert!(labels[GATEWAY_NAME].as_str().unwrap().len() <= 63);
        }
    }

    #[test]
    fn a_network_policy_lets_in_what_the_data_planes_listen_for() {
        let infrastructure =
            Infrastructure { ports: [(80, Transport::Tcp), (53, Transport::Udp)].into(), ..infrastructure() };
        let wanted = Wanted { uid: "1".into(), infrastructure };
        let policies = |network_policies| {
            let objects = Template { network_policies, ..template() }.objects(&web(), &wanted);
            objects.into_iter().filter(|object| object["kind"] == "NetworkPolicy").collect::<Vec<_>>()
        };
        assert!(policies(false).is_empty());
        let policy = policies(true).pop().unwrap();
        let ports = policy["spec"]["ingress"][0]["ports"].as_array().unwrap();
        let ports: Vec<_> = ports.iter().map(|port| format!("{} {}", port["protocol"], port["port"])).collect();
        assert_eq!(ports, [r#""UDP" 53"#, r#""TCP" 80"#, r#""TCP" "metrics""#]);
    }

    #[test]
    fn parameters_and_an_address_shape_the_service_and_the_pods() {
        let resources = ComputeResources {
            requests: [("cpu".to_owned(), IntOrString::Int(1))].into(),
            limits: [("memory".to_owned(), IntOrString::String("1Gi".into()))].into(),
        };
        let mut infrastructure = Infrastructure {
            annotations: [("a".to_owned(), "all".to_owned()), ("b".to_owned(), "all".to_owned())].into(),
            address: Some("192.0.2.1".parse().unwrap()),
            parameters: Some(Parameters {
                replicas: Some(5),
                resources: Some(resources),
                service_annotations: [("b".to_owned(), "service".to_owned())].into(),
                ..Parameters::default()
            }),
            ..infrastructure()
        };
        let of = |infrastructure: &Infrastructure, kind: &str| {
            let wanted = Wanted { uid: "1".into(), infrastructure: infrastructure.clone() };
            let objects = template().objects(&web(), &wanted);
            objects.into_iter().find(|object| object["kind"] == kind).unwrap()
        };
        let deployment = of(&infrastructure, "Deployment");
        assert_eq!(deployment["spec"]["replicas"], 5);
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"], json!({ "requests": { "cpu": 1 }, "limits": { "memory": "1Gi" } }));
        assert_eq!(deployment["metadata"]["annotations"], json!({ "a": "all", "b": "all" }));
        let service = of(&infrastructure, "Service");
        assert_eq!(service["metadata"]["annotations"], json!({ "a": "all", "b": "service" }));
        assert_eq!(service["spec"]["type"], "LoadBalancer");
        assert_eq!(service["spec"]["loadBalancerIP"], "192.0.2.1");

        let inside = Parameters { service_type: ServiceType::ClusterIP, ..Parameters::default() };
        infrastructure.parameters = Some(inside);
        let service = of(&infrastructure, "Service");
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert!(service["spec"].get("loadBalancerIP").is_none());
    }

    #[test]
    fn the_last_good_snapshot_has_the_room_and_what_is_idle_the_time_that_was_asked_for() {
        let wanted = Wanted { uid: "1".into(), infrastructure: infrastructure() };
        let template =
            Template { state_size_limit: "1Gi".into(), tunnel_idle_seconds: 7200, udp_idle_seconds: 5, ..template() };
        let objects = template.objects(&web(), &wanted);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let state = volumes.iter().find(|volume| volume["name"] == "state").unwrap();
        assert_eq!(state["emptyDir"]["sizeLimit"], "1Gi");
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        assert!(args.contains(&json!("--tunnel-idle-seconds=7200")) && args.contains(&json!("--udp-idle-seconds=5")));
    }

    #[test]
    fn pods_have_what_the_installation_says_and_the_gateways_annotations_before_it() {
        let annotations = [("prometheus.io/scrape".to_owned(), "false".to_owned())].into();
        let wanted = Wanted { uid: "1".into(), infrastructure: Infrastructure { annotations, ..infrastructure() } };
        let pod = |template: Template| {
            let objects = template.objects(&web(), &wanted);
            objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap()["spec"]["template"].clone()
        };
        let full = pod(template());
        assert_eq!(full["spec"]["imagePullSecrets"], json!([{ "name": "registry" }]));
        let annotations = &full["metadata"]["annotations"];
        assert_eq!(
            (&annotations["prometheus.io/port"], &annotations["prometheus.io/path"]),
            (&json!("10254"), &json!("/metrics"))
        );
        assert_eq!(annotations["prometheus.io/scrape"], "false");
        let bare = pod(Template { pull_secrets: Vec::new(), metrics_annotations: false, ..template() });
        assert_eq!(bare["spec"]["imagePullSecrets"], json!([]));
        assert_eq!(bare["metadata"]["annotations"], json!({ "prometheus.io/scrape": "false" }));
    }

    #[test]
    fn scheduling_logs_grace_period_and_the_services_fields_reach_the_objects() {
        let spec = json!({
            "nodeSelector": {"pool": "edge"}, "priorityClassName": "high", "logLevel": "warn", "podLabels": {"team": "net"},
            "tolerations": [{"key": "edge", "operator": "Exists"}], "terminationGracePeriodSeconds": 60,
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
            "service": {
                "externalTrafficPolicy": "Local", "loadBalancerClass": "metallb", "loadBalancerSourceRanges": ["192.0.2.0/24"],
                "allocateLoadBalancerNodePorts": false,
            },
        });
        let parameters = Parameters::of(&serde_json::from_value(spec.clone()).unwrap()).unwrap();
        let of = |parameters: &Parameters, template: &Template, kind: &str| {
            let infrastructure = Infrastructure { parameters: Some(parameters.clone()), ..infrastructure() };
            let objects = template.objects(&web(), &Wanted { uid: "1".into(), infrastructure });
            objects.into_iter().find(|object| object["kind"] == kind).unwrap()
        };
        let pods = of(&parameters, &template(), "Deployment")["spec"]["template"].clone();
        let pod = &pods["spec"];
        for field in ["nodeSelector", "priorityClassName", "tolerations", "affinity", "terminationGracePeriodSeconds"] {
            assert_eq!(pod[field], spec[field], "{field}");
        }
        assert_eq!(pods["metadata"]["labels"]["team"], "net");
        assert_eq!(pod["containers"][0]["env"], json!([{"name": "RUST_LOG", "value": "warn"}]));
        assert!(pod["containers"][0]["args"].as_array().unwrap().contains(&json!("--drain-seconds=55")));
        let spread = &pod["topologySpreadConstraints"][0];
        assert_eq!(
            (&spread["topologyKey"], &spread["labelSelector"]["matchLabels"][GATEWAY_NAME]),
            (&json!("rack"), &json!("web"))
        );
        let service = of(&parameters, &template(), "Service")["spec"].clone();
        for (field, value) in spec["service"].as_object().unwrap() {
            assert_eq!(service[field], *value, "{field}");
        }
        let inside = Parameters { service_type: ServiceType::ClusterIP, ..parameters };
        let service = of(&inside, &template(), "Service")["spec"].clone();
        assert!(spec["service"].as_object().unwrap().keys().all(|field| service.get(field).is_none()), "{service}");
    }

    #[test]
    fn a_platform_that_chooses_the_user_is_left_to_it() {
        let of = |user| {
            let wanted = Wanted { uid: "1".into(), infrastructure: infrastructure() };
            let objects = Template { user, ..template() }.objects(&web(), &wanted);
            let deployment = objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
            deployment["spec"]["template"]["spec"]["securityContext"].clone()
        };
        assert_eq!(of(Some(65532))["runAsUser"], 65532);
        let chosen = of(None);
        assert!(["runAsUser", "runAsGroup", "fsGroup"].iter().all(|field| chosen.get(field).is_none()), "{chosen}");
        assert_eq!(chosen["runAsNonRoot"], true);
    }
}
