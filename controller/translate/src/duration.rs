//! Durations as GEP-2257 writes them.

use std::time::Duration;

/// Parses `1h30m`, `10s`, `250ms`: one to four parts, each of one to five digits and a unit. `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u32 = number.parse().ok()?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(letters);
        total += number
            * match unit {
                "h" => Duration::from_secs(3600),
                "m" => Duration::from_secs(60),
                "s" => Duration::from_secs(1),
                "ms" => Duration::from_millis(1),
                _ => return None,
            };
        parts += 1;
        rest = after;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_gep_allows() {
        for (text, milliseconds) in
            [("0s", 0), ("1h", 3_600_000), ("1h30m10s5ms", 5_410_005), ("99999ms", 99_999), ("10s10s", 20_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "1", "s", "1.5s", "-1s", "100000s", "1d", "1us", "1s ", "1h1m1s1ms1s", "1S"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
