//! Compiled routes from one snapshot to the next.

use std::collections::HashMap;
use std::sync::Arc;

use snapshot::{Hash, ResourceId};

use crate::compile::Rejection;

/// The routes of `sources` by name, and whether one of them is new. What `unchanged` finds for a name and a hash is taken as it
/// is. What cannot be compiled is rejected and keeps the version that `previous` holds, if any.
pub(super) fn renew<'s, Source: 's, Route>(
    sources: impl Iterator<Item = (&'s ResourceId, Hash, &'s Source)>,
    previous: &HashMap<String, Arc<Route>>,
    unchanged: impl Fn(&str, Hash) -> Option<Arc<Route>>,
    mut compile: impl FnMut(&ResourceId, &Source, Hash) -> Result<Route, String>,
    rejections: &mut Vec<Rejection>,
) -> (HashMap<String, Arc<Route>>, bool) {
    let mut routes = HashMap::new();
    let mut changed = false;
    for (id, hash, source) in sources {
        let route = unchanged(&id.name, hash).or_else(|| match compile(id, source, hash) {
            Ok(route) => {
                changed = true;
                Some(Arc::new(route))
            }
            Err(reason) => {
                rejections.push(Rejection { id: id.clone(), reason });
                previous.get(&id.name).cloned()
            }
        });
        routes.extend(route.map(|route| (id.name.clone(), route)));
    }
    (routes, changed)
}
