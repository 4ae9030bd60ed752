//! What one translation leaves to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::context::Context;
use crate::{Kind, ObjectKey, Resources, Settings, Translation};
use crate::{backends, certificates, gateway, ingress};

/// What a translation found out, for the next one of nearly the same resources: an edit of one object among thousands then
/// costs little more than looking at the pointers of the others.
///
/// It changes no result, whatever resources it comes from, unless a Secret cannot be read: then a reference to it goes on with
/// the certificate that it led to last. What the last translation did not need is gone.
#[derive(Default)]
pub struct Memo {
    pub(crate) certificates: certificates::Memo,
    pub(crate) services: backends::Memo,
    pub(crate) routes: gateway::Memo,
    pub(crate) expressions: gateway::ExpressionsMemo,
    /// The certificate that each reference led to last, for those that lead to a Secret which cannot be read for now.
    pub(crate) shown: BTreeMap<Place, Shown>,
}

/// A reference to a certificate: the object, and the field with its index.
pub(crate) type Place = (Kind, ObjectKey, String);

/// A Secret with the certificate that it held.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) secret: ObjectKey,
    pub(crate) certificate: Arc<certificates::Loaded>,
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
