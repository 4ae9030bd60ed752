//! How a status that is about to be written joins the one that is stored.

use serde_json::Value;

/// Whether an entry of `status.parents` or `status.ancestors` was written by one of `controllers`.
pub fn is_own(entry: &Value, controllers: &[String]) -> bool {
    entry["controllerName"].as_str().is_some_and(|name| controllers.iter().any(|own| own == name))
}

/// Gives every condition of `wanted` its transition time: that of the stored condition when its status is the same, else `now`.
///
/// A stored condition of a greater `observedGeneration` replaces the wanted one: somebody who saw more wrote it.
pub fn stamp(wanted: &mut Value, stored: &Value, now: &str) {
    let Value::Object(members) = wanted else { return };
    for (name, member) in members {
        let stored = &stored[name.as_str()];
        match member {
            Value::Array(items) if name == "conditions" => {
                items.iter_mut().for_each(|condition| stamp_condition(condition, stored, now));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| {
                let before = find(stored, |candidate| same_entry(candidate, item)).cloned().unwrap_or(Value::Null);
                stamp(item, &before, now);
            }),
            _ => {}
        }
    }
}

/// The stored list with the own entries replaced: foreign entries keep their place and every byte, own stale ones go,
/// new ones are appended as long as the list holds at most `limit`.
pub fn entries(stored: &Value, mut wanted: Vec<Value>, controllers: &[String], limit: usize) -> Vec<Value> {
    let mut merged = Vec::new();
    for entry in stored.as_array().into_iter().flatten() {
        if !is_own(entry, controllers) {
            merged.push(entry.clone());
        } else if let Some(at) = wanted.iter().position(|candidate| same_entry(candidate, entry)) {
            merged.push(wanted.remove(at));
        }
    }
    let room = limit.saturating_sub(merged.len());
    merged.extend(wanted.into_iter().take(room));
    merged
}

fn stamp_condition(condition: &mut Value, stored: &Value, now: &str) {
    let generation = |condition: &Value| condition["observedGeneration"].as_i64().unwrap_or(0);
    let before = find(stored, |candidate| candidate["type"] == condition["type"]);
    match before {
        Some(before) if generation(before) > generation(condition) => *condition = before.clone(),
        Some(before) if before["status"] == condition["status"] && before["lastTransitionTime"].is_string() => {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
        _ => condition["lastTransitionTime"] = now.into(),
    }
}

fn find(list: &Value, same: impl Fn(&Value) -> bool) -> Option<&Value> {
    list.as_array()?.iter().find(|candidate| same(candidate))
}

/// Listeners are told apart by name, entries of routes and policies by whom they are about and who wrote them.
fn same_entry(one: &Value, other: &Value) -> bool {
    ["name", "parentRef", "ancestorRef", "controllerName"].iter().all(|member| one[*member] == other[*member])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn own() -> Vec<String> {
        vec!["ours".into()]
    }

    #[test]
    fn foreign_entries_keep_their_place_and_content() {
        let foreign = json!({"parentRef": {"name": "b"}, "controllerName": "theirs", "unknown": [1, {"x": null}]});
        let stored = json!([
            {"parentRef": {"name": "stale"}, "controllerName": "ours", "conditions": []},
            foreign,
            {"parentRef": {"name": "a"}, "controllerName": "ours", "conditions": []},
        ]);
        let new = json!({"parentRef": {"name": "a"}, "controllerName": "ours", "conditions": [{"type": "Accepted"}]});
        let more = json!({"parentRef": {"name": "c"}, "controllerName": "ours"});
        let merged = entries(&stored, vec![more.clone(), new.clone()], &own(), 32);
        assert_eq!(merged, [foreign.clone(), new.clone(), more.clone()]);
        assert_eq!(entries(&stored, vec![more, new.clone()], &own(), 2), [foreign.clone(), new]);
        assert_eq!(entries(&stored, vec![], &own(), 32), [foreign]);
    }

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let stored = json!({"listeners": [{"name": "http", "conditions": [
            {"type": "Same", "status": "True", "observedGeneration": 1, "lastTransitionTime": "then"},
            {"type": "Turned", "status": "True", "observedGeneration": 1, "lastTransitionTime": "then"},
            {"type": "Newer", "status": "True", "observedGeneration": 9, "lastTransitionTime": "then"},
        ]}]});
        let condition = |kind: &str| json!({"type": kind, "status": if kind == "Same" { "True" } else { "False" }, "observedGeneration": 2});
        let mut wanted = json!({"listeners": [{"name": "http", "conditions":
            [condition("Same"), condition("Turned"), condition("Newer"), condition("New")]}]});
        stamp(&mut wanted, &stored, "now");
        let conditions = wanted["listeners"][0]["conditions"].as_array().unwrap();
        let times: Vec<_> =
            conditions.iter().map(|condition| condition["lastTransitionTime"].as_str().unwrap()).collect();
        assert_eq!(times, ["then", "now", "then", "now"]);
        assert_eq!(conditions[2], stored["listeners"][0]["conditions"][2]);
    }
}
