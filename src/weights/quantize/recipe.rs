//! Which tensor is stored in which format.
//!
//! The mixes are llama.cpp's (`llama_tensor_get_type_impl` in `llama-quant.cpp`): an error in some tensors costs more than in
//! others. The output head sees every token's last state; values (`attn_v`) and the MLP's way back (`ffn_down`) write into the
//! residual stream, at the ends of the model more than in its middle.

use crate::weights::DType;

/// A row of [`Recipe::TABLE`].
#[derive(Debug)]
pub struct Recipe {
    /// The name on the command line.
    pub name: &'static str,
    /// The format of most tensors.
    pub base: DType,
    /// Whether some tensors get more bits than `base` has.
    pub mixed: bool,
    /// Its number in `general.file_type` (`enum llama_ftype`).
    pub file_type: u32,
}

impl Recipe {
    /// Every recipe.
    pub const TABLE: [Recipe; 8] = [
        Recipe { name: "f32", base: DType::F32, mixed: false, file_type: 0 },
        Recipe { name: "bf16", base: DType::BF16, mixed: false, file_type: 32 },
        Recipe { name: "f16", base: DType::F16, mixed: false, file_type: 1 },
        Recipe { name: "q8_0", base: DType::Q8_0, mixed: false, file_type: 7 },
        Recipe { name: "q6_k", base: DType::Q6K, mixed: false, file_type: 18 },
        Recipe { name: "q5_k_m", base: DType::Q5K, mixed: true, file_type: 17 },
        Recipe { name: "q4_k_m", base: DType::Q4K, mixed: true, file_type: 15 },
        Recipe { name: "q4_0", base: DType::Q4_0, mixed: false, file_type: 2 },
    ];

    /// The recipe with this name, in any case.
    pub fn find(name: &str) -> Option<&'static Recipe> {
        const { &Self::TABLE }.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }

    /// Whether its quantizers weigh errors by importance: Q8_0's and the unquantized formats have nothing to choose.
    pub fn weighs_errors(&self) -> bool {
        weighs_errors(self.base)
    }

    /// The format for a tensor, by its name in GGUF and its shape, and what to say where it is not the one wanted.
    pub fn format(&self, name: &str, shape: &[usize], layers: usize, tied: bool) -> (DType, Option<String>) {
        // Norms and biases are next to nothing, and read as f32 everywhere.
        let [_, columns] = shape[..] else { return (DType::F32, None) };
        let wanted = self.wanted(name, layers, tied);
        for dtype in [wanted, DType::Q8_0, DType::F16] {
            if dtype.bytes(columns).is_some() {
                let block = wanted.layout().block;
                let note = || format!("{dtype}, since rows of {columns} are not whole {wanted} blocks of {block}");
                return (dtype, (dtype != wanted).then(note));
            }
        }
        unreachable!("F16 has no blocks")
    }

    // ANCHOR: wanted
    fn wanted(&self, name: &str, layers: usize, tied: bool) -> DType {
        let base = self.base;
        let head = name == "output.weight" || tied && name == "token_embd.weight";
        if head && base.is_quantized() && base != DType::Q8_0 {
            return DType::Q6K;
        }
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let more = name.ends_with("attn_v.weight") || name.ends_with("ffn_down.weight");
        match layer {
            Some(layer) if self.mixed && more && use_more_bits(layer, layers) => DType::Q6K,
            _ => base,
        }
    }
    // ANCHOR_END: wanted
}

/// Whether a format's quantizer weighs errors by importance.
pub(super) fn weighs_errors(dtype: DType) -> bool {
    dtype.is_quantized() && dtype != DType::Q8_0
}

/// The first and the last eighth of the layers, and every third one between.
fn use_more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers that llama.cpp's Qwen3-0.6B Q4_K_M file (28 layers) stores in Q6_K.
    #[test]
    fn the_mix_is_llama_cpps() {
        let recipe = Recipe::find("Q4_K_M").expect("it exists");
        let layers = (0..28).filter(|layer| {
            let name = format!("blk.{layer}.ffn_down.weight");
            recipe.format(&name, &[1024, 3072], 28, true).0 == DType::Q6K
        });
        assert_eq!(layers.collect::<Vec<_>>(), [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        let format = |name: &str, tied| recipe.format(name, &[64, 256], 28, tied).0;
        assert_eq!(format("token_embd.weight", true), DType::Q6K);
        assert_eq!(format("token_embd.weight", false), DType::Q4K);
        assert_eq!(format("output.weight", false), DType::Q6K);
        assert_eq!(format("blk.3.attn_v.weight", true), DType::Q4K);
        assert_eq!(recipe.format("blk.0.attn_q_norm.weight", &[256], 28, true), (DType::F32, None));
    }

    #[test]
    fn rows_that_are_not_whole_blocks_fall_back() {
        let format =
            |recipe: &str, columns| Recipe::find(recipe).unwrap().format("blk.0.ffn_up.weight", &[8, columns], 8, true);
        let (dtype, note) = format("q4_k_m", 96);
        assert_eq!(dtype, DType::Q8_0);
        assert_eq!(note.as_deref(), Some("Q8_0, since rows of 96 are not whole Q4_K blocks of 256"));
        assert_eq!(format("q4_0", 33).0, DType::F16);
        assert_eq!(format("q4_0", 96), (DType::Q4_0, None));
    }
}
