//! Comparisons for tests: they name the operation, the first place that differs, what belongs there and what was found.
//!
//! `crates/learn` reads these words to explain to a reader what a wrong answer does.

use std::fmt::Debug;

/// Every value of `found` is within `tolerance` of the one in `expected`. NaN is equal to nothing.
#[track_caller]
pub fn close(operation: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{operation}: number of values");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        // Also true of two equal infinities, whose difference is NaN.
        if found != expected && (found - expected).abs().partial_cmp(&tolerance).is_none_or(|order| order.is_gt()) {
            panic!("{operation}, index {index}: expected {}, found {}", short(expected), short(found));
        }
    }
}

/// Every item of `found` equals the one in `expected`, and there are as many.
#[track_caller]
pub fn same<T: PartialEq + Debug>(operation: &str, found: &[T], expected: &[T]) {
    let all = found.len().max(expected.len());
    if let Some(index) = (0..all).find(|&index| found.get(index) != expected.get(index)) {
        let shown = |item: Option<&T>| item.map_or("nothing".into(), |item| format!("{item:?}"));
        let (found, expected) = (shown(found.get(index)), shown(expected.get(index)));
        panic!("{operation}, index {index}: expected {expected}, found {found}");
    }
}

/// Six digits: the ones after them differ between machines.
fn short(value: f32) -> f32 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
