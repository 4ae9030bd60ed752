//! How many listeners and ports a Gateway may get: ListenerSets are made by others than its owner, and each port costs its Service a
//! port of every node.

use std::collections::BTreeSet;

use super::listeners::{Listener, Owner};

/// At most so many listeners of a Gateway, those of its ListenerSets included.
pub(super) const LISTENERS: usize = 2048;
/// At most so many ports that ListenerSets add to those of their Gateway.
pub(super) const PORTS: usize = 64;

/// Refuses the listeners of a Gateway, in order of precedence, that are beyond these bounds. What cannot be used counts for nothing.
pub(super) fn refuse(listeners: &mut [Listener]) {
    let own = listeners.iter().filter(|listener| matches!(listener.owner, Owner::Gateway(_)) && listener.usable());
    let own: BTreeSet<_> = own.filter_map(place).collect();
    let mut added = BTreeSet::new();
    let mut count = 0;
    for listener in listeners.iter_mut().filter(|listener| listener.usable()) {
        if count == LISTENERS {
            let message = format!(
                "a Gateway has at most {LISTENERS} listeners, those of older ListenerSets first: remove some, or use another Gateway"
            );
            listener.unusable = Some(("TooManyListeners", message));
            continue;
        }
        if let (Owner::ListenerSet(_), Some(place)) = (&listener.owner, place(listener))
            && !own.contains(&place)
            && !added.contains(&place)
        {
            if added.len() == PORTS {
                let message = format!(
                    "ListenerSets add at most {PORTS} ports to those of their Gateway, the oldest ones first: use one of these ports, \
                     or another Gateway"
                );
                listener.unusable = Some(("PortUnavailable", message));
                continue;
            }
            added.insert(place);
        }
        count += 1;
    }
}

/// The port of a Service that a listener needs.
pub(super) fn place(listener: &Listener) -> Option<(u16, crate::Transport)> {
    let number = u16::try_from(listener.spec.port).ok().filter(|port| *port > 0)?;
    Some((number, listener.protocol?.transport()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::listeners;
    use crate::{ObjectKey, PortMap};

    /// The listeners of a Gateway with one on port 80, and of sets, each with 64 that have these ports.
    fn refused(sets: usize, port: impl Fn(usize) -> usize) -> Vec<(usize, &'static str)> {
        let gateway = ObjectKey::new("a", "web");
        let spec = |name: usize, port: usize| -> crds::gateway::Listener {
            let hostname = format!("h{name}.example");
            let spec = json!({"name": format!("l{name}"), "port": port, "protocol": "HTTP", "hostname": hostname});
            serde_json::from_value(spec).unwrap()
        };
        let specs: Vec<_> = (0..sets * 64).map(|number| spec(number, port(number))).collect();
        let own = spec(0, 80);
        let mut all = vec![listeners::judge(&gateway, &Owner::Gateway(gateway.clone()), &own, PortMap::default())];
        all.extend(specs.iter().enumerate().map(|(number, spec)| {
            let set = Owner::ListenerSet(ObjectKey::new("b", format!("set{}", number / 64)));
            listeners::judge(&gateway, &set, spec, PortMap::default())
        }));
        refuse(&mut all);
        let refused = all.iter().enumerate();
        refused.filter_map(|(index, listener)| Some((index, listener.unusable.as_ref()?.0))).collect()
    }

    #[test]
    fn a_gateway_has_so_many_listeners_the_oldest_first() {
        let refused = refused(33, |_| 80);
        assert_eq!(refused.len(), 1 + 33 * 64 - LISTENERS);
        assert!(refused.iter().all(|(index, reason)| *index >= LISTENERS && *reason == "TooManyListeners"));
    }

    #[test]
    fn listener_sets_add_so_many_ports_the_oldest_first() {
        let refused = refused(3, |number| 10_000 + number);
        assert_eq!(refused.len(), 2 * 64);
        assert!(refused.iter().all(|(index, reason)| *index > PORTS && *reason == "PortUnavailable"));
    }

    #[test]
    fn a_port_that_is_there_already_is_no_further_one() {
        assert!(refused(3, |number| if number < 64 { 10_000 + number } else { [80, 10_000][number % 2] }).is_empty());
    }
}
