//! What of an installation's keys is renewed when: a pure decision.

use jiff::{SignedDuration, Timestamp};
use x509_parser::pem::parse_x509_pem;

use super::{CaError, FALLBACK, InstallationSecret, NEXT, authority, fallback, random};

/// The newest ticket key seals tickets for so long.
const TICKET_KEY_TIME: SignedDuration = SignedDuration::from_hours(12);
/// So many ticket keys are kept: one that seals, and those whose tickets may still come. A ticket lives for 12 h.
const TICKET_KEYS: usize = 3;
/// From the begin of a new authority's validity, which lies up to two days before it was made, to its first signature. By then
/// every data plane has the certificate: a kubelet needs minutes to bring a ConfigMap's new content.
const TRUSTED_BEFORE: SignedDuration = SignedDuration::from_hours(4 * 24);

impl InstallationSecret {
    /// The keys as they should be from `now` on; `None` while they may stay as they are.
    pub fn renewed(&self, now: Timestamp) -> Result<Option<Self>, CaError> {
        let mut keys = self.clone();
        // A time that lies far ahead is one of a clock that was wrong.
        if now.duration_since(self.ticket_key_made).abs() >= TICKET_KEY_TIME {
            keys.ticket_keys.insert(0, random()?);
            keys.ticket_keys.truncate(TICKET_KEYS);
            keys.ticket_key_made = now;
        }
        match &self.next_authority {
            None if is_due(&self.authority.certificate, now).ok_or(CaError::Entry(Self::AUTHORITY))? => {
                keys.next_authority = Some(authority(now)?);
            }
            Some(next) => {
                let begin = life(&next.certificate).ok_or(CaError::Entry(NEXT))?.0;
                if now.duration_since(begin) >= TRUSTED_BEFORE {
                    keys.former_authority = Some(std::mem::replace(&mut keys.authority, next.clone()).certificate);
                    keys.next_authority = None;
                }
            }
            None => {}
        }
        keys.former_authority.take_if(|former| life(former).is_none_or(|(_, end)| end <= now));
        if is_due(&self.fallback.certificate, now).ok_or(CaError::Entry(FALLBACK))? {
            keys.fallback = fallback(now)?;
        }
        Ok((keys != *self).then_some(keys))
    }
}

/// Whether no more than a third of a certificate's life is left; `None` when it cannot be read.
pub fn is_due(certificate: &str, now: Timestamp) -> Option<bool> {
    let (begin, end) = life(certificate)?;
    Some(end.duration_since(now) <= end.duration_since(begin) / 3)
}

/// From when to when a certificate in PEM is valid.
fn life(certificate: &str) -> Option<(Timestamp, Timestamp)> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((at(certificate.validity().not_before)?, at(certificate.validity().not_after)?))
}

#[cfg(test)]
mod tests {
    use jiff::Span;
    use jiff::ToSpan;
    use jiff::tz::TimeZone;

    use super::*;

    fn after(begin: Timestamp, time: Span) -> Timestamp {
        begin.to_zoned(TimeZone::UTC).checked_add(time).unwrap().timestamp()
    }

    #[test]
    fn a_ticket_key_opens_tickets_for_a_day_and_goes() {
        let begin = Timestamp::now();
        let first = InstallationSecret::generate_at(begin).unwrap();
        assert_eq!(first.renewed(after(begin, 11.hours())).unwrap(), None);
        let mut keys = first.clone();
        for (hours, oldest_stays) in [(12, true), (24, true), (36, false)] {
            keys = keys.renewed(after(begin, hours.hours())).unwrap().unwrap();
            assert_ne!(keys.ticket_keys[0], first.ticket_keys[0], "the newest seals");
            assert_eq!(keys.ticket_keys.contains(&first.ticket_keys[0]), oldest_stays, "after {hours} h");
            assert!(keys.ticket_keys.len() <= TICKET_KEYS);
            assert_eq!(keys.renewed(after(begin, (hours + 11).hours())).unwrap(), None);
        }
        assert_eq!((&keys.cookie_key, &keys.authority), (&first.cookie_key, &first.authority));
        let wrong = InstallationSecret { ticket_key_made: after(begin, 1.year()), ..first };
        assert!(wrong.renewed(begin).unwrap().is_some(), "a clock was wrong");
    }

    #[test]
    fn an_authority_is_trusted_before_it_signs_and_its_predecessor_until_it_ends() {
        let begin = Timestamp::now();
        let fresh = |keys: &InstallationSecret, now| InstallationSecret { ticket_key_made: now, ..keys.clone() };
        let old = InstallationSecret::generate_at(begin).unwrap();
        let now = after(begin, 6.years());
        assert_eq!(fresh(&old, now).renewed(now).unwrap(), None);

        let now = after(begin, 7.years());
        let both = fresh(&old, now).renewed(now).unwrap().unwrap();
        let next = both.next_authority.clone().unwrap();
        assert_eq!(both.authority, old.authority, "it signs on");
        assert!(both.trusted().contains(&old.authority.certificate) && both.trusted().contains(&next.certificate));
        assert_ne!(both.fallback, old.fallback);
        let soon = after(now, 1.day());
        assert_eq!(fresh(&both, soon).renewed(soon).unwrap(), None);

        let now = after(now, 3.days());
        let changed = fresh(&both, now).renewed(now).unwrap().unwrap();
        assert_eq!((&changed.authority, &changed.next_authority), (&next, &None));
        assert_eq!(changed.former_authority.as_ref(), Some(&old.authority.certificate));
        assert!(changed.trusted().contains(&old.authority.certificate));

        let now = after(begin, 10.years().days(1));
        let alone = fresh(&changed, now).renewed(now).unwrap().unwrap();
        assert_eq!((alone.former_authority.as_ref(), alone.trusted()), (None, next.certificate));
    }

    #[test]
    fn a_server_certificate_is_due_after_two_thirds_of_its_life() {
        let now = Timestamp::now();
        let server = InstallationSecret::generate_at(now).unwrap().issue_server().unwrap().certificate;
        assert_eq!(is_due(&server, after(now, 58.days())), Some(false));
        assert_eq!(is_due(&server, after(now, 62.days())), Some(true));
        assert_eq!(is_due("nonsense", now), None);
    }
}
