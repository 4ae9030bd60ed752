//! When it is worth while to parse a head again that was not complete: what a backend sends byte by byte must not cost the square
//! of its length.

/// How far the search for the end of a head has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes were searched for the end.
    searched: usize,
    /// With so many bytes it is parsed again without an end: what is no head is noticed before its end.
    again_at: usize,
}

impl Progress {
    /// Whether `input` is to be parsed: at first, when it has its end now, and when it has doubled.
    pub fn admits(&self, input: &[u8]) -> bool {
        input.len() >= self.again_at || end(input, self.searched).is_some()
    }

    /// It was parsed or searched, and is not complete.
    pub fn incomplete(&mut self, input: &[u8]) {
        if input.len() >= self.again_at {
            self.again_at = input.len() * 2;
        }
        self.searched = input.len();
    }
}

/// Where the first empty line ends, when all before `searched` was searched already.
pub fn end(input: &[u8], searched: usize) -> Option<usize> {
    // The end may have begun there: a line feed, and a carriage return.
    let from = searched.saturating_sub(2);
    let feeds = input.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n');
    feeds.map(|(at, _)| at + 1).find_map(|next| match &input[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_at_doublings_and_at_its_end() {
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let head = format!("HTTP/1.1 200 OK\r\nx: {}{end}", "y".repeat(5000));
            let (mut progress, mut parsed) = (Progress::default(), Vec::new());
            for length in 1..=head.len() {
                let input = &head.as_bytes()[..length];
                if progress.admits(input) {
                    parsed.push(length);
                }
                progress.incomplete(input);
            }
            assert_eq!(parsed.last(), Some(&head.len()), "{end:?}");
            assert!(parsed.len() < 16, "{parsed:?}");
        }
    }
}
