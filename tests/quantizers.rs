//! The quantizers: what lies on a format's grid comes back exactly, everything else as near as the format allows, and
//! no size of values breaks a block.

use failed_star::weights::DType;
use failed_star::weights::formats::{Activations, BlockFormat, Q4_0, Q4K, Q5K, Q6K, Q8_0};
use proptest::prelude::*;

/// The quantized formats, and how far a value may come back from where it was, in units of the largest magnitude of its block:
/// half a step between codes of Q8_0, whose scale is the largest magnitude's; a whole step of the K formats, whose search for the
/// least sum of squares may leave an extreme value outside its codes, plus what rounding a sub-block's scale and minimum costs.
const FORMATS: [(DType, f32); 5] = [
    (DType::Q8_0, 0.5 / 127.0 + 0.0005),
    (DType::Q4_0, 1.0 / 8.0 + 0.05),
    (DType::Q4K, 2.0 / 15.0 + 0.05),
    (DType::Q5K, 2.0 / 31.0 + 0.03),
    (DType::Q6K, 1.0 / 31.0 + 0.01),
];

fn round_trip(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    // f32s, so that the bytes are aligned.
    let mut bytes = vec![0f32; dtype.bytes(values.len()).expect("whole blocks").div_ceil(4)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut bytes)[..dtype.bytes(values.len()).expect("whole blocks")];
    dtype.narrow(values, importance, bytes).expect("values that can be stored");
    let mut out = vec![0.0; values.len()];
    dtype.widen(bytes, &mut out);
    out
}

