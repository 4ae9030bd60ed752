//! Certificates whose time has not come, or is over. Translation looks at no clock: it serves them, as they are more use than none.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use snapshot::{Kind, Resource};
use translate::{ObjectKey, Severity, Translation};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::folder::{Finding, Folder};

/// What is wrong at `now` with the times of the certificates that are served.
pub(super) fn findings(folder: &Folder, translation: &Translation, now: SystemTime) -> Vec<Finding> {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(now) = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok()) else {
        return Vec::new();
    };
    let certificates = translation.snapshots.values().flat_map(|snapshot| snapshot.iter());
    let certificates: BTreeMap<_, _> = certificates
        .filter(|(id, _)| id.kind == Kind::Certificate)
        .filter_map(|(id, hashed)| match hashed.resource().as_ref() {
            Resource::Certificate(certificate) => Some((id.name.as_str(), certificate)),
            _ => None,
        })
        .collect();
    let finding = |(name, certificate): (&str, &snapshot::Certificate)| {
        // The default certificate of no Secret has no namespace.
        let (namespace, name) = name.split_once('/')?;
        let (_, leaf) = X509Certificate::from_der(certificate.chain.first()?).ok()?;
        let (reason, message) = verdict(&leaf, now)?;
        let message = format!("{message} ({}): {REMEDY}", certificate.summary);
        let (kind, key) = (translate::Kind::Secret, ObjectKey::new(namespace, name));
        let written = ["data", "stringData"]
            .map(|field| folder.finding(kind, &key, &format!("{field}[tls.crt]"), reason, &message, Severity::Warning));
        // What the Secret does not have is placed at its beginning.
        written.into_iter().max_by_key(|finding| finding.line)
    };
    certificates.into_iter().filter_map(finding).collect()
}

const REMEDY: &str = "clients refuse it; put a certificate into the Secret that is valid now";

fn verdict(leaf: &X509Certificate<'_>, now: ASN1Time) -> Option<(&'static str, String)> {
    let day = |time: ASN1Time| {
        let time = time.to_datetime();
        format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day())
    };
    let (begin, end) = (leaf.validity().not_before, leaf.validity().not_after);
    if now > end {
        Some(("CertificateExpired", format!("the certificate was valid until {}", day(end))))
    } else if now < begin {
        Some(("CertificateNotYetValid", format!("the certificate is valid from {} on", day(begin))))
    } else {
        None
    }
}
