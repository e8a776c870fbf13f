//! How scales are found: what all quantizers share.
//!
//! A block's scale is chosen so that the weighted squared error `Σ w (x - x')²` is small. For given codes the best scale is a
//! least-squares fit with a closed form; for a given scale the best codes are the nearest ones. Neither order finds the best
//! pair, since codes jump. So a grid of scales is tried around the one that just covers the largest value, each is refitted to
//! its own codes, and the best one is kept. Covering less than the largest value often wins: one value is clipped, and all
//! others are stored more finely.
//!
//! Sums run in 8 lanes side by side, which lets the compiler use vector instructions.

use half::f16;

/// Lanes of the sums; every block's length is a multiple.
const LANES: usize = 8;

/// Scales that are tried: the code of the largest value runs over this many steps of [`STEP`] on both sides of the last code.
const STEPS: i32 = 9;
const STEP: f32 = 0.1;

/// Rounds to the nearest whole number, |x| < 2²²: in an f32 of 1.5 * 2²³ there is no bit left for a fraction.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    x + SHIFT - SHIFT
}

/// The f16 nearest to a scale that is not nearer to zero: a smaller one would clip the largest value, and for tiny values be
/// zero. At most 65,504.
pub fn outward(scale: f32) -> f16 {
    let nearest = f16::from_f32(scale);
    if nearest.to_f32().abs() < scale.abs() { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

/// The value of the largest magnitude, with its sign.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest: f32, &x| if x.abs() > largest.abs() { x } else { largest })
}

/// What each value's error counts: `weights: [values]`, the largest of them 1.
///
/// All the same, unless it is known how strongly each column is used: then the root of its mean squared activation,
/// `importance`. `docs/notes/quantization-log.md` compares it with other weightings.
pub fn weigh(importance: Option<&[f32]>, weights: &mut [f32]) {
    weights.fill(1.0);
    let Some(importance) = importance else { return };
    for (w, i) in weights.iter_mut().zip(importance) {
        *w = i.sqrt();
    }
    let most = weights.iter().fold(0.0, |most: f32, w| most.max(*w));
    if most > 0.0 && most.is_finite() {
        // No column is worth nothing: what was never used while importance was collected may be used later.
        weights.iter_mut().for_each(|w| *w = (*w / most).max(1e-5));
    } else {
        weights.fill(1.0);
    }
}

/// A few values side by side.
type Lanes = [f32; LANES];

/// What `f` makes of each lane.
#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

/// Sums over all values of what `terms` makes of some values and their weights.
#[inline(always)]
fn sums<const N: usize>(values: &[f32], weights: &[f32], terms: impl Fn(&Lanes, &Lanes) -> [Lanes; N]) -> [f32; N] {
    let mut sums = [[0.0f32; LANES]; N];
    for (x, w) in values.as_chunks().0.iter().zip(weights.as_chunks().0) {
        for (sum, term) in sums.iter_mut().zip(terms(x, w)) {
            *sum = each(|i| sum[i] + term[i]);
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// `Σ w (x - x')²` where `restore` codes a value and turns it back.
#[inline(always)]
pub fn error(values: &[f32], weights: &[f32], restore: impl Fn(f32) -> f32) -> f32 {
    let [error] = sums(values, weights, |x, w| {
        let difference = each(|i| x[i] - restore(x[i]));
        [each(|i| w[i] * difference[i] * difference[i])]
    });
    error
}

/// The code of `x` at a scale whose inverse is given.
#[inline(always)]
pub fn code(x: f32, inverse: f32, low: f32, high: f32) -> f32 {
    // Written so that each comparison is one instruction.
    let code = x * inverse;
    let code = if code > low { code } else { low };
    nearest(if code < high { code } else { high })
}

/// The inverse of a scale, 0 for a scale that is zero (all codes are then 0).
#[inline(always)]
pub fn inverse(scale: f32) -> f32 {
    if scale.abs() > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 }
}

// ANCHOR: fit_scale
/// A scale for `x ≈ scale * code` with codes from `low` to `high`, where `-low > high`: the largest
/// value takes the side that reaches further, so the scale may be negative. Values are at most 1 in
/// magnitude.
pub fn fit_scale(values: &[f32], weights: &[f32], low: f32, high: f32) -> f32 {
    let largest = largest(values);
    if largest.abs() < 1e-30 {
        return 0.0;
    }
    // With its best scale, codes q leave the error Σ w x² - (Σ w x q)² / Σ w q².
    let refit = |inverse: f32| {
        let [xq, qq] = sums(values, weights, |x, w| {
            let q = each(|i| code(x[i], inverse, low, high));
            let wq = each(|i| w[i] * q[i]);
            [each(|i| wq[i] * x[i]), each(|i| wq[i] * q[i])]
        });
        if qq > 0.0 { (xq * xq / qq, xq / qq) } else { (0.0, 0.0) }
    };
    let mut best = (0.0, 0.0);
    for step in -STEPS..=STEPS {
        let found = refit((low + STEP * step as f32) / largest);
        if found.0 > best.0 {
            best = found;
        }
    }
    let again = refit(inverse(best.1));
    if again.0 > best.0 { again.1 } else { best.1 }
}
// ANCHOR_END: fit_scale

/// A scale and a minimum, both 0 or more, for `x ≈ scale * code - min` with codes from 0 to `top`. Values are at most 1 in
/// magnitude.
pub fn fit_scale_and_min(values: &[f32], weights: &[f32], top: f32) -> (f32, f32) {
    // The minimum is subtracted: codes can begin below zero, not above.
    let low = values.iter().fold(0.0, |low: f32, &x| low.min(x));
    let high = values.iter().fold(low, |high: f32, &x| high.max(x));
    if high - low < 1e-30 {
        return (0.0, -low);
    }
    let [w_sum, x_sum, xx] = sums(values, weights, |x, w| [*w, each(|i| w[i] * x[i]), each(|i| w[i] * x[i] * x[i])]);
    // The best scale and offset for the codes that a first guess gives, and their error.
    let refit = |inverse: f32, low: f32| {
        let [q, qq, xq] = sums(values, weights, |x, w| {
            let q = each(|i| code(x[i] - low, inverse, 0.0, top));
            let wq = each(|i| w[i] * q[i]);
            [wq, each(|i| wq[i] * q[i]), each(|i| wq[i] * x[i])]
        });
        let determinant = w_sum * qq - q * q;
        if determinant <= 0.0 {
            return (f32::INFINITY, 0.0, 0.0);
        }
        let mut scale = (w_sum * xq - x_sum * q) / determinant;
        let mut offset = (qq * x_sum - q * xq) / determinant;
        if offset > 0.0 {
            (scale, offset) = (xq / qq, 0.0);
        }
        let error = xx - 2.0 * (scale * xq + offset * x_sum) + scale * scale * qq + 2.0 * scale * offset * q;
        (error + offset * offset * w_sum, scale, offset)
    };
    let mut best = (f32::INFINITY, (high - low) / top, low);
    for step in -STEPS..=STEPS {
        let found = refit((top + STEP * step as f32) / (high - low), low);
        if found.0 < best.0 && found.1 > 0.0 {
            best = found;
        }
    }
    let again = refit(inverse(best.1), best.2);
    if again.0 < best.0 && again.1 > 0.0 {
        best = again;
    }
    (best.1, -best.2)
}
