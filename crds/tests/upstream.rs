//! The types of `crds::gateway` against the schemas of the Gateway API, experimental channel: each field is read, or left
//! out for a reason that is written here.
#![allow(clippy::unwrap_used, clippy::panic)] // the helpers of a test, too, may stop at the first surprise

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crds::gateway::*;
use kube_core::Resource;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde_json::Value;

/// What the types leave out, with the reason: whole kinds, and fields as `Kind.path`.
const IGNORED: &[(&str, &str)] = &[
    ("XBackend", "experimental as a whole: any version may change or drop it"),
    ("XBackendTrafficPolicy", "experimental as a whole; BackendPolicy and TrafficPolicy do the same"),
    ("XMesh", "experimental as a whole, and for service meshes"),
];

/// Deeper than any schema, in structures.
const DEEPEST: usize = 16;

macro_rules! types {
    ($($kind:ident)*) => {
        [$((stringify!($kind), (compare::<$kind> as Compare, $kind::version(&())))),*].into()
    };
}

#[test]
#[ignore = "needs the CRDs of the Gateway API; make test runs it"]
fn each_field_of_the_gateway_api_is_read_or_left_out_for_a_reason() {
    let folder = std::env::var_os("SLUICE_GATEWAY_API_EXPERIMENTAL")
        .unwrap_or_else(|| panic!("SLUICE_GATEWAY_API_EXPERIMENTAL names no folder of CRDs: run `make control-plane`"));
    let definitions = definitions(Path::new(&folder));
    let mut types: BTreeMap<_, _> = types! {
        BackendTLSPolicy GatewayClass Gateway GRPCRoute HTTPRoute ListenerSet ReferenceGrant TCPRoute TLSRoute UDPRoute
    };
    let mut found = Found::default();
    for definition in &definitions {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let Some((compare, version)) = types.remove(kind) else {
            found.unread.insert(kind.to_owned());
            continue;
        };
        let mut versions = definition["spec"]["versions"].as_array().unwrap().iter();
        let version = versions.find(|one| one["name"] == *version).unwrap_or_else(|| panic!("{kind} has no {version}"));
        compare(kind, &version["schema"]["openAPIV3Schema"], &mut found);
    }
    assert!(types.is_empty(), "{} has no such kinds: {:?}: run `make prerequisites`", folder.display(), types.keys());

    let ignored: BTreeSet<_> = IGNORED.iter().map(|(path, _)| (*path).to_owned()).collect();
    let unread = found.unread.difference(&ignored).map(|path| format!("{path} is neither read nor in IGNORED"));
    let stale = ignored.difference(&found.unread).map(|path| format!("{path} is in IGNORED, but read, or not there"));
    let unknown = found.unknown.iter().map(|path| format!("{path} is read, but the Gateway API has no such field"));
    let drift: Vec<_> = unread.chain(stale).chain(unknown).chain(found.misfits).collect();
    assert!(drift.is_empty(), "types and schemas differ:\n{}", drift.join("\n"));
}

fn definitions(folder: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}: run `make prerequisites`", folder.display()));
    let files = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    files.map(|text| serde_saphyr::from_str(&text).unwrap()).collect()
}

/// Where types and schemas differ.
#[derive(Default)]
struct Found {
    unread: BTreeSet<String>,
    unknown: BTreeSet<String>,
    misfits: Vec<String>,
}

type Compare = fn(&str, &Value, &mut Found);

/// Reads objects that the schema makes up, and sees for which fields the type asks. Each further object has its optional
/// fields down to one structure deeper, so that each structure is read both as small as it may be and whole.
fn compare<T: DeserializeOwned>(kind: &str, schema: &Value, found: &mut Found) {
    // The API's own fields of every object, which say nothing here.
    let mut schema = schema.clone();
    let fields = schema["properties"].as_object_mut().unwrap();
    fields.retain(|name, _| name != "apiVersion" && name != "kind");
    let seen = RefCell::new(std::mem::take(found));
    for depth in 0..=DEEPEST {
        if let Err(error) = T::deserialize(Invented { schema: &schema, path: kind.to_owned(), depth, found: &seen }) {
            let misfit = format!("{kind} with optional fields to depth {depth} is valid, but cannot be read: {error}");
            seen.borrow_mut().misfits.push(misfit);
        }
    }
    *found = seen.into_inner();
}

/// A value that fits a schema, made up while a type reads it.
struct Invented<'s> {
    schema: &'s Value,
    path: String,
    /// How many structures from here on have their optional fields.
    depth: usize,
    found: &'s RefCell<Found>,
}

impl<'s> Invented<'s> {
    fn child(&self, step: &str, schema: &'s Value) -> Self {
        Self { schema, path: format!("{}{step}", self.path), depth: self.depth, found: self.found }
    }
}

impl<'de> Deserializer<'de> for Invented<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(properties) = self.schema["properties"].as_object() else {
            assert!(self.path.ends_with(".metadata"), "{}: the schema names no fields", self.path);
            return visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, Invented)>()));
        };
        let mut members = Vec::new();
        let mut found = self.found.borrow_mut();
        for (name, schema) in properties {
            let step = format!(".{name}");
            if !fields.contains(&name.as_str()) {
                found.unread.insert(format!("{}{step}", self.path));
            } else if self.depth > 0 || is_required(self.schema, name) {
                let depth = self.depth.saturating_sub(1);
                members.push((name.as_str(), Invented { depth, ..self.child(&step, schema) }));
            }
        }
        let unknown = fields.iter().filter(|field| !properties.contains_key(**field));
        found.unknown.extend(unknown.map(|field| format!("{}.{field}", self.path)));
        drop(found);
        visitor.visit_map(MapDeserializer::new(members.into_iter()))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let schema = self.schema;
        match schema["type"].as_str() {
            Some("boolean") => visitor.visit_bool(true),
            Some("integer") => visitor.visit_i64(schema["maximum"].as_i64().unwrap_or(1)),
            Some("string") => match (schema["enum"][0].as_str(), schema["format"].as_str()) {
                (Some(text), _) => visitor.visit_str(text),
                (None, Some("date-time")) => visitor.visit_str("2000-01-01T00:00:00Z"),
                (None, _) => visitor.visit_str("a"),
            },
            Some("array") => visitor.visit_seq(SeqDeserializer::new([self.child("[]", &schema["items"])].into_iter())),
            Some("object") if schema["additionalProperties"].is_object() => {
                let member = ("a", self.child("{}", &schema["additionalProperties"]));
                visitor.visit_map(MapDeserializer::new([member].into_iter()))
            }
            other => panic!("{}: no field list of a value of type {other:?} (flattened?)", self.path),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Invented<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Every object has metadata, although no schema says so.
fn is_required(schema: &Value, field: &str) -> bool {
    field == "metadata" || schema["required"].as_array().into_iter().flatten().any(|name| name == field)
}
