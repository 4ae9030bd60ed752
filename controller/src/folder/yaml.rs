//! YAML and JSON text as trees that remember where each value stands.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A line and a column in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl Position {
    /// The beginning of a file.
    pub const START: Position = Position { line: 1, column: 1 };

    fn of(location: serde_saphyr::Location) -> Self {
        let (line, column) = (location.line(), location.column());
        Self { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
    }

    /// This position in a part of a file, seen from the whole file; the part begins `lines` lines below the file's first.
    fn below(self, lines: u32) -> Self {
        Self { line: self.line.saturating_add(lines), column: self.column }
    }
}

/// A value and where it stands.
pub struct Node {
    /// Of its first character.
    pub position: Position,
    /// The value.
    pub content: Content,
}

/// What a node holds. Deliberately without `Debug`: manifests hold Secrets.
pub enum Content {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction, or a whole one beyond 64 bits.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Member>),
}

/// A key of a mapping with its value.
pub struct Member {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// The value.
    pub value: Node,
}

/// Text that is not YAML.
pub struct SyntaxError {
    /// Where reading stopped.
    pub position: Position,
    /// Why.
    pub message: String,
}

/// The documents of a YAML or JSON text, each read for itself: a broken one does not hide the others. Empty ones are left out.
pub fn documents(text: &str) -> Vec<Result<Node, SyntaxError>> {
    split(text.trim_start_matches('\u{feff}'))
        .into_iter()
        .filter_map(|(skipped, part)| parse(part, skipped).transpose())
        .collect()
}

/// Splits where kubectl splits: at lines that begin with `---`. Each part comes with the number of lines above it.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let separator =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if separator {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, number);
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn parse(text: &str, skipped: u32) -> Result<Option<Node>, SyntaxError> {
    if text.lines().all(|line| matches!(line.trim_start().get(..1), None | Some("#")) || line.trim_end() == "---") {
        return Ok(None);
    }
    match serde_saphyr::from_str_with_options::<Node>(text, serde_saphyr::options! { with_snippet: false }) {
        Ok(Node { content: Content::Null, .. }) => Ok(None),
        Ok(mut node) => {
            node.shift(skipped);
            Ok(Some(node))
        }
        Err(error) => {
            let position = error.location().map_or(Position::START, Position::of).below(skipped);
            Err(SyntaxError { position, message: in_words(&in_words(&without_place(&error.to_string()))) })
        }
    }
}

/// The parser's sentence without the place, which is told apart (and counted from the beginning of the file).
fn without_place(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let end = [" at line ", " (line ", "error: line "]
        .iter()
        .filter_map(|mark| first.find(mark))
        .min()
        .unwrap_or(first.len());
    if end == 0 { first.to_owned() } else { first[..end].to_owned() }
}

/// The parser's sentence in words of a user of manifests, where it speaks of the parser's own settings.
fn in_words(message: &str) -> String {
    let key = message.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split_once(", set "));
    match key {
        Some((key, _)) => format!("`{key}` is written twice; remove one of the two"),
        None if message.starts_with("budget breached") => {
            "it is too large, or its aliases repeat too much; split it, or write them out".to_owned()
        }
        None => message.to_owned(),
    }
}

impl Node {
    /// The member of a mapping with this key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.members().iter().find(|member| member.key == key).map(|member| &member.value)
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    fn members(&self) -> &[Member] {
        match &self.content {
            Content::Map(members) => members,
            _ => &[],
        }
    }

    /// Where the field at `path` stands, for example `spec.rules[0].http` or `metadata.annotations[example.com/a]`;
    /// where it is absent, the innermost mapping or list that should hold it.
    pub fn locate(&self, path: &str) -> Position {
        self.find(path).unwrap_or(self.position)
    }

