//! From a Secret to a certificate that a data plane can serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use snapshot::{Certificate, Hash, Hashed, HostPattern, Resource};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Kind, ObjectKey, Resources};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What a reference to a Secret leads to.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The certificate to serve: of the Secret as it is, or of its last good version while it is broken.
    pub(crate) usable: Option<Arc<Loaded>>,
    /// What is wrong with the Secret as it is.
    pub(crate) error: Option<CertificateError>,
}

/// A certificate whose chain and key have been checked to fit.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// For the snapshot.
    pub(crate) resource: Hashed,
    /// See [`Certificate::summary`].
    pub(crate) summary: String,
    /// The names that the leaf is valid for, sorted.
    pub(crate) names: Vec<HostPattern>,
}

impl Loaded {
    /// Whether the certificate is valid for every name of the pattern (RFC 6125: a wildcard covers one label).
    pub(crate) fn covers(&self, host: &HostPattern) -> bool {
        self.names.iter().any(|name| match (name, host) {
            (HostPattern::OneLabel(suffix), HostPattern::Exact(host)) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix)
            }
            _ => name == host,
        })
    }
}

/// Why a Secret gives no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("Secret {0} does not exist")]
    NotFound(ObjectKey),
    #[error("the API server does not give out Secret {0}, which exists (it is tried again)")]
    Unavailable(ObjectKey),
    #[error("the key `{0}` is missing; a Secret of type kubernetes.io/tls holds `tls.crt` and `tls.key`")]
    MissingKey(&'static str),
    #[error("`tls.crt` holds no certificate in PEM: {0}")]
    Chain(String),
    #[error(
        "`tls.key` holds no private key in PEM that is supported (RSA, ECDSA P-256, P-384, P-521, Ed25519; not encrypted)"
    )]
    Key,
    #[error("the private key in `tls.key` does not belong to the first certificate in `tls.crt`")]
    Mismatch,
}

impl CertificateError {
    /// Whether the Secret itself is to be mended: it exists, but its content is broken.
    pub(crate) fn is_in_secret(&self) -> bool {
        !matches!(self, CertificateError::NotFound(_) | CertificateError::Unavailable(_))
    }

    /// One word for Events.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            CertificateError::NotFound(_) => "SecretNotFound",
            CertificateError::Unavailable(_) => "SecretUnavailable",
            CertificateError::MissingKey(_) | CertificateError::Chain(_) | CertificateError::Key => {
                "InvalidCertificate"
            }
            CertificateError::Mismatch => "CertificateMismatch",
        }
    }

    /// The field of the Secret.
    pub(crate) fn field(&self) -> String {
        match self {
            CertificateError::NotFound(_) | CertificateError::Unavailable(_) => String::new(),
            CertificateError::MissingKey(key) => format!("data[{key}]"),
            CertificateError::Chain(_) => format!("data[{CERTIFICATE}]"),
            CertificateError::Key | CertificateError::Mismatch => format!("data[{KEY}]"),
        }
    }
}

/// The certificates that a translation loaded, by the hash of their text. To check a key costs more than all else that an
/// Ingress asks for, and from one translation to the next nearly all certificates stay: so a translation starts from
/// those of the last one. Pure all the same: what is found here is what [`load`] gives for these very bytes, as the key is a
/// hash of all of them that nobody can collide, and failures are not kept.
#[derive(Default)]
pub(crate) struct Memo {
    last: ByHash,
    now: ByHash,
}

type ByHash = BTreeMap<Hash, Arc<Loaded>>;

impl Memo {
    /// Forgets what was not loaded since the last call.
    pub(crate) fn turn(&mut self) {
        self.last = std::mem::take(&mut self.now);
    }

    /// Reads a chain and a private key in PEM, as [`load`].
    pub(crate) fn load(&mut self, chain: &[u8], key: &[u8]) -> Result<Arc<Loaded>, CertificateError> {
        let length = (chain.len() as u64).to_le_bytes();
        let hash = Hash::of(&[&length, chain, key].concat());
        let loaded = match self.now.get(&hash).or_else(|| self.last.get(&hash)) {
            Some(known) => known.clone(),
            None => Arc::new(load(chain, key)?),
        };
        self.now.insert(hash, loaded.clone());
        Ok(loaded)
    }
}

/// Reads the certificate in the Secret `key`, falling back to the Secret's last good version. A deleted Secret has none.
pub(crate) fn look_up(memo: &mut Memo, resources: &Resources, key: &ObjectKey) -> Lookup {
    let Some(entry) = resources.secrets.get(key) else {
        let error = match resources.unavailable.contains(&(Kind::Secret, key.clone())) {
            true => CertificateError::Unavailable(key.clone()),
            false => CertificateError::NotFound(key.clone()),
        };
        return Lookup { usable: None, error: Some(error) };
    };
    match of_secret(memo, &entry.current) {
        Ok(loaded) => Lookup { usable: Some(loaded), error: None },
        Err(error) => {
            let last_good = entry.last_good.as_ref().and_then(|secret| of_secret(memo, secret).ok());
            Lookup { usable: last_good, error: Some(error) }
        }
    }
}

