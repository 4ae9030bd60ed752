//! Regular expressions that must match a whole text.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// The memory that one expression may take once compiled.
const SIZE_LIMIT: usize = 1 << 20;

/// The expression, anchored at both ends.
///
/// # Errors
/// Says what is wrong with the expression.
pub(crate) fn whole(expression: &str) -> Result<Regex, String> {
    // Alone first: `a)|(b` is no expression, but becomes one within parentheses.
    build(expression)?;
    build(&anchored(expression))
}

/// A set of expressions, each of which [`whole`] has accepted.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn set<'a>(expressions: impl ExactSizeIterator<Item = &'a str>) -> Result<RegexSet, String> {
    let limit = SIZE_LIMIT * (expressions.len() + 1);
    RegexSetBuilder::new(expressions.map(anchored)).size_limit(limit).build().map_err(|error| error.to_string())
}

fn anchored(expression: &str) -> String {
    format!("^(?:{expression})$")
}

fn build(expression: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(expression).size_limit(SIZE_LIMIT).build();
    built.map_err(|error| format!("invalid regular expression {expression:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_anchored_and_checked_alone() {
        assert!(whole("/a|/b").unwrap().is_match("/b"));
        assert!(!whole("/a|/b").unwrap().is_match("/bc"));
        for broken in ["(", "a)|(b", "(?=a)", r"(a)\1", "(?:a{1000}){1000}"] {
            assert!(whole(broken).is_err(), "{broken}");
        }
    }
}
