//! Regular expressions that must match a whole text.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use snapshot::expression::{self, EXPRESSION_SIZE, anchored};

/// The memory in bytes for what matching with one expression of a header or query parameter remembers, on each worker. The
/// default is eight times as much, for each of the hundreds that a route may have.
const MATCHING_SIZE: usize = 256 << 10;

/// The expression, anchored at both ends.
///
/// # Errors
/// Says what is wrong with the expression.
pub(crate) fn whole(expression: &str) -> Result<Regex, String> {
    size(expression)?;
    let mut builder = RegexBuilder::new(&anchored(expression));
    let built = builder.size_limit(EXPRESSION_SIZE * 2).dfa_size_limit(MATCHING_SIZE).build();
    built.map_err(|error| format!("invalid regular expression {expression:?}: {error}"))
}

/// See [`expression::size`].
///
/// # Errors
/// As [`whole`].
pub(crate) fn size(expression: &str) -> Result<usize, String> {
    expression::size(expression).map_err(|error| format!("invalid regular expression {expression:?}: {error}"))
}

/// A set of expressions, each of which has a [`size`].
///
/// # Errors
/// Says what is wrong.
pub(crate) fn set<'a>(expressions: impl Iterator<Item = &'a str>) -> Result<RegexSet, String> {
    // Bounded by whoever adds up the sizes.
    RegexSetBuilder::new(expressions.map(anchored)).size_limit(usize::MAX).build().map_err(|error| error.to_string())
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
            assert_eq!(size(broken), whole(broken).map(|_| 0), "{broken}");
        }
    }

    #[test]
    fn a_dot_matches_line_feeds() {
        assert!(whole("/admin/.*").unwrap().is_match("/admin/\nx\n"));
        assert!(set(["/admin/.*"].into_iter()).unwrap().is_match("/admin/\nx\n"));
        assert!(!whole("/admin").unwrap().is_match("/admin\n"));
    }

    #[test]
    fn every_expression_that_has_a_size_compiles() {
        for count in [1, 100, 500] {
            let largest = (0..)
                .map(|length| format!("[a-z0-9]{{{}}}x", count * length))
                .take_while(|text| size(text).is_ok())
                .take(200);
            let last = largest.last().unwrap();
            assert!(whole(&last).is_ok(), "{last}");
        }
    }
}
