//! From a tree of values to a typed object, with the place of what does not fit.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};

use super::yaml::{Content, Node, Position};

/// Reads a typed object from `node`; fields that the type does not know are added to `unknown`.
pub fn read<T: DeserializeOwned>(node: &Node, unknown: &RefCell<Vec<Position>>) -> Result<T, Misfit> {
    T::deserialize(Reader { node, unknown })
}

/// A value that does not fit its type.
#[derive(Debug)]
pub struct Misfit {
    /// Where the value stands.
    pub position: Position,
    /// What does not fit.
    pub message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

/// An error's place is filled in by the innermost node that is being read.
const NOWHERE: Position = Position { line: 0, column: 0 };

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { position: NOWHERE, message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("this is {}, but it has to be {}", met(found), wanted(&expected.to_string())))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("{} does not fit; it has to be {}", met(found), wanted(&expected.to_string())))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("`{field}` is missing; add it"))
    }
}

fn met(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping of fields".to_owned(),
        Unexpected::Unit => "nothing".to_owned(),
        other => other.to_string(),
    }
}

/// What types call themselves, in words of YAML.
fn wanted(expected: &str) -> &str {
    match expected {
        "i32" | "i64" | "u16" | "u32" | "u64" => "a whole number of a size that fits",
        "f32" | "f64" => "a number",
        "a string" => "text (in quotes where it looks like something else)",
        "a sequence" => "a list, each item beginning with `-`",
        "a boolean" => "true or false",
        "a map" => "a mapping of fields",
        other if other.starts_with("struct ") => "a mapping of fields",
        other => other,
    }
}

#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
    unknown: &'n RefCell<Vec<Position>>,
}

impl Reader<'_> {
    fn here(&self, error: Misfit) -> Misfit {
        if error.position == NOWHERE { Misfit { position: self.node.position, ..error } } else { error }
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let unknown = self.unknown;
        let child = |node| Reader { node, unknown };
        match &self.node.content {
            Content::Null => visitor.visit_unit(),
            Content::Bool(value) => visitor.visit_bool(*value),
            Content::Integer(value) => visitor.visit_i64(*value),
            Content::Float(value) => visitor.visit_f64(*value),
            Content::Text(value) => visitor.visit_str(value),
            Content::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(child))),
            Content::Map(members) => {
                let entries = members.iter().map(|member| (member.key.as_str(), child(&member.value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
        .map_err(|error| self.here(error))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.node.content {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|error| self.here(error))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self).map_err(|error| self.here(error))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.unknown.borrow_mut().push(self.node.position);
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for Reader<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
