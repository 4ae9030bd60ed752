//! The keys of an installation: kept in one Secret, shared by all controller replicas, renewed in time.

mod renew;

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use snapshot::{SERVER_NAME, Secret};
use translate::Settings;

pub use renew::is_due;

/// The authority and the default certificate are made for so long, in years.
const YEARS: i32 = 10;
/// A server certificate is made for so long, in days.
const SERVER_DAYS: i32 = 90;

/// A certificate chain with its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairPem {
    /// The chain, leaf first.
    pub certificate: String,
    /// The private key in PKCS#8.
    pub key: Secret,
}

/// What every replica must know and nobody else may.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallationSecret {
    /// The authority of the stream's server certificates. Data planes get its certificate, never its key.
    pub authority: KeyPairPem,
    /// The authority that takes over soon: data planes trust it already, but it signs nothing yet.
    pub next_authority: Option<KeyPairPem>,
    /// The certificate of the authority before, which signed what some replicas still show.
    pub former_authority: Option<String>,
    /// Self-signed, for `ingress.local`: shown for Ingress hosts without a certificate of their own.
    pub fallback: KeyPairPem,
    /// See [`snapshot::Settings::cookie_key`].
    pub cookie_key: Secret,
    /// See [`snapshot::Settings::ticket_keys`].
    pub ticket_keys: Vec<Secret>,
    /// When the newest of them was made.
    pub ticket_key_made: Timestamp,
}

/// An installation's keys that cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The Secret lacks an entry, or has one that is not what it should be.
    #[error("the installation's Secret has no usable entry {0}; delete the Secret to have a new one made")]
    Entry(&'static str),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The operating system gives no random numbers, or no time.
    #[error("cannot make keys: {0}")]
    System(String),
}

impl InstallationSecret {
    /// The entry of the Secret with the authority's certificate, and of ConfigMaps with [`Self::trusted`].
    pub const AUTHORITY: &'static str = "ca.crt";

    /// New keys.
    pub fn generate() -> Result<Self, CaError> {
        Self::generate_at(Timestamp::now())
    }

    fn generate_at(now: Timestamp) -> Result<Self, CaError> {
        Ok(Self {
            authority: authority(now)?,
            next_authority: None,
            former_authority: None,
            fallback: fallback(now)?,
            cookie_key: random()?,
            ticket_keys: vec![random()?],
            ticket_key_made: now,
        })
    }

    /// What data planes need to trust the stream: the certificates of all authorities in PEM.
    pub fn trusted(&self) -> String {
        let next = self.next_authority.iter().map(|next| &next.certificate);
        let all = std::iter::once(&self.authority.certificate).chain(next).chain(&self.former_authority);
        all.map(|certificate| format!("{}\n", certificate.trim_end())).collect()
    }

    /// Gives translation what it needs of the keys.
    pub fn apply_to(&self, settings: &mut Settings) {
        settings.cookie_key = self.cookie_key.clone();
        settings.ticket_keys.clone_from(&self.ticket_keys);
        let certificate = self.fallback.certificate.clone().into_bytes();
        settings.fallback_certificate = Some((certificate, self.fallback.key.clone()));
    }

    /// A server certificate for [`SERVER_NAME`] with a key of its own, as each replica makes it for itself.
    pub fn issue_server(&self) -> Result<KeyPairPem, CaError> {
        let authority_key = std::str::from_utf8(self.authority.key.expose())
            .ok()
            .and_then(|key| KeyPair::from_pem(key).ok())
            .ok_or(CaError::Entry(AUTHORITY_KEY))?;
        let now = Timestamp::now();
        let mut params = params(vec![SERVER_NAME.to_owned()], "Sluice Controller", now, SERVER_DAYS.days())?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        // The issuer's name and key identifier are all that a signature takes from it; both follow from name and key.
        let certificate = params.signed_by(&key, &Issuer::new(authority_params(now)?, authority_key))?;
        Ok(pem(&certificate, &key))
    }

    /// The entries of the Secret.
    pub fn to_secret_data(&self) -> BTreeMap<String, Vec<u8>> {
        let mut data = BTreeMap::from([
            (Self::AUTHORITY.to_owned(), self.authority.certificate.clone().into_bytes()),
            (AUTHORITY_KEY.to_owned(), self.authority.key.expose().to_vec()),
            (FALLBACK.to_owned(), self.fallback.certificate.clone().into_bytes()),
            (FALLBACK_KEY.to_owned(), self.fallback.key.expose().to_vec()),
            (COOKIE_KEY.to_owned(), self.cookie_key.expose().to_vec()),
            (TICKET_KEY_MADE.to_owned(), self.ticket_key_made.to_string().into_bytes()),
        ]);
        if let Some(next) = &self.next_authority {
            data.insert(NEXT.to_owned(), next.certificate.clone().into_bytes());
            data.insert(NEXT_KEY.to_owned(), next.key.expose().to_vec());
        }
        if let Some(former) = &self.former_authority {
            data.insert(FORMER.to_owned(), former.clone().into_bytes());
        }
        for (index, key) in self.ticket_keys.iter().enumerate() {
            data.insert(format!("{TICKET_KEY}{index}"), key.expose().to_vec());
        }
        data
    }

