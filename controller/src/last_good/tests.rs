use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;
use translate::{Kind, ObjectKey, Resources, Translation};

use super::*;

/// What the API server takes.
const MAX_SECRET: usize = 1024 * 1024;

fn ingress(uid: &str, version: &str) -> Ingress {
    let metadata = json!({"namespace": "shop", "name": "web", "uid": uid, "annotations": {"version": version}});
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

fn secret(name: &str, content: &[u8]) -> Secret {
    let metadata = json!({"namespace": "shop", "name": name, "uid": "1"});
    let mut secret: Secret = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
    secret.data = Some([("tls.key".to_owned(), ByteString(content.to_vec()))].into());
    secret
}

fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn bad(names: &[(Kind, &str)]) -> BTreeSet<(Kind, ObjectKey)> {
    names.iter().map(|(kind, name)| (*kind, ObjectKey::new("shop", *name))).collect()
}

/// One controller: what it sees, and what it heard of the record.
#[derive(Clone, Default)]
struct Replica {
    resources: Resources,
    record: Record,
    leads: bool,
}

impl Replica {
    fn leader() -> Self {
        Self { leads: true, ..Self::default() }
    }

    /// Sees an Ingress, whose version says by its name whether it is good, and builds.
    fn sees(mut self, uid: &str, version: &str) -> Self {
        self.resources.insert(ingress(uid, version));
        self.builds()
    }

    fn hears(mut self, text: &str) -> Self {
        self.record = Record::read("1".into(), text.into());
        self.builds()
    }

    fn builds(mut self) -> Self {
        self.record.adopt(&mut self.resources, self.leads);
        let rejected = self.rejected();
        self.resources.accept(&Translation { rejected, ..Translation::default() });
        self
    }

    fn rejected(&self) -> BTreeSet<(Kind, ObjectKey)> {
        let current = self.resources.get::<Ingress>("shop", "web");
        let rejected = current.is_some_and(|ingress| version(ingress).starts_with("bad"));
        if rejected { bad(&[(Kind::Ingress, "web")]) } else { BTreeSet::new() }
    }

    /// What the record should be, as far as this replica knows.
    fn records(&self) -> String {
        self.record.next(&self.resources, &self.rejected(), &BTreeSet::new()).text
    }

    /// The version in force while the current one is rejected.
    fn falls_back_to(&self) -> Option<&str> {
        assert!(!self.rejected().is_empty());
        self.resources.ingresses[&web()].last_good.as_deref().map(version)
    }
}

fn version(ingress: &Ingress) -> &str {
    &ingress.metadata.annotations.as_ref().unwrap()["version"]
}

#[test]
fn what_was_good_is_known_after_a_restart() {
    let text = Replica::leader().sees("1", "good").sees("1", "bad").records();
    let restarted = Replica::leader().hears(&text).sees("1", "bad");
    assert_eq!(restarted.falls_back_to(), Some("good"));
    assert_eq!(restarted.records(), text, "nothing is to be written");
    let edited = Replica::default().hears(&text).sees("1", "bad again");
    assert_eq!(edited.falls_back_to(), Some("good"), "of another bad version it is the best that is known");
}

#[test]
fn objects_that_are_gone_mended_or_another_are_neither_kept_nor_recorded() {
    let text = Replica::leader().sees("1", "good").sees("1", "bad").records();
    assert_eq!(Replica::leader().hears(&text).records(), "[]", "it is gone");
    assert_eq!(Replica::leader().hears(&text).sees("1", "good too").records(), "[]", "it is mended");
    let namesake = Replica::leader().hears(&text).sees("2", "bad");
    assert_eq!(namesake.falls_back_to(), None);
    assert!(!namesake.records().contains("good\":{"), "{}", namesake.records());
}

#[test]
fn own_memory_counts_until_the_leader_has_spoken_about_the_same_version() {
    let late = Replica::leader().sees("1", "good 1").sees("1", "bad 1").records();
    let ahead = Replica::default().hears(&late).sees("1", "good 2").sees("1", "bad 2");
    assert_eq!(ahead.falls_back_to(), Some("good 2"), "the record is about another version");

    let leader = Replica::leader().hears(&late).sees("1", "bad 2");
    assert_eq!(leader.falls_back_to(), Some("good 1"), "the leader never saw the second good version");
    let ahead = ahead.hears(&leader.records());
    assert_eq!(ahead.falls_back_to(), Some("good 1"), "the leader's word counts");
}

#[test]
fn that_there_was_no_good_version_is_the_leaders_word_too() {
    let leader = Replica::leader().sees("1", "bad");
    let follower = Replica::default().sees("1", "good").sees("1", "bad");
    assert_eq!(follower.falls_back_to(), Some("good"), "nothing is recorded yet");
    assert_eq!(follower.hears(&leader.records()).falls_back_to(), None);
}

#[test]
fn the_leader_goes_by_its_own_memory() {
    let late = Replica::leader().sees("1", "good 1").sees("1", "bad").records();
    let leader = Replica::leader().hears(&late).sees("1", "good 2").sees("1", "bad");
    assert_eq!(leader.falls_back_to(), Some("good 2"), "the same bad version again, and the record not yet written");
    assert!(leader.records().contains("good 2"));
}

/// Whatever a replica skips of a history, and whenever it hears what was recorded, in the end all fall back to the same.
#[test]
fn replicas_with_different_histories_converge() {
    let history = ["good 1", "bad 1", "good 2", "bad 2", "good 3", "bad 1"];
    let skips = 0..1_u32 << (history.len() - 1);
    for (skipped_by_leader, skipped_by_follower) in skips.clone().flat_map(|a| skips.clone().map(move |b| (a, b))) {
        for heard_after in 0..history.len() {
            let (mut leader, mut follower) = (Replica::leader(), Replica::default());
            for (step, version) in history.iter().enumerate() {
                if skipped_by_leader & 1 << step == 0 {
                    leader = leader.sees("1", version);
                }
                if skipped_by_follower & 1 << step == 0 {
                    follower = follower.sees("1", version);
                }
                if step == heard_after {
                    let text = leader.records();
                    (leader, follower) = (leader.hears(&text), follower.hears(&text));
                }
            }
            let text = leader.records();
            let (leader, follower) = (leader.hears(&text), follower.hears(&text));
            let restarted = Replica::default().hears(&text).sees("1", "bad 1");
            assert_eq!(leader.falls_back_to(), follower.falls_back_to());
            assert_eq!(leader.falls_back_to(), restarted.falls_back_to());
            assert_eq!(leader.records(), text, "it settles");
            let next = Replica { leads: true, ..follower };
            assert_eq!(next.records(), text, "the next leader has nothing to correct");
        }
    }
}

#[test]
fn what_is_rejected_first_has_its_place_and_what_has_none_is_named() {
    let good = [b'x'; 150_000]; // a third more in base64
    let mut resources = Resources::default();
    let names = ["d", "c", "b", "a", "e"].map(|name| (Kind::Secret, name));
    let next = |record: &Record, resources: &Resources, names: &[(Kind, &str)]| {
        record.next(resources, &bad(names), &BTreeSet::new())
    };
    for (_, name) in names {
        resources.insert(secret(name, &good));
    }
    resources.accept(&Translation::default());
    for (_, name) in names {
        resources.insert(secret(name, b"broken"));
    }
    let mut record = Record::default();
    for count in 1..=names.len() {
        let next = next(&record, &resources, &names[..count]);
        assert!(next.text.len() < MAX_SECRET);
        let dropped: Vec<_> = next.dropped.iter().map(|(_, key)| key.name.as_str()).collect();
        assert_eq!(dropped, if count < 5 { vec![] } else { vec!["e"] });
        record = Record::read("1".into(), next.text.into());
    }
    let next = next(&record, &resources, &names[1..]);
    assert_eq!(next.dropped, [], "there is room again");
    assert!(next.text.contains("\"e\""));
}

#[test]
fn that_there_was_no_good_version_takes_no_room_from_one() {
    let mut resources = Resources::default();
    resources.insert(secret("z", b"hunter2"));
    resources.accept(&Translation::default());
    resources.insert(secret("z", b"broken"));
    let names: Vec<_> = (0..9_000).map(|number| format!("never-good-{number}")).collect();
    names.iter().for_each(|name| resources.insert(secret(name, b"broken")));
    let never_good: Vec<_> = names.iter().map(|name| (Kind::Secret, name.as_str())).collect();
    let full = Record::default().next(&resources, &bad(&never_good), &BTreeSet::new());
    assert!(!full.text.contains(names.last().unwrap()) || !full.text.contains(&names[0]), "there is room for all");
    let record = Record::read("1".into(), full.text.into());
    let all: Vec<_> = never_good.iter().copied().chain([(Kind::Secret, "z")]).collect();
    let next = record.next(&resources, &bad(&all), &BTreeSet::new());
    assert_eq!(next.dropped, []);
    assert!(next.text.len() < MAX_SECRET);
    let record = Record::read("2".into(), next.text.clone().into());
    assert_eq!(record.next(&resources, &bad(&all), &BTreeSet::new()).text, next.text, "it settles");
}

#[test]
fn of_kinds_that_the_api_server_does_not_know_yet_nothing_is_forgotten() {
    let text = Replica::leader().sees("1", "good").sees("1", "bad").records();
    let record = Record::read("1".into(), text.clone().into());
    let starting = record.next(&Resources::default(), &BTreeSet::new(), &[Kind::Ingress].into());
    assert_eq!(starting.text, text);
    assert_eq!(record.next(&Resources::default(), &BTreeSet::new(), &BTreeSet::new()).text, "[]");
}

#[test]
fn what_cannot_be_read_harms_nothing_else_and_no_secret_is_shown() {
    let mut resources = Resources::default();
    resources.insert(secret("pair", b"hunter2"));
    resources.accept(&Translation::default());
    resources.insert(secret("pair", b"broken"));
    let rejected = bad(&[(Kind::Secret, "pair")]);
    let text = Record::default().next(&resources, &rejected, &BTreeSet::new()).text;
    let with_others = text.replacen('[', r#"[{"kind":"Riddle"},{"kind":"Secret","name":"x","good":7},"#, 1);
    let record = Record::read("1".into(), with_others.into());
    let mut restarted = Resources::default();
    restarted.insert(secret("pair", b"broken"));
    record.adopt(&mut restarted, false);
    let good = restarted.secrets[&ObjectKey::new("shop", "pair")].last_good.clone();
    assert_eq!(good, Some(Arc::new(secret("pair", b"hunter2"))));
    assert_eq!(format!("{record:?}"), r#"["Secret shop/pair"]"#);

    for unreadable in [&b""[..], b"{}", b"\xff"] {
        let record = Record::read("1".into(), unreadable.into());
        let next = record.next(&resources, &rejected, &BTreeSet::new());
        assert_eq!(next.text, text, "the leader writes it anew");
        assert_ne!(record.text(), next.text);
    }
}
