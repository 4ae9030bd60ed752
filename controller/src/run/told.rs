//! Which findings the terminal has been told, so that each is told once, and once more when it is gone.

use std::collections::BTreeMap;

use crate::folder::Finding;

/// What has been told and still holds.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<Finding, Finding>);

impl Told {
    /// The lines to print now that `findings` hold.
    pub(super) fn update(&mut self, findings: Vec<Finding>) -> Vec<String> {
        let current: BTreeMap<_, _> = findings.into_iter().map(|finding| (wherever(&finding), finding)).collect();
        let new = current.iter().filter(|(key, _)| !self.0.contains_key(*key));
        let mut lines: Vec<_> = new.map(|(_, finding)| finding.to_string()).collect();
        let gone = self.0.iter().filter(|(key, _)| !current.contains_key(*key));
        lines.extend(gone.map(|(_, finding)| format!("resolved: {finding}")));
        self.0 = current;
        lines
    }
}

/// The finding without its place: it is the same one when lines above it come and go.
fn wherever(finding: &Finding) -> Finding {
    Finding { line: 0, column: 0, ..finding.clone() }
}

#[cfg(test)]
mod tests {
    use translate::Severity;

    use super::*;

    fn finding(line: u32, message: &str) -> Finding {
        let message = message.to_owned();
        let (object, field, reason) = ("Ingress a/b".to_owned(), String::new(), "Bad".to_owned());
        Finding { file: "a.yaml".into(), line, column: 1, object, field, message, reason, severity: Severity::Warning }
    }

    #[test]
    fn each_is_told_once_wherever_it_moves_and_when_it_is_resolved() {
        let mut told = Told::default();
        assert_eq!(told.update(vec![finding(3, "x"), finding(4, "y")]).len(), 2);
        assert_eq!(told.update(vec![finding(5, "x"), finding(6, "y")]), Vec::<String>::new());
        assert_eq!(told.update(vec![finding(5, "x")]), ["resolved: a.yaml:6:1: Ingress a/b: y (Bad)"]);
        assert_eq!(told.update(vec![finding(5, "x"), finding(7, "y")]), ["a.yaml:7:1: Ingress a/b: y (Bad)"]);
    }
}
