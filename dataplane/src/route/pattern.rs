//! Regular expressions that must match a whole text.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// The memory that one expression may take once compiled, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Sizes are told apart from here on, in steps of four. Most expressions of paths are smaller.
const SMALLEST_SIZE: usize = 4 << 10;

/// The expression, anchored at both ends.
///
/// # Errors
/// Says what is wrong with the expression.
pub(crate) fn whole(expression: &str) -> Result<Regex, String> {
    // Alone first: `a)|(b` is no expression, but becomes one within parentheses.
    build(expression)?;
    build(&anchored(expression))
}

/// The memory in bytes, rounded up, that an expression takes once compiled. Expressions in a [`set`] take no more than their sum.
///
/// # Errors
/// As [`whole`].
pub(crate) fn size(expression: &str) -> Result<usize, String> {
    build(expression)?;
    let anchored = anchored(expression);
    let fits = |size: &usize| builder(&anchored).size_limit(*size).build().is_ok();
    let mut smaller =
        std::iter::successors(Some(SMALLEST_SIZE), |size| Some(size * 4)).take_while(|size| *size < SIZE_LIMIT);
    match smaller.find(fits) {
        Some(size) => Ok(size),
        None => build(&anchored).map(|_| SIZE_LIMIT),
    }
}

/// A set of expressions, each of which has a [`size`].
///
/// # Errors
/// Says what is wrong.
pub(crate) fn set<'a>(expressions: impl Iterator<Item = &'a str>) -> Result<RegexSet, String> {
    // Bounded by whoever adds up the sizes.
    let mut builder = RegexSetBuilder::new(expressions.map(anchored));
    builder.dot_matches_new_line(true).size_limit(usize::MAX).build().map_err(|error| error.to_string())
}

fn anchored(expression: &str) -> String {
    format!("^(?:{expression})$")
}

/// Who writes `/admin/.*` means everything below, so that a line feed (`/admin/%0A`) evades no rule.
fn builder(expression: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(expression);
    builder.dot_matches_new_line(true);
    builder
}

fn build(expression: &str) -> Result<Regex, String> {
    let built = builder(expression).size_limit(SIZE_LIMIT).build();
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
    fn a_size_is_one_that_suffices_for_many_of_its_kind() {
        for expression in ["/shop/[0-9]+", r"/\w{3}", "/[a-z]{3000}"] {
            let size = size(expression).unwrap();
            let many = std::iter::repeat_n(anchored(expression), 5);
            assert!(
                RegexSetBuilder::new(many).dot_matches_new_line(true).size_limit(size * 5).build().is_ok(),
                "{expression} {size}"
            );
        }
        assert_eq!(size("/shop/[0-9]+"), Ok(SMALLEST_SIZE));
        assert!(size("/[a-z]{3000}").unwrap() > SMALLEST_SIZE);
    }
}