    fn find(&self, path: &str) -> Option<Position> {
        let path = path.trim_start_matches('.');
        match &self.content {
            Content::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some(item.find(rest).unwrap_or(item.position))
            }
            Content::Map(members) => {
                let rest_after = |key: &str| match path.strip_prefix('[') {
                    Some(bracketed) => bracketed.strip_prefix(key)?.strip_prefix(']'),
                    None => path.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
                };
                // A key may hold dots itself: the longest one that fits is meant.
                let fitting = members.iter().filter_map(|member| Some((member, rest_after(&member.key)?)));
                let (member, rest) = fitting.max_by_key(|(member, _)| member.key.len())?;
                Some(member.value.find(rest).unwrap_or(member.position))
            }
            _ => None,
        }
    }

    /// The path of the node at `position`, as [`Node::locate`] reads it.
    pub fn path_of(&self, position: Position) -> Option<String> {
        Some(self.steps_to(position)?.trim_start_matches('.').to_owned())
    }

    fn steps_to(&self, position: Position) -> Option<String> {
        if self.position == position {
            return Some(String::new());
        }
        match &self.content {
            Content::List(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| Some(format!("[{index}]{}", item.steps_to(position)?))),
            Content::Map(members) => members.iter().find_map(|Member { key, position: of_key, value }| {
                let rest = if *of_key == position { String::new() } else { value.steps_to(position)? };
                Some(if key.contains(['.', '/', '[']) { format!("[{key}]{rest}") } else { format!(".{key}{rest}") })
            }),
            _ => None,
        }
    }

    fn shift(&mut self, lines: u32) {
        self.position = self.position.below(lines);
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Content::Map(members) => members.iter_mut().for_each(|member| {
                member.position = member.position.below(lines);
                member.value.shift(lines);
            }),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { position: Position::of(spanned.referenced), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(i64::try_from(value).map_or(Content::Float(value as f64), Content::Integer))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Content, E> {
        Ok(i64::try_from(value).map_or(Content::Float(value as f64), Content::Integer))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Content, E> {
        Ok(i64::try_from(value).map_or(Content::Float(value as f64), Content::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            members.push(Member { position: Position::of(key.referenced), key: key.value, value: map.next_value()? });
        }
        Ok(Content::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        documents(text).remove(0).unwrap_or_else(|error| panic!("{}", error.message))
    }

    #[test]
    fn fields_are_found_by_path_and_paths_by_position() {
        let node = one(
            "# c\n---\nspec:\n  rules:\n  - host: a\n  - host: b\n    x: {y: 1}\nmetadata:\n  annotations:\n    e.com/a: '1'\n",
        );
        let at = |line, column| Position { line, column };
        assert_eq!(node.locate("spec.rules[1].host"), at(6, 5));
        assert_eq!(node.locate("spec.rules[1].x.y"), at(7, 9));
        assert_eq!(node.locate("spec.rules[1].absent.y"), at(6, 5));
        assert_eq!(node.locate("metadata.annotations[e.com/a]"), at(10, 5));
        assert_eq!(node.locate("metadata.annotations.e.com/a"), at(10, 5));
        assert_eq!(node.locate("spec.rules[7]"), at(4, 3));
        assert_eq!(node.path_of(at(7, 9)).as_deref(), Some("spec.rules[1].x.y"));
        assert_eq!(node.path_of(at(10, 14)).as_deref(), Some("metadata.annotations[e.com/a]"));
    }

    #[test]
    fn a_broken_document_hides_no_other_and_is_placed_in_the_whole_file() {
        let found = documents("a: 1\n---\nb: [1\nc: 2\n---\n# nothing\n---\nd: 4\n");
        assert_eq!(found.len(), 3);
        let broken = found[1].as_ref().err().expect("the second is broken");
        assert!((3..=5).contains(&broken.position.line), "{:?} {}", broken.position, broken.message);
        assert!(!broken.message.contains("line"), "{}", broken.message);
        assert_eq!(found[2].as_ref().ok().map(|node| node.position.line), Some(8));
    }

    #[test]
    fn json_is_read_too() {
        let node = one("{\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\"a\": 1.5}\n\t]\n}\n");
        assert_eq!(node.get("kind").and_then(Node::text), Some("List"));
        assert_eq!(node.locate("items[0].a").line, 4);
    }

    #[test]
    fn a_key_written_twice_is_an_error() {
        let message = documents("a: 1\na: 2\n").remove(0).err().map(|error| error.message);
        assert_eq!(message.as_deref(), Some("`a` is written twice; remove one of the two"));
    }

    #[test]
    fn aliases_that_grow_without_end_are_told_in_words() {
        let mut text = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for (from, to) in ('a'..'i').zip('b'..) {
            text.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(", ")));
        }
        let message = documents(&text).remove(0).err().map(|error| error.message).unwrap_or_default();
        assert!(message.starts_with("it is too large"), "{message}");
    }
}
