//! The addresses of the controller replicas, looked up again and again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::watch;

use super::SourceError;

const INTERVAL: Duration = Duration::from_secs(3);

/// More replicas than this are left alone.
const MAX_ADDRESSES: usize = 16;

/// The addresses of all controllers, now and whenever they change; looked up until the receiver is dropped. Addresses whose lookup fails stay as they were.
pub(super) fn watch(controllers: &[String]) -> Result<watch::Receiver<BTreeSet<SocketAddr>>, SourceError> {
    let mut fixed = BTreeSet::new();
    let mut names = Vec::new();
    for controller in controllers {
        match controller.parse() {
            Ok(address) => drop(fixed.insert(address)),
            Err(_) => names.push(name_and_port(controller)?),
        }
    }
    let (sender, receiver) = watch::channel(fixed.clone());
    if names.is_empty() {
        tokio::spawn(async move { sender.closed().await });
        return Ok(receiver);
    }
    let resolver = resolver().map_err(|error| SourceError::Resolver(error.to_string()))?;
    tokio::spawn(async move {
        tokio::select! {
            () = look_up(&resolver, &names, &fixed, &sender) => (),
            () = sender.closed() => (),
        }
    });
    Ok(receiver)
}

fn name_and_port(controller: &str) -> Result<(String, u16), SourceError> {
    let parsed = controller.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    match parsed {
        Some((name, port)) if !name.is_empty() && port != 0 => Ok((name.to_owned(), port)),
        _ => Err(SourceError::Address(controller.to_owned())),
    }
}

fn resolver() -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    builder.options_mut().cache_size = 0; // a replica that is gone must not come back from a cache
    builder.build()
}

async fn look_up(
    resolver: &TokioResolver,
    names: &[(String, u16)],
    fixed: &BTreeSet<SocketAddr>,
    sender: &watch::Sender<BTreeSet<SocketAddr>>,
) {
    let mut known: Vec<BTreeSet<SocketAddr>> = vec![BTreeSet::new(); names.len()];
    loop {
        for ((name, port), known) in names.iter().zip(&mut known) {
            match resolver.lookup_ip(name.as_str()).await {
                Ok(addresses) => *known = addresses.iter().map(|address| SocketAddr::new(address, *port)).collect(),
                Err(error) => tracing::warn!(name, %error, "cannot look up the controllers"),
            }
        }
        let all: BTreeSet<SocketAddr> =
            fixed.iter().chain(known.iter().flatten()).copied().take(MAX_ADDRESSES).collect();
        sender.send_if_modified(|current| {
            let changed = *current != all;
            *current = all;
            changed
        });
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_are_resolved() {
        let mut addresses = watch(&["127.0.0.2:1".into(), "localhost:2".into()]).unwrap();
        let expected: SocketAddr = "127.0.0.1:2".parse().unwrap();
        let found = addresses.wait_for(|addresses| addresses.contains(&expected)).await.unwrap();
        assert!(found.contains(&"127.0.0.2:1".parse().unwrap()));
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for nonsense in ["", "name", "name:", ":80", "name:0", "name:99999"] {
            assert!(watch(&[nonsense.into()]).is_err(), "{nonsense:?}");
        }
    }
}