/// Numbers as weights are: bell-shaped, the same every time.
fn bell(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn rms(values: impl Iterator<Item = f32>) -> f32 {
    let (mut sum, mut n) = (0.0f64, 0);
    values.for_each(|x| (sum, n) = (sum + f64::from(x * x), n + 1));
    (sum / f64::from(n)).sqrt() as f32
}

fn relative_error(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> f32 {
    let back = round_trip(dtype, values, importance);
    rms(values.iter().zip(&back).map(|(a, b)| a - b)) / rms(values.iter().copied())
}

proptest! {
    #[test]
    fn every_value_comes_back_near(values in prop::collection::vec(-1.0f32..1.0, 256), exponent in -9i32..5) {
        let values: Vec<f32> = values.iter().map(|x| x * 10f32.powi(exponent)).collect();
        for (dtype, bound) in FORMATS {
            let back = round_trip(dtype, &values, None);
            for (block, back) in values.chunks(dtype.layout().block).zip(back.chunks(dtype.layout().block)) {
                let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                for (x, y) in block.iter().zip(back) {
                    // Below the smallest f16 nothing is left of a scale: at 6e-8 and its share of a block's largest value.
                    let least = if matches!(dtype, DType::Q8_0) { 3e-8 } else { 4e-6 };
                    prop_assert!((x - y).abs() <= bound * largest + least, "{dtype}: {x} came back as {y}, largest {largest}");
                }
            }
        }
    }

    /// A block made of codes is found again, whatever the codes.
    #[test]
    fn what_lies_on_the_grid_comes_back_exactly(codes in prop::collection::vec(0u8..=255, 32), d in 1u16..1000) {
        let d = f32::from(d) / 1024.0;
        // The extremes are there, so that the scale is determined.
        let mut eight: Vec<f32> = codes.iter().map(|&c| d * (f32::from(c.max(1)) - 128.0)).collect();
        eight[7] = d * -127.0;
        prop_assert_eq!(round_trip(DType::Q8_0, &eight, None), eight);
        let mut four: Vec<f32> = codes.iter().map(|&c| d * (f32::from(c % 16) - 8.0)).collect();
        (four[7], four[9]) = (d * -8.0, d * 7.0);
        prop_assert_eq!(round_trip(DType::Q4_0, &four, None), four);
    }
}

#[test]
fn super_blocks_on_the_grid_come_back_exactly() {
    let (scales, minima) = ([63, 40, 1, 17, 33, 48, 5, 62], [0, 63, 9, 31, 32, 15, 48, 7]);
    let grid = |top: usize| -> Vec<f32> {
        let value = |i: usize| (scales[i / 32] * (i * 7 % (top + 1))) as f32 * 0.0625 - (minima[i / 32] as f32) * 0.5;
        (0..256).map(value).collect()
    };
    assert_close(DType::Q4K, &grid(15));
    assert_close(DType::Q5K, &grid(31));
    let six: Vec<f32> =
        (0..256).map(|i| 0.25 * (i / 16 * 8 - 128) as f32 * ((i % 16 * 21 % 64) as f32 - 32.0)).collect();
    assert_close(DType::Q6K, &six);
}

/// Comes back but for the last bits that rounding `d` and `dmin` to f16 costs.
#[track_caller]
fn assert_close(dtype: DType, values: &[f32]) {
    let error = relative_error(dtype, values, None);
    assert!(error < 0.002, "{dtype}: {error}");
}

/// The errors that these formats have on bell-shaped values: a worse search shows up as a larger one.
#[test]
fn errors_are_those_of_a_good_search() {
    let values = bell(64 * 256, 1);
    for (dtype, expected) in
        [(DType::Q8_0, 0.0053), (DType::Q4_0, 0.0880), (DType::Q4K, 0.0720), (DType::Q5K, 0.0360), (DType::Q6K, 0.0185)]
    {
        let error = relative_error(dtype, &values, None);
        assert!(error < expected, "{dtype}: {error}");
        // Exact the second time: the grid has been found.
        let once = round_trip(dtype, &values, None);
        assert!(relative_error(dtype, &once, None) < 0.4 * error, "{dtype}");
    }
}

#[test]
fn important_columns_come_back_nearer() {
    let values = bell(64 * 256, 2);
    let importance: Vec<f32> = (0..values.len()).map(|i| if i % 8 == 3 { 100.0 } else { 0.1 }).collect();
    for dtype in [DType::Q4_0, DType::Q4K, DType::Q5K, DType::Q6K] {
        let error = |importance: Option<&[f32]>| {
            let back = round_trip(dtype, &values, importance);
            rms(values.iter().zip(&back).skip(3).step_by(8).map(|(a, b)| a - b))
        };
        let (with, without) = (error(Some(&importance)), error(None));
        assert!(with < 0.9 * without, "{dtype}: {with} with importance, {without} without");
        // Importance that says nothing changes nothing much, and zero importance is no reason to lose anything.
        for flat in [0.0, 1.0] {
            let flat = relative_error(dtype, &values, Some(&vec![flat; values.len()]));
            assert!(flat < 1.1 * relative_error(dtype, &values, None), "{dtype}: {flat}");
        }
    }
}

#[test]
fn blocks_of_zeros_and_of_one_value() {
    for (dtype, _) in FORMATS {
        assert!(round_trip(dtype, &[0.0; 256], None).iter().all(|&x| x == 0.0), "{dtype}");
        for value in [1.0, -1.0, 3e-5, -65_504.0, 65_504.0] {
            let back = round_trip(dtype, &[value; 256], None);
            assert!(
                back.iter().all(|x| ((x - value) / value).abs() < 0.02),
                "{dtype}: {value} came back as {}",
                back[0]
            );
        }
        // Too small for an f16, and so small that its inverse is infinite.
        for value in [1e-12, 1e-40] {
            let back = round_trip(dtype, &[value; 256], None);
            assert!(back.iter().all(|x| x.abs() < 1e-7), "{dtype}: {value} came back as {}", back[0]);
        }
        // One large value among zeros.
        let mut one = [0.0; 256];
        one[77] = -60_000.0;
        let back = round_trip(dtype, &one, None);
        assert!(back.iter().all(|x| x.is_finite()) && (back[77] / one[77] - 1.0).abs() < 0.02, "{dtype}: {}", back[77]);
    }
}

#[test]
fn numbers_that_cannot_be_stored_are_found() {
    for row in &DType::TABLE {
        let dtype = row.dtype;
        let mut bytes = vec![0u8; dtype.bytes(256).expect("whole blocks")];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 70_000.0] {
            let mut values = [0.5; 256];
            values[200] = value;
            let fits = value.is_finite() && matches!(dtype, DType::F32 | DType::BF16);
            match dtype.narrow(&values, None, &mut bytes) {
                Ok(()) => assert!(fits, "{dtype} took {value}"),
                Err(error) => assert!(!fits && error.index == 200, "{dtype}: {error:?}"),
            }
        }
    }
}

/// Products of codes, scaled, are the products of what the codes stand for.
#[test]
fn whole_numbers_give_the_dot_product() {
    fn check<B: BlockFormat>() {
        let (block, values) = (B::quantize(&bell(B::VALUES, 3), None), bell(B::VALUES, 4));
        let x: Vec<_> = values.chunks(32).map(Activations::quantize).collect();
        let mut weights = vec![0.0; B::VALUES];
        block.dequantize(&mut weights);
        let activations = x.iter().flat_map(|x| x.codes.map(|code| f64::from(x.scale) * f64::from(code)));
        let products: Vec<f64> = weights.iter().zip(activations).map(|(w, x)| f64::from(*w) * x).collect();
        let (expected, size) = (products.iter().sum::<f64>(), products.iter().map(|p| p.abs()).sum::<f64>());
        let found = f64::from(block.dot(&x));
        assert!((found - expected).abs() < 1e-6 * size, "{}: {found}, expected {expected}", std::any::type_name::<B>());
    }
    check::<Q8_0>();
    check::<Q4_0>();
    check::<Q4K>();
    check::<Q5K>();
    check::<Q6K>();
}

/// Packing and unpacking agree: codes and scales of every value survive.
#[test]
fn layouts_hold_every_code() {
    let values = bell(256, 5);
    let mut out = [0.0; 256];
    Q4K::quantize(&values, None).dequantize(&mut out);
    let four = out;
    Q5K::quantize(&values, None).dequantize(&mut out);
    let five = out;
    Q6K::quantize(&values, None).dequantize(&mut out);
    let error = |back: &[f32]| values.iter().zip(back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error(&out) < error(&five) && error(&five) < error(&four) && error(&four) < 0.5);
    assert_eq!(size_of::<Q4_0>(), 18);
}
