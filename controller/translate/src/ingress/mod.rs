//! Ingresses, as ingress-nginx serves them.
//!
//! The version of each Ingress that counts (`version`), the oldest first; who owns which path of which host (`hosts`); which hosts
//! have TLS (`tls`); then rules and clusters.

mod annotations;
mod class;
mod clusters;
mod hosts;
mod rules;
mod status;
mod tls;
mod version;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use snapshot::{Attachment, HostPattern, Listener, Protocol, Resource, Route, Rule};

use crate::context::Context;
use crate::{DataPlane, Kind};
use class::Classes;
use hosts::{Claim, Hosts, Path};
use rules::Rules;

/// Names of the listeners for Ingresses.
const LISTENERS: [&str; 2] = ["ingress/http", "ingress/https"];

/// Translates all Ingresses of ours into the shared data planes' snapshot.
pub(crate) fn translate(context: &mut Context<'_>) {
    let resources = context.resources;
    let classes = Classes::new(context);
    let addresses = status::addresses(context);
    let mut ingresses = Vec::new();
    for (key, entry) in &resources.ingresses {
        if !classes.include(&entry.current) {
            classes.explain(context, key, &entry.current);
            context.leave(Kind::Ingress, key);
            continue;
        }
        context.statuses.ingresses.insert(key.clone(), addresses.clone());
        ingresses.extend(version::choose(context, key, entry));
    }
    ingresses.sort_by_cached_key(|ingress| (ingress.created, Reverse(ingress.key.to_string())));

    let hosts = Hosts::settle(context, &ingresses);
    let tls = tls::settle(context, &ingresses, &hosts);
    add_listeners(context, tls.listener);

    let mut rules = Rules::new(context);
    for (ingress, claims) in ingresses.iter().zip(by_owner(&hosts, ingresses.len())) {
        for (pattern, claims) in claims {
            let Some(host) = hosts.get(pattern) else { continue };
            let host = (host, tls.hosts.contains(pattern));
            let rules = rules.build(context, ingress, pattern, host, &claims);
            add_route(context, &format!("Ingress/{}/{pattern}", ingress.key), pattern, rules);
        }
    }
    if hosts.get(&HostPattern::Any).is_none() {
        let rule = rules::fallback_rule(context.settings, rules.fallback);
        rule.into_iter().for_each(|rule| add_route(context, "default-backend", &HostPattern::Any, vec![rule]));
    }
}

type Claims<'h, 'a> = BTreeMap<&'h HostPattern, Vec<(&'h Path, &'h Claim<'a>)>>;

/// The claims that each Ingress (by index) won, by host.
fn by_owner<'h, 'a>(hosts: &'h Hosts<'a>, ingresses: usize) -> Vec<Claims<'h, 'a>> {
    let mut owners = vec![Claims::new(); ingresses];
    for (pattern, host) in hosts.iter() {
        for (path, claim) in &host.paths {
            owners[claim.owner].entry(pattern).or_default().push((path, claim));
        }
    }
    owners
}

fn add_listeners(context: &mut Context<'_>, tls: snapshot::Tls) {
    let ports = context.settings.ports;
    let snapshot = context.snapshot(&DataPlane::Shared);
    let [http, https] = LISTENERS;
    for (name, port, protocol) in [(http, ports.http, Protocol::Http), (https, ports.https, Protocol::Https(tls))] {
        snapshot.insert(name, Resource::Listener(Listener { port, hostname: HostPattern::Any, protocol }));
    }
}

fn add_route(context: &mut Context<'_>, name: &str, host: &HostPattern, rules: Vec<Rule>) {
    let attachment = |listener: &str| Attachment { listener: listener.to_owned(), hostnames: vec![host.clone()] };
    let attachments = LISTENERS.map(attachment).into();
    context.snapshot(&DataPlane::Shared).insert(name, Resource::Route(Route { attachments, rules }));
}
