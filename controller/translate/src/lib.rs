//! Translation of Kubernetes resources into what data planes accept: a pure function.
//!
//! [`translate`] sees all [`Resources`] at once and returns what each data plane needs, every status to write and every
//! problem found. The same input gives the same bytes on every replica: no clock, no randomness, no environment, ordered
//! maps only. Precedence, host name intersection, grants, conflicts, policies and annotations are all decided here;
//! a data plane only compares and looks up.

mod authorities;
mod backends;
mod certificates;
mod context;
mod duration;
mod external_name;
mod gateway;
mod ingress;
mod memo;
mod origin;
mod policy;
mod problem;
mod resources;
mod sessions;
mod settings;
mod status;
mod translation;

pub use backends::{SERVICE_NAME, service_of};
pub use external_name::ExternalNames;
pub use gateway::{CLASS_NAME, GATEWAY_NAME, label_value, service, services_of_gateway};
pub use memo::Memo;
pub use origin::object;
pub use problem::{Problem, Severity};
pub use resources::{Entry, Kind, Map, ObjectKey, Resources, Stored, objects};
pub use settings::{PortMap, Settings};
pub use status::{Parents, Statuses};
pub use translation::{
    DataPlane, Infrastructure, Parameters, ServiceType, Translation, Transport, endpoints, translate,
};
