//! What one object or namespace may cost: beyond it the object is refused, and nothing else suffers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests may stop at the first surprise, too.

mod support;

use serde_json::{Value, json};
use translate::{DataPlane, Memo, Resources, Settings, Translation};

/// Two namespaces with a Gateway for both.
fn cluster() -> Resources {
    let mut resources = Resources::default();
    let class = json!({"kind": "GatewayClass", "metadata": {"name": "sluice"},
        "spec": {"controllerName": "sluice.dev/gateway-controller"}});
    let listener =
        json!({"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}});
    let gateway = json!({"kind": "Gateway", "metadata": {"namespace": "infra", "name": "edge"},
        "spec": {"gatewayClassName": "sluice", "listeners": [listener]}});
    for object in [class, gateway] {
        support::apply(&mut resources, &object);
    }
    resources
}

/// A route with a rule per match.
fn route(namespace: &str, name: &str, created: u32, matches: Vec<Value>) -> Value {
    let rules: Vec<_> = matches.into_iter().map(|one| json!({"matches": [one]})).collect();
    let time = format!("2026-01-01T00:{:02}:{:02}Z", created / 60, created % 60);
    json!({"kind": "HTTPRoute", "metadata": {"namespace": namespace, "name": name, "creationTimestamp": time},
        "spec": {"parentRefs": [{"namespace": "infra", "name": "edge"}], "rules": rules}})
}

fn by_path(expression: &str) -> Value {
    json!({"path": {"type": "RegularExpression", "value": expression}})
}

/// The names of the routes that are served.
fn served(translation: &Translation) -> Vec<String> {
    let plane = DataPlane::Gateway(translate::ObjectKey::new("infra", "edge"));
    let routes = translation.snapshots[&plane].iter().filter(|(id, _)| id.kind == snapshot::Kind::Route);
    routes.map(|(id, _)| id.name.split('@').next().unwrap().trim_start_matches("HTTPRoute/").to_owned()).collect()
}

#[test]
fn expressions_beyond_a_routes_budget_are_refused_with_the_rule() {
    let mut resources = cluster();
    let costly = |kind: &str, one: usize| {
        let conditions = (0..16).map(|header| {
            let value = format!(r"[\p{{L}}\p{{N}}]{{20}}{one}-{header}");
            json!({"name": format!("x{header}"), "type": "RegularExpression", "value": value})
        });
        json!({kind: conditions.collect::<Vec<_>>()})
    };
    let matches = (0..64).map(|one| costly(if one % 2 == 0 { "headers" } else { "queryParams" }, one)).collect();
    support::apply(&mut resources, &route("tenant", "costly", 1, matches));
    support::apply(&mut resources, &route("tenant", "modest", 2, vec![by_path("/shop/[0-9]+")]));
    let translation = translate::translate(&resources, &Settings::default());
    let refusals: Vec<_> =
        translation.problems.iter().filter(|problem| problem.message.contains("take more than 4 MiB")).collect();
    assert!(refusals.len() > 50 && refusals.iter().all(|problem| problem.object.name == "costly"), "{refusals:?}");
    assert!(served(&translation).contains(&"tenant/modest".to_owned()));
}

#[test]
fn the_youngest_routes_of_a_namespace_beyond_its_budget_are_refused_and_no_other_namespace_suffers() {
    let mut resources = cluster();
    // Each takes less than a route may, and all of them more than their namespace may.
    let costly = |name: &str| (0..60).map(|one| by_path(&format!(r"/{name}{one}\w{{2}}"))).collect();
    for (created, name) in
        ["n", "m", "l", "k", "j", "i", "h", "g", "f", "e", "d", "c", "b", "a"].into_iter().enumerate()
    {
        support::apply(&mut resources, &route("tenant", name, created as u32, costly(name)));
    }
    support::apply(&mut resources, &route("other", "web", 100, vec![by_path("/[a-z]+")]));
    let mut memo = Memo::default();
    let first = memo.translate(&resources, &Settings::default());
    let names = served(&first);
    assert!(names.contains(&"other/web".to_owned()) && names.contains(&"tenant/n".to_owned()), "{names:?}");
    assert!(!names.contains(&"tenant/a".to_owned()), "{names:?}");
    let refused: Vec<_> =
        first.problems.iter().filter(|problem| problem.message.contains("older routes go first")).collect();
    assert_eq!(refused.len() + names.len(), 15, "{refused:?}");

    // Room that becomes free is used, whatever the memo holds.
    for name in ["n", "m", "l", "k"] {
        support::delete(&mut resources, &route("tenant", name, 0, Vec::new()));
    }
    let second = memo.translate(&resources, &Settings::default());
    assert_eq!(served(&second), served(&translate::translate(&resources, &Settings::default())));
    assert!(served(&second).contains(&"tenant/a".to_owned()), "{:?}", served(&second));
}
