//! The filter `RequestMirror`.

use crds::gateway::HTTPRequestMirrorFilter;

use super::backends::{Port, Unresolved};
use super::filters::Surroundings;
use super::rules::Unusable;

/// Copies of a share of the requests.
pub(super) struct Mirror<'a> {
    /// Where they go, or why they go nowhere: then only they are left out.
    pub target: Result<Port<'a>, Unresolved>,
    /// The share is `numerator` of `denominator`.
    pub numerator: u32,
    /// See `numerator`.
    pub denominator: u32,
}

/// Reads the filter. Without a share every request is copied.
pub(super) fn parse<'a>(
    filter: &HTTPRequestMirrorFilter,
    surroundings: Surroundings<'_, 'a>,
) -> Result<Mirror<'a>, Unusable> {
    let Surroundings { kind, namespace, backends, .. } = surroundings;
    let (numerator, denominator, field) = match (filter.percent, &filter.fraction) {
        (Some(_), Some(_)) => {
            return Err(Unusable::new("percent", "percent and fraction exclude each other: remove one"));
        }
        (Some(percent), None) => (percent, 100, "percent"),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100), "fraction"),
        (None, None) => (100, 100, "percent"),
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if denominator > 0 && numerator <= denominator => {
            Ok(Mirror { target: backends.resolve(kind, namespace, &filter.backend_ref), numerator, denominator })
        }
        _ => Err(Unusable::new(field, format!("{numerator} of {denominator} is not a share between 0 and 1"))),
    }
}
