//! Host names of listeners and routes, and what they have in common.

use snapshot::HostPattern;

/// The names that a `hostname` field stands for; without one, or with an empty one, all.
pub(super) fn pattern(hostname: Option<&str>) -> HostPattern {
    let name = hostname.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    match name.strip_prefix("*.") {
        _ if name.is_empty() => HostPattern::Any,
        Some(suffix) => HostPattern::AnyLabels(suffix.to_owned()),
        None => HostPattern::Exact(name),
    }
}

/// The names that are in both sets. Sets of the Gateway API are nested or disjoint, so the result is one of the two.
pub(super) fn intersection(a: &HostPattern, b: &HostPattern) -> Option<HostPattern> {
    if contains(a, b) {
        Some(b.clone())
    } else if contains(b, a) {
        Some(a.clone())
    } else {
        None
    }
}

/// The host names of a route on a listener, sorted; empty when they have nothing in common.
///
/// They stay as they are written: between routes the characters of the route's own host name count, not those of what it has in
/// common with the listener (`spec.hostnames`), and only requests for the listener's names come to the listener.
pub(super) fn attached(listener: &HostPattern, route: &[HostPattern]) -> Vec<HostPattern> {
    if route.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut hostnames: Vec<_> =
        route.iter().filter(|hostname| intersection(listener, hostname).is_some()).cloned().collect();
    hostnames.sort();
    hostnames.dedup();
    hostnames
}

fn contains(outer: &HostPattern, inner: &HostPattern) -> bool {
    match (outer, inner) {
        (HostPattern::Any, _) => true,
        (HostPattern::AnyLabels(suffix), HostPattern::Exact(name)) => is_below(name, suffix),
        (HostPattern::AnyLabels(suffix), HostPattern::AnyLabels(name) | HostPattern::OneLabel(name)) => {
            name == suffix || is_below(name, suffix)
        }
        _ => outer == inner,
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The specification's text: a wildcard stands for one or more labels, everything else for itself.
    fn matches(hostname: &str, name: &str) -> bool {
        if hostname.is_empty() {
            return true;
        }
        let wanted: Vec<&str> = hostname.split('.').collect();
        let labels: Vec<&str> = name.split('.').collect();
        match wanted[0] {
            "*" => labels.len() >= wanted.len() && labels[labels.len() - wanted.len() + 1..] == wanted[1..],
            _ => labels == wanted,
        }
    }

    fn names(longest: usize) -> Vec<String> {
        let mut all = vec![];
        let mut last = vec![String::new()];
        for _ in 0..longest {
            last = last.iter().flat_map(|name| ["a", "b", "ab"].map(|label| format!("{label}.{name}"))).collect();
            all.extend(last.iter().map(|name| name.trim_end_matches('.').to_owned()));
        }
        all
    }

    fn hostname() -> impl Strategy<Value = String> {
        let label = prop::sample::select(vec!["a", "b", "ab"]);
        let name = prop::collection::vec(label, 1..4).prop_map(|labels| labels.join("."));
        prop_oneof![
            1 => Just(String::new()),
            4 => name.clone(),
            4 => name.prop_map(|name| format!("*.{name}")),
        ]
    }

    proptest! {
        #[test]
        fn an_intersection_holds_exactly_the_names_of_both(listener in hostname(), route in hostname()) {
            let common = intersection(&pattern(Some(&listener)), &pattern(Some(&route)));
            let common = common.map(|pattern| match pattern {
                HostPattern::Any => String::new(),
                pattern => pattern.to_string(),
            });
            for name in names(5) {
                let expected = matches(&listener, &name) && matches(&route, &name);
                let found = common.as_deref().is_some_and(|common| matches(common, &name));
                prop_assert_eq!(found, expected, "{} of {} and {}", name, listener, route);
            }
        }
    }

    #[test]
    fn names_are_compared_without_case_and_final_dot() {
        assert_eq!(pattern(Some("Shop.Example.")), HostPattern::Exact("shop.example".into()));
        assert_eq!(pattern(None), HostPattern::Any);
    }
}
