//! What regular expressions may cost: the same for the controller, which refuses a route that asks for more, and for the data
//! plane, which would hold it.

use regex_automata::nfa::thompson;
use regex_syntax::hir::Hir;

/// The memory in bytes that one expression may take once compiled.
pub const EXPRESSION_SIZE: usize = 1 << 20;

/// The memory in bytes that all expressions of a route may take once compiled: of paths, headers and query parameters.
pub const ROUTE_SIZE: usize = 4 << 20;

/// Each expression counts for so many bytes at least, which bounds their number.
const SMALLEST_SIZE: usize = 4 << 10;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is no expression; says why.
    #[error("{0}")]
    Syntax(String),
    /// It takes more than [`EXPRESSION_SIZE`] bytes.
    #[error("it takes more than {} KiB once compiled: shorten repetitions, or use classes of fewer characters", EXPRESSION_SIZE >> 10)]
    TooLarge,
}

/// The expression that matches whole texts only. A dot matches line feeds: whoever writes `/admin/.*` means everything below, so that
/// `/admin/%0A` evades no rule.
pub fn anchored(expression: &str) -> String {
    format!("^(?s:{expression})$")
}

/// Returns the memory in bytes that an expression takes once compiled and anchored. Many in one set take no more than their sum.
///
/// # Errors
/// It is no expression, or too large.
pub fn size(expression: &str) -> Result<usize, ExpressionError> {
    // Alone first: `a)|(b` is no expression, but becomes one within parentheses.
    parse(expression)?;
    let config = thompson::Config::new().nfa_size_limit(Some(EXPRESSION_SIZE));
    let built = thompson::Compiler::new().configure(config).build_from_hir(&parse(&anchored(expression))?);
    match built {
        // A set adds a state or two to each.
        Ok(nfa) => Ok((nfa.memory_usage() + nfa.memory_usage() / 8).max(SMALLEST_SIZE)),
        Err(_) => Err(ExpressionError::TooLarge),
    }
}

fn parse(expression: &str) -> Result<Hir, ExpressionError> {
    regex_syntax::parse(expression).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        ExpressionError::Syntax(reason.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_compiled_expression() {
        assert_eq!(size("/shop/[0-9]+"), Ok(SMALLEST_SIZE));
        assert!((SMALLEST_SIZE + 1..200 << 10).contains(&size(r"/\w{3}").unwrap()), "{:?}", size(r"/\w{3}"));
        assert_eq!(size("(?:a{1000}){1000}"), Err(ExpressionError::TooLarge));
        assert_eq!(size(r"[\p{L}\p{N}]{200}"), Err(ExpressionError::TooLarge));
    }

    #[test]
    fn many_in_one_set_take_no_more_than_their_sum() {
        for expression in ["/shop/[0-9]+", r"/\w{3}", "/[a-z]{3000}"] {
            let many = thompson::Compiler::new().build_many(&[anchored(expression).as_str(); 5]).unwrap();
            assert!(many.memory_usage() <= 5 * size(expression).unwrap(), "{expression}");
        }
    }

    #[test]
    fn an_expression_is_one_by_itself() {
        for broken in ["(", "a)|(b", "(?=a)", r"(a)\1"] {
            assert!(matches!(size(broken), Err(ExpressionError::Syntax(_))), "{broken}");
        }
    }
}