    /// Reads the entries of the Secret.
    pub fn from_secret_data(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, CaError> {
        let text = |name| {
            let bytes = data.get(name).ok_or(CaError::Entry(name))?;
            String::from_utf8(bytes.clone()).map_err(|_| CaError::Entry(name))
        };
        let key = |name| match KeyPair::from_pem(&text(name)?) {
            Ok(pair) => Ok(Secret::new(pair.serialize_pem().into_bytes())),
            Err(_) => Err(CaError::Entry(name)),
        };
        let random = |name: &str, entry| match data.get(name) {
            Some(bytes) if bytes.len() >= KEY_BYTES => Ok(Secret::new(bytes.clone())),
            _ => Err(CaError::Entry(entry)),
        };
        let ticket_names = data.keys().filter(|name| name.starts_with(TICKET_KEY));
        let next_authority = match data.contains_key(NEXT) || data.contains_key(NEXT_KEY) {
            true => Some(KeyPairPem { certificate: text(NEXT)?, key: key(NEXT_KEY)? }),
            false => None,
        };
        // An installation whose keys were never renewed does not say when they were made.
        let ticket_key_made = match data.contains_key(TICKET_KEY_MADE) {
            true => text(TICKET_KEY_MADE)?.parse::<Timestamp>().map_err(|_| CaError::Entry(TICKET_KEY_MADE))?,
            false => Timestamp::UNIX_EPOCH,
        };
        Ok(Self {
            authority: KeyPairPem { certificate: text(Self::AUTHORITY)?, key: key(AUTHORITY_KEY)? },
            next_authority,
            former_authority: data.contains_key(FORMER).then(|| text(FORMER)).transpose()?,
            ticket_key_made,
            fallback: KeyPairPem { certificate: text(FALLBACK)?, key: key(FALLBACK_KEY)? },
            cookie_key: random(COOKIE_KEY, COOKIE_KEY)?,
            ticket_keys: ticket_names.map(|name| random(name, "ticket-key-N")).collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Debug for InstallationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallationSecret(secret)")
    }
}

const AUTHORITY_KEY: &str = "ca.key";
const NEXT: &str = "next-ca.crt";
const NEXT_KEY: &str = "next-ca.key";
const FORMER: &str = "former-ca.crt";
const FALLBACK: &str = "default.crt";
const FALLBACK_KEY: &str = "default.key";
const COOKIE_KEY: &str = "cookie-key";
const TICKET_KEY: &str = "ticket-key-";
const TICKET_KEY_MADE: &str = "newest-ticket-key-made";
const KEY_BYTES: usize = 32;

fn authority(now: Timestamp) -> Result<KeyPairPem, CaError> {
    let key = KeyPair::generate()?;
    Ok(pem(&authority_params(now)?.self_signed(&key)?, &key))
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, CaError> {
    let mut params = params(Vec::new(), "Sluice Internal CA", now, YEARS.years())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn fallback(now: Timestamp) -> Result<KeyPairPem, CaError> {
    let mut params = params(vec!["ingress.local".to_owned()], "Sluice Default Certificate", now, YEARS.years())?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    Ok(pem(&params.self_signed(&key)?, &key))
}

/// Valid from the day before `now`, because clocks differ.
fn params(names: Vec<String>, common_name: &str, now: Timestamp, life: Span) -> Result<CertificateParams, CaError> {
    let system = |error: jiff::Error| CaError::System(error.to_string());
    let date = |date: &Zoned| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    let now = now.to_zoned(TimeZone::UTC);
    let mut params = CertificateParams::new(names)?;
    params.not_before = date(&now.checked_sub(1.day()).map_err(system)?);
    params.not_after = date(&now.checked_add(life).map_err(system)?);
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn pem(certificate: &rcgen::Certificate, key: &KeyPair) -> KeyPairPem {
    KeyPairPem { certificate: certificate.pem(), key: Secret::new(key.serialize_pem().into_bytes()) }
}

fn random() -> Result<Secret, CaError> {
    let mut bytes = vec![0; KEY_BYTES];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| CaError::System("no random numbers".to_owned()))?;
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_secret_gives_the_same_keys_again() {
        let mut secret = InstallationSecret::generate().unwrap();
        secret.former_authority = Some(secret.authority.certificate.clone());
        secret.next_authority = Some(secret.fallback.clone());
        let data = secret.to_secret_data();
        assert_eq!(InstallationSecret::from_secret_data(&data).unwrap(), secret);
        assert_ne!(InstallationSecret::generate().unwrap().cookie_key, secret.cookie_key);
        for name in data.keys() {
            let mut broken = data.clone();
            broken.insert(name.clone(), b"\xff".to_vec());
            assert!(InstallationSecret::from_secret_data(&broken).is_err(), "{name}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let secret = InstallationSecret::generate().unwrap();
        let shown = format!("{secret:?} {:?}", secret.issue_server().unwrap());
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
