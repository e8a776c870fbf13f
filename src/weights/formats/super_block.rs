//! What Q4_K and Q5_K share: 8 sub-blocks of 32 with a scale and a minimum each, which are quantized too.

use super::Activations;
use super::q4_k::scales_and_minima;
use super::search::{code, error, fit_scale_and_min, inverse, largest, nearest, outward, weigh};
use half::f16;

/// Sub-blocks, and values of each.
const SUBS: usize = 8;
const SUB: usize = 32;

/// The largest scale and minimum of 6 bits.
const TOP_SCALE: f32 = 63.0;

/// A block before its bits are packed: `value = d * scales[s] * codes[i] - dmin * minima[s]`.
pub struct SuperBlock {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; SUBS],
    pub minima: [u8; SUBS],
    pub codes: [u8; SUBS * SUB],
}

/// Scale and minimum of each sub-block, from `d`, `dmin` and the 12 bytes of [`scales_and_minima`].
fn sub_blocks(d: f16, dmin: f16, bytes: &[u8; 12]) -> impl Iterator<Item = (f32, f32)> {
    let (scales, minima) = scales_and_minima(bytes);
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    scales.into_iter().zip(minima).map(move |(scale, min)| (d * f32::from(scale), dmin * f32::from(min)))
}

// ANCHOR: dequantize
/// See [`super::BlockFormat::dequantize`]; `code(i)` is the block's code `i`.
pub fn dequantize(d: f16, dmin: f16, bytes: &[u8; 12], code: impl Fn(usize) -> u8, out: &mut [f32]) {
    // EXERCISE: m5.q4_k
    for (s, ((scale, min), out)) in sub_blocks(d, dmin, bytes).zip(out.chunks_exact_mut(SUB)).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(code(s * SUB + i)) - min;
        }
    }
    // EXERCISE_END
}
// ANCHOR_END: dequantize

/// See [`super::BlockFormat::dot`].
pub fn dot(d: f16, dmin: f16, bytes: &[u8; 12], code: impl Fn(usize) -> u8, x: &[Activations]) -> f32 {
    let sub_blocks = sub_blocks(d, dmin, bytes).zip(x).enumerate();
    let dots = sub_blocks.map(|(s, ((scale, min), x))| {
        let (products, sum) = (x.dot(0..SUB, |i| i32::from(code(s * SUB + i))), x.dot(0..SUB, |_| 1));
        x.scale * (scale * products - min * sum)
    });
    dots.sum()
}

/// Finds a block for 256 values, with codes from 0 to `top`.
pub fn quantize(values: &[f32], importance: Option<&[f32]>, top: f32) -> SuperBlock {
    let mut block =
        SuperBlock { d: f16::ZERO, dmin: f16::ZERO, scales: [0; SUBS], minima: [0; SUBS], codes: [0; SUBS * SUB] };
    // In units of the largest value, sums neither overflow nor vanish.
    let unit = largest(values).abs();
    if unit < 1e-30 {
        return block;
    }
    let (mut x, mut w) = ([0.0; SUBS * SUB], [0.0; SUBS * SUB]);
    x.iter_mut().zip(values).for_each(|(x, value)| *x = value / unit);
    weigh(importance, &mut w);
    let sub = |s: usize| (&x[s * SUB..][..SUB], &w[s * SUB..][..SUB]);

    // What each sub-block would like to have.
    let wanted: [(f32, f32); SUBS] = std::array::from_fn(|s| fit_scale_and_min(sub(s).0, sub(s).1, top));
    let most = wanted.iter().fold((0.0f32, 0.0f32), |most, wanted| (most.0.max(wanted.0), most.1.max(wanted.1)));
    let mut best = f32::INFINITY;
    let (mut d, mut dmin) = (most.0 / TOP_SCALE, most.1 / TOP_SCALE);
    for _ in 0..2 {
        // What the file can hold.
        let (d16, dmin16) = (outward(d * unit), outward(dmin * unit));
        (d, dmin) = (d16.to_f32() / unit, dmin16.to_f32() / unit);
        let (to_scale, to_min) = (inverse(d), inverse(dmin));
        let mut found = SuperBlock { d: d16, dmin: dmin16, ..block };
        let mut total = 0.0;
        for (s, &(scale, min)) in wanted.iter().enumerate() {
            // The nearest scale and minimum are not the best ones together: their neighbours are tried too.
            let (x, w) = sub(s);
            let (scale, min) = (nearest((scale * to_scale).min(TOP_SCALE)), nearest((min * to_min).min(TOP_SCALE)));
            let mut least = f32::INFINITY;
            for (near_scale, near_min) in NEIGHBOURS {
                let (scale, min) = (scale + near_scale, min + near_min);
                if scale.clamp(0.0, TOP_SCALE) != scale || min.clamp(0.0, TOP_SCALE) != min {
                    continue;
                }
                let (step, offset) = (d * scale, dmin * min);
                let per_step = inverse(step);
                let error = error(x, w, |x| step * code(x + offset, per_step, 0.0, top) - offset);
                if error < least {
                    (least, found.scales[s], found.minima[s]) = (error, scale as u8, min as u8);
                }
            }
            total += least;
        }
        if total >= best {
            break;
        }
        best = total;
        encode(&mut found, &x, d, dmin, top);
        block = found;
        (d, dmin) = refit(&block, &x, &w).unwrap_or((d, dmin));
    }
    block
}

/// The nearest scale and minimum first.
const NEIGHBOURS: [(f32, f32); 9] =
    [(0., 0.), (-1., 0.), (1., 0.), (0., -1.), (0., 1.), (-1., -1.), (-1., 1.), (1., -1.), (1., 1.)];

/// The nearest codes.
fn encode(block: &mut SuperBlock, x: &[f32], d: f32, dmin: f32, top: f32) {
    for s in 0..SUBS {
        let offset = dmin * f32::from(block.minima[s]);
        let per_step = inverse(d * f32::from(block.scales[s]));
        for (q, x) in block.codes[s * SUB..].iter_mut().zip(&x[s * SUB..][..SUB]) {
            *q = code(x + offset, per_step, 0.0, top) as u8;
        }
    }
}

/// The best `d` and `dmin` for everything else as it is: least squares in two unknowns; `None` if they are not determined.
fn refit(block: &SuperBlock, x: &[f32], w: &[f32]) -> Option<(f32, f32)> {
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (i, (&x, &w)) in x.iter().zip(w).enumerate() {
        let (a, b) = (f32::from(block.scales[i / SUB]) * f32::from(block.codes[i]), f32::from(block.minima[i / SUB]));
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * x;
        bx += w * b * x;
    }
    let determinant = aa * bb - ab * ab;
    if determinant <= 1e-6 * aa * bb {
        return None;
    }
    let (d, dmin) = ((ax * bb - bx * ab) / determinant, (ax * ab - bx * aa) / determinant);
    (d > 0.0 && dmin >= 0.0).then_some((d, dmin))
}
