//! A data plane as far as the stream is concerned: it takes batches and acknowledges when the test says so.

use std::net::SocketAddr;

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use serde_json::json;
use snapshot::proto::{
    Ack, Batch, ClientMessage, Hello, Kind, Rejected, ResourceName, ServerMessage, client_message, server_message,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status, Streaming};

use crate::cluster::{Cluster, PATIENCE};

/// A session that is fed.
pub struct DataPlane {
    messages: mpsc::Sender<ClientMessage>,
    batches: Streaming<ServerMessage>,
    version: Vec<u8>,
}

impl DataPlane {
    /// Connects with the token of a pod `ACCOUNT-0` of this ServiceAccount; the CA is that of the ConfigMap, as in a pod.
    pub async fn connect(
        cluster: &Cluster,
        controller: SocketAddr,
        ca: &str,
        (namespace, account): (&str, &str),
    ) -> Result<Self, Status> {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), namespace);
        let pod = format!("{account}-0");
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": namespace},
            "spec": {"serviceAccountName": account, "containers": [{"name": "dataplane", "image": "sluice"}]},
        });
        cluster.apply(&manifest.to_string()).await;
        let uid = cluster.get("v1", "Pod", namespace, &pod).await.unwrap()["metadata"]["uid"].clone();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
        let spec = TokenRequestSpec {
            audiences: vec!["sluice".into()],
            bound_object_ref: serde_json::from_value(bound).unwrap(),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let token = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        let token = token.status.unwrap().token;

        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(snapshot::SERVER_NAME);
        let endpoint = Channel::from_shared(format!("https://{controller}")).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;

        let (messages, receiver) = mpsc::channel(4);
        let hello = Hello {
            version: "test".into(),
            instance: "what it calls itself does not count".into(),
            capabilities: snapshot::CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
            held: Vec::new(),
            feed: true,
        };
        messages.send(ClientMessage { message: Some(client_message::Message::Hello(hello)) }).await.unwrap();
        let outgoing = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let mut request = Request::new(outgoing.boxed());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/sluice.v1.Stream/Subscribe");
        let codec = tonic_prost::ProstCodec::<ClientMessage, ServerMessage>::default();
        let batches = client.streaming(request, path, codec).await?.into_inner();
        Ok(Self { messages, batches, version: Vec::new() })
    }

    /// The next batch; not acknowledged yet.
    pub async fn batch(&mut self) -> Batch {
        loop {
            let message =
                timeout(PATIENCE, self.batches.next()).await.expect("a batch in time").expect("an open stream");
            if let Some(server_message::Message::Batch(batch)) = message.unwrap().message {
                self.version.clone_from(&batch.version);
                return batch;
            }
        }
    }

    /// Says that the last batch is in force.
    pub async fn acknowledge(&mut self) {
        self.answer(Vec::new()).await;
    }

    /// Says that the last batch is in force except for one resource.
    pub async fn reject(&mut self, kind: Kind, name: &str, reason: &str) {
        let name = ResourceName { kind: kind.into(), name: name.into() };
        self.answer(vec![Rejected { name: Some(name), reason: reason.into() }]).await;
    }

    async fn answer(&mut self, rejected: Vec<Rejected>) {
        let ack = Ack { version: self.version.clone(), rejected, ready: true };
        self.messages.send(ClientMessage { message: Some(client_message::Message::Ack(ack)) }).await.unwrap();
    }

    /// Takes and acknowledges batches until one holds a resource with these bytes.
    pub async fn until(&mut self, bytes: &[u8]) {
        loop {
            let batch = self.batch().await;
            self.acknowledge().await;
            let holds = |resource: &[u8]| resource.windows(bytes.len()).any(|window| window == bytes);
            if batch.upserts.iter().any(|upsert| holds(&upsert.resource)) {
                return;
            }
        }
    }
}
