//! Lookup by host name: exact, then the longest wildcard, then any.

use std::collections::HashMap;

use snapshot::HostPattern;

/// Values by host pattern. A lookup costs one hash per label of the host at most, however many patterns there are.
#[derive(Debug)]
pub(crate) struct HostMap<T> {
    exact: HashMap<Box<str>, T>,
    one_label: HashMap<Box<str>, T>,
    any_labels: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), one_label: HashMap::new(), any_labels: HashMap::new(), any: None }
    }
}

impl<T> HostMap<T> {
    /// The values whose pattern matches, the most specific first. An empty host is a request without one.
    pub(crate) fn matching<'t>(&'t self, host: &str) -> impl Iterator<Item = &'t T> {
        self.exact.get(host).into_iter().chain(self.wildcards(host)).chain(&self.any)
    }

    /// The value of exactly this pattern.
    pub(crate) fn get(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name.as_str()),
            HostPattern::OneLabel(suffix) => self.one_label.get(suffix.as_str()),
            HostPattern::AnyLabels(suffix) => self.any_labels.get(suffix.as_str()),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// How many patterns there are.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.one_label.len() + self.any_labels.len() + usize::from(self.any.is_some())
    }

    /// Adds or replaces a value.
    pub(crate) fn insert(&mut self, pattern: &HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name.as_str().into(), value)),
            HostPattern::OneLabel(suffix) => drop(self.one_label.insert(suffix.as_str().into(), value)),
            HostPattern::AnyLabels(suffix) => drop(self.any_labels.insert(suffix.as_str().into(), value)),
            HostPattern::Any => self.any = Some(value),
        }
    }

    /// The value of exactly this pattern, `new` where there was none.
    pub(crate) fn get_or_insert_with(&mut self, pattern: &HostPattern, new: impl FnOnce() -> T) -> &mut T {
        match pattern {
            HostPattern::Exact(name) => self.exact.entry(name.as_str().into()).or_insert_with(new),
            HostPattern::OneLabel(suffix) => self.one_label.entry(suffix.as_str().into()).or_insert_with(new),
            HostPattern::AnyLabels(suffix) => self.any_labels.entry(suffix.as_str().into()).or_insert_with(new),
            HostPattern::Any => self.any.get_or_insert_with(new),
        }
    }

    fn wildcards<'t>(&'t self, host: &str) -> impl Iterator<Item = &'t T> {
        let none = self.one_label.is_empty() && self.any_labels.is_empty();
        let dots = host.match_indices('.').take(if none { 0 } else { usize::MAX });
        dots.enumerate().flat_map(move |(position, (dot, _))| {
            let suffix = &host[dot + 1..];
            let one_label = if position == 0 { self.one_label.get(suffix) } else { None };
            one_label.into_iter().chain(self.any_labels.get(suffix))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let mut map = HostMap::default();
        for pattern in [
            HostPattern::Any,
            HostPattern::AnyLabels("example".into()),
            HostPattern::AnyLabels("b.example".into()),
            HostPattern::OneLabel("b.example".into()),
            HostPattern::Exact("a.b.example".into()),
        ] {
            map.insert(&pattern, pattern.clone());
        }
        let found = |host| map.matching(host).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("a.b.example"), ["a.b.example", "*.b.example", "*.b.example", "*.example", "*"]);
        assert_eq!(found("x.a.b.example"), ["*.b.example", "*.example", "*"]);
        assert_eq!(found("example"), ["*"]);
        assert_eq!(found(""), ["*"]);
        assert_eq!(map.matching("c.b.example").next(), Some(&HostPattern::OneLabel("b.example".into())));
    }
}
