//! Stop strings: ends a stream of text where one of them appears, and never shows any of it.

/// Watches a stream of text pieces for stop strings.
///
/// A stop string may begin in one piece and end in another, so text that may be the beginning of one is held back until
/// it is known. The string that is complete first wins; of those that end together, the one that began first.
pub struct StopMatcher {
    stops: Vec<String>,
    /// The longest end of the text so far that is a beginning of a stop string.
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for these strings. Empty ones never match.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new(), stopped: false }
    }

    // ANCHOR: push
    /// Adds a piece. Returns the text that may now be shown, and the index of the stop string if
    /// one is complete: from then on nothing more is shown.
    pub fn push(&mut self, piece: &str) -> (String, Option<usize>) {
        if self.stopped {
            return (String::new(), None);
        }
        self.held.push_str(piece);
        let matches = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = matches.filter_map(|(i, stop)| self.held.find(stop).map(|at| (at + stop.len(), at, i))).min();
        if let Some((_, at, index)) = found {
            self.stopped = true;
            let mut shown = std::mem::take(&mut self.held);
            shown.truncate(at);
            return (shown, Some(index));
        }
        let held_from = self.held.len() - self.beginning_len();
        let kept = self.held.split_off(held_from);
        (std::mem::replace(&mut self.held, kept), None)
    }
    // ANCHOR_END: push

    /// The end of the text: what was held back, since it began a stop string that never came.
    pub fn finish(&mut self) -> String {
        self.stopped = true;
        std::mem::take(&mut self.held)
    }

    /// How many bytes at the end of `held` begin a stop string.
    fn beginning_len(&self) -> usize {
        // EXERCISE: m3.stop_strings
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0).saturating_sub(1);
        let may_begin = |len: &usize| {
            let end = &self.held.as_bytes()[self.held.len() - len..];
            self.stops.iter().any(|stop| stop.as_bytes().starts_with(end))
        };
        (1..=longest.min(self.held.len())).rev().find(may_begin).unwrap_or(0)
        // EXERCISE_END
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    /// What is shown after each piece, and at the end.
    fn shown(stops: &[&str], pieces: &[&str]) -> Vec<String> {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| stop.to_string()).collect());
        let mut shown: Vec<String> = pieces.iter().map(|piece| matcher.push(piece).0).collect();
        shown.push(matcher.finish());
        shown
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        for (stops, pieces, expected) in [
            // "aa" may begin "aab"; the first "a" cannot any more.
            (&["aab"][..], &["aaa", "b"][..], &["a", "", ""][..]),
            (&["END"], &["the E", "N", "d"], &["the ", "", "ENd", ""]),
            (&["END"], &["the E", "N", "D"], &["the ", "", "", ""]),
            // Text that begins nothing is shown at once.
            (&["END"], &["abcdef"], &["abcdef", ""]),
            // Any of several; the longest beginning counts.
            (&["yq", "xyz"], &["axy", "!"], &["a", "xy!", ""]),
            // Bytes of a character are not cut apart.
            (&["é!"], &["caf\u{e9}", "s"], &["caf", "\u{e9}s", ""]),
            (&[], &["anything"], &["anything", ""]),
        ] {
            expect::same(
                &format!("shown of {pieces:?} with stops {stops:?}"),
                &shown(stops, pieces),
                &expected.iter().map(|text| text.to_string()).collect::<Vec<_>>(),
            );
        }
    }
}
