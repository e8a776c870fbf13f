//! Stop strings.
#![allow(missing_docs)]
pub struct StopMatcher;
impl StopMatcher {
    pub fn new(_s: Vec<String>) -> Self {
        Self
    }
    pub fn push(&mut self, t: &str) -> (String, Option<usize>) {
        (t.into(), None)
    }
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
