//! What one translation leaves to the next.

use crate::context::Context;
use crate::{Resources, Settings, Translation};
use crate::{backends, certificates, gateway, ingress};

/// What a translation found out, for the next one of nearly the same resources: an edit of one object among thousands then
/// costs little more than looking at the pointers of the others.
///
/// It changes no result, whatever resources it comes from. What the last translation did not need is gone.
#[derive(Default)]
pub struct Memo {
    pub(crate) certificates: certificates::Memo,
    pub(crate) services: backends::Memo,
    pub(crate) routes: gateway::Memo,
}

impl Memo {
    /// As [`translate`](crate::translate), which starts from nothing.
    pub fn translate(&mut self, resources: &Resources, settings: &Settings) -> Translation {
        let mut context = Context::new(resources, settings, std::mem::take(self));
        ingress::translate(&mut context);
        gateway::translate(&mut context);
        let (translation, memo) = context.finish();
        *self = memo;
        translation
    }
}