fn of_secret(memo: &mut Memo, secret: &Secret) -> Result<Arc<Loaded>, CertificateError> {
    // `stringData` is for manifests in a folder; the API server turns it into `data`.
    let value = |key| {
        let text = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        text.or(bytes).ok_or(CertificateError::MissingKey(key))
    };
    memo.load(value(CERTIFICATE)?, value(KEY)?)
}

/// Reads a chain and a private key in PEM and checks that they fit. Whether the time is right is not looked at:
/// an expired certificate is served, as it is more use than none.
fn load(chain: &[u8], key: &[u8]) -> Result<Loaded, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::Chain(error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(CertificateError::Chain("no section BEGIN CERTIFICATE".into()));
    };
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| CertificateError::Chain(error.to_string()))?;
    let names = names(&parsed);
    let summary = summary(&names, &parsed);

    // Errors of the key's parser are left out: they might quote it.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
    let signer = any_supported_type(&key).map_err(|_| CertificateError::Key)?;
    let certified = CertifiedKey::new(chain, signer);
    certified.keys_match().map_err(|_| CertificateError::Mismatch)?;

    let chain = certified.cert.iter().map(|certificate| certificate.to_vec()).collect();
    let key = snapshot::Secret::new(key.secret_der().to_vec());
    let certificate = Certificate { chain, key, summary: summary.clone() };
    Ok(Loaded { resource: Hashed::new(Resource::Certificate(certificate)), summary, names })
}

/// The DNS names of the leaf; the common name only where there are none, as ingress-nginx does.
fn names(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let mut names: Vec<_> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(pattern(name)),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names.extend(leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(pattern));
    }
    names.sort();
    names.dedup();
    names
}

fn pattern(name: &str) -> HostPattern {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.strip_prefix("*.") {
        Some(suffix) => HostPattern::OneLabel(suffix.to_owned()),
        None => HostPattern::Exact(name),
    }
}

fn summary(names: &[HostPattern], leaf: &X509Certificate<'_>) -> String {
    const SHOWN: usize = 3;
    let mut text = names.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("(no names)");
    }
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    let end = leaf.validity().not_after.to_datetime();
    format!("{text} until {:04}-{:02}-{:02}", end.year(), u8::from(end.month()), end.day())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(key: &KeyPair, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        CertificateParams::new(names).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_pair_that_fits_is_loaded_with_its_names() {
        let key = KeyPair::generate().unwrap();
        let pem = made(&key, &["Shop.Example", "*.shop.example"]);
        let loaded = load(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        assert!(loaded.summary.starts_with("shop.example, *.shop.example until "), "{}", loaded.summary);
        let covers = |pattern: HostPattern| loaded.covers(&pattern);
        assert!(covers(HostPattern::Exact("shop.example".into())));
        assert!(covers(HostPattern::Exact("a.shop.example".into())));
        assert!(covers(HostPattern::OneLabel("shop.example".into())));
        assert!(!covers(HostPattern::Exact("a.b.shop.example".into())));
        assert!(!covers(HostPattern::Exact("other.example".into())));
        assert!(!covers(HostPattern::Any));
    }

    #[test]
    fn a_memo_knows_the_same_text_only() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (pem, key, other) = (made(&key, &["shop.example"]), key.serialize_pem(), other.serialize_pem());
        let mut memo = Memo::default();
        let first = memo.load(pem.as_bytes(), key.as_bytes()).unwrap();
        memo.turn();
        assert!(Arc::ptr_eq(&first, &memo.load(pem.as_bytes(), key.as_bytes()).unwrap()));
        assert_eq!(memo.load(pem.as_bytes(), other.as_bytes()).unwrap_err(), CertificateError::Mismatch);
        let forgotten = Memo::default().load(pem.as_bytes(), key.as_bytes());
        assert!(!Arc::ptr_eq(&first, &forgotten.unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pem = made(&key, &["shop.example"]);
        let (pem, key, other) = (pem.as_bytes(), key.serialize_pem(), other.serialize_pem());
        let error = |chain, key: &[u8]| load(chain, key).unwrap_err();
        assert_eq!(error(pem, other.as_bytes()), CertificateError::Mismatch);
        assert_eq!(error(pem, pem), CertificateError::Key);
        assert_eq!(
            error(pem, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            CertificateError::Key
        );
        for chain in [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(error(chain, key.as_bytes()), CertificateError::Chain(_)), "{chain:?}");
        }
    }
}
