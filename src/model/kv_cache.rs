//! Keys and values of every position seen so far, so that a new token costs one token's work.
//!
//! A layer's cache is made of [tiles](KvTile): 32 positions by 32 of a head's values. Decoding reads the whole cache
//! once for each token, so the layout is the one that attention streams:
//!
//! ```text
//! keys, values: [kv_heads, capacity / 32, head_dim / 32] tiles
//! a tile of keys:   32 dims x 32 positions     scores of 32 positions at once, a position in each lane
//! a tile of values: 32 positions x 32 dims     32 outputs at once, a dim in each lane
//! ```
//!
//! With keys stored by position, every score would end in a sum across a vector's lanes, which costs as much as the
//! products do. Turned by 90 degrees within the tile, scores and weighted values are the same arithmetic: a number
//! times a row of the tile, added up over the rows. A `head_dim` that is no multiple of 32 is filled up with zeros.
//!
//! Growing adds an eighth and copies, so `n` tokens cost O(n) copies in all and memory is taken only for contexts that are
//! really used.

use crate::backend::huge_bytes::HugeBytes;
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Positions in a tile, and values of a head: 32 elements of f16 are one cache line, 32 are a block of [`Q8Tile`].
pub const TILE: usize = 32;

/// The element type of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDType {
    /// Half precision: half the memory traffic, and keys and values well inside its range.
    #[default]
    F16,
    /// Single precision: what the official implementation computes in; used for verification.
    F32,
    /// 8 bits, and a scale for every 32 values: half of f16 again, see [`Q8Tile`].
    Q8,
}

impl KvDType {
    /// Every format: dtype, name, bytes that 32 elements take.
    pub const TABLE: [(KvDType, &'static str, usize); 3] =
        [(KvDType::F16, "f16", 64), (KvDType::F32, "f32", 128), (KvDType::Q8, "q8", 34)];

    /// The name on screen.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// Bytes that [`TILE`] elements take.
    pub fn bytes_per_tile_row(self) -> usize {
        Self::TABLE.iter().find(|row| row.0 == self).map_or(0, |row| row.2)
    }
}

impl std::str::FromStr for KvDType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0).ok_or_else(|| {
            let names: Vec<&str> = Self::TABLE.iter().map(|row| row.1).collect();
            format!("there is no KV cache type `{name}`; there are: {}", names.join(", "))
        })
    }
}

/// The shape of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Transformer blocks.
    pub layers: usize,
    /// Key and value heads of each.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Element type.
    pub dtype: KvDType,
}

// ANCHOR: bytes_per_token
impl KvLayout {
    /// Bytes that one position takes over all layers, keys and values together.
    pub fn bytes_per_token(&self) -> usize {
        // EXERCISE: m4.bytes_per_token
        2 * self.layers * self.kv_heads * self.head_dim.div_ceil(TILE) * self.dtype.bytes_per_tile_row()
        // EXERCISE_END
    }
}
// ANCHOR_END: bytes_per_token

/// 32 positions by 32 values of a head.
///
/// A position is a column of a tile of keys and a row of a tile of values.
pub trait KvTile: Pod + Send + Sync {
    /// Stores a position's key, rounded to the tile's dtype: at most 32 values, zeros after them.
    fn set_key(&mut self, position: usize, key: &[f32]);
    /// Stores a position's value vector, as [`set_key`](Self::set_key).
    fn set_value(&mut self, position: usize, value: &[f32]);
    /// Reads a position's key as f32: as many values as `key` has room for.
    fn key(&self, position: usize, key: &mut [f32]);
    /// Reads a position's value vector.
    fn value(&self, position: usize, value: &mut [f32]);
}

/// A tile of f16 or f32. In [`Tiles`] it begins at a cache line, so that no vector load touches two.
pub type Tile<T> = [[T; TILE]; TILE];

/// A type that tiles hold as it is.
pub trait KvElement: Pod + Send + Sync {
    /// At most 32 values rounded to this type, and zeros after them.
    fn round(values: &[f32]) -> [Self; TILE];
    /// As f32.
    fn widen(self) -> f32;
}

impl KvElement for f16 {
    fn round(values: &[f32]) -> [Self; TILE] {
        let mut rounded = [f16::ZERO; TILE];
        rounded[..values.len()].convert_from_f32_slice(values);
        rounded
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl KvElement for f32 {
    fn round(values: &[f32]) -> [Self; TILE] {
        let mut copy = [0.0; TILE];
        copy[..values.len()].copy_from_slice(values);
        copy
    }
    fn widen(self) -> f32 {
        self
    }
}

impl<T: KvElement> KvTile for Tile<T> {
    fn set_key(&mut self, position: usize, key: &[f32]) {
        for (row, value) in self.iter_mut().zip(T::round(key)) {
            row[position] = value;
        }
    }
    fn set_value(&mut self, position: usize, value: &[f32]) {
        self[position] = T::round(value);
    }
    fn key(&self, position: usize, key: &mut [f32]) {
        for (value, row) in key.iter_mut().zip(self) {
            *value = row[position].widen();
        }
    }
    fn value(&self, position: usize, value: &mut [f32]) {
        for (value, element) in value.iter_mut().zip(self[position]) {
            *value = element.widen();
        }
    }
}

/// A tile of 8-bit codes: 32 values of a position are `scale * code`, with `scale = max |value| / 127`.
///
/// 8.5 bits a value. The scales stand before the codes that they belong to, not in an array of their own, so that a
/// layer's cache is read as one stream; 1,088 bytes are 17 whole cache lines.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Q8Tile {
    /// One a position.
    pub scales: [f16; TILE],
    /// As a [`Tile`]'s.
    pub codes: [[i8; TILE]; TILE],
}

impl Q8Tile {
    fn quantize(values: &[f32]) -> (f16, [i8; TILE]) {
        // Without their sign, floats are in the order of their bits. NaN is the largest, and a NaN or infinite scale shows
        // in everything that is read.
        let largest = f32::from_bits(values.iter().fold(0, |max, v| (v.to_bits() & 0x7fff_ffff).max(max)));
        let scale = f16::from_f32(largest / 127.0);
        // The rounded scale is the one that codes are read with; where it is 0 all values round to 0.
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        let mut codes = [0; TILE];
        for (code, value) in codes.iter_mut().zip(values) {
            // 1.5 · 2^23 leaves no room for a fraction, and the lowest byte is the rounded value: a library call for each
            // would cost more than all the rest. Rounding the scale down can bring the largest value above 127.
            const MAGIC: f32 = 12_582_912.0;
            *code = ((value * inverse).clamp(-127.0, 127.0) + MAGIC).to_bits() as i8;
        }
        (scale, codes)
    }
}

impl KvTile for Q8Tile {
    fn set_key(&mut self, position: usize, key: &[f32]) {
        let (scale, codes) = Self::quantize(key);
        self.scales[position] = scale;
        for (row, code) in self.codes.iter_mut().zip(codes) {
            row[position] = code;
        }
    }
    fn set_value(&mut self, position: usize, value: &[f32]) {
        (self.scales[position], self.codes[position]) = Self::quantize(value);
    }
    fn key(&self, position: usize, key: &mut [f32]) {
        let scale = self.scales[position].to_f32();
        for (value, row) in key.iter_mut().zip(&self.codes) {
            *value = scale * f32::from(row[position]);
        }
    }
    fn value(&self, position: usize, value: &mut [f32]) {
        let scale = self.scales[position].to_f32();
        for (value, code) in value.iter_mut().zip(self.codes[position]) {
            *value = scale * f32::from(code);
        }
    }
}

/// Keys and values of a layer: `[kv_heads, capacity / 32, head_dim / 32]` tiles each.
#[derive(Clone, Debug)]
pub struct KvLayer<T> {
    /// Tiles `[dims, positions]`.
    pub keys: Tiles<T>,
    /// Tiles `[positions, dims]`.
    pub values: Tiles<T>,
}

/// Tiles, zeros at first, in memory that a growing cache gives back: an allocator keeps the holes that smaller ones leave.
#[derive(Clone)]
pub struct Tiles<T> {
    bytes: HugeBytes,
    kind: PhantomData<T>,
}

impl<T: KvTile> KvLayer<T> {
    fn empty() -> Self {
        Self { keys: Tiles::zeroed(0), values: Tiles::zeroed(0) }
    }
}

impl<T: KvTile> Tiles<T> {
    fn zeroed(count: usize) -> Self {
        Self { bytes: HugeBytes::zeroed(count * size_of::<T>()), kind: PhantomData }
    }
}

impl<T: KvTile> Deref for Tiles<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        cast_slice(&self.bytes)
    }
}

impl<T: KvTile> DerefMut for Tiles<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        cast_slice_mut(&mut self.bytes)
    }
}

impl<T> std::fmt::Debug for Tiles<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of tiles", self.bytes.len())
    }
}

/// A layer in the cache's dtype.
#[derive(Clone, Debug)]
pub enum KvTiles {
    /// Half precision.
    F16(KvLayer<Tile<f16>>),
    /// Single precision.
    F32(KvLayer<Tile<f32>>),
    /// 8 bits.
    Q8(KvLayer<Q8Tile>),
}

/// Positions that a cache with room for `capacity` makes room for when it needs `positions`: an eighth more at least, so that
/// growth, which copies everything, is rare. Doubling would be rarer, but room that is made is memory that is taken.
pub fn grown_capacity(capacity: usize, positions: usize) -> usize {
    positions.max(capacity + capacity / 8)
}

/// A KV cache in host memory.
#[derive(Clone, Debug)]
pub struct HostKvCache {
    layout: KvLayout,
    capacity: usize,
    layers: Vec<KvTiles>,
}

impl HostKvCache {
    /// An empty cache; memory is taken by [`reserve`](Self::reserve).
    pub fn new(layout: KvLayout) -> Self {
        let empty = || match layout.dtype {
            KvDType::F16 => KvTiles::F16(KvLayer::empty()),
            KvDType::F32 => KvTiles::F32(KvLayer::empty()),
            KvDType::Q8 => KvTiles::Q8(KvLayer::empty()),
        };
        Self { layout, capacity: 0, layers: (0..layout.layers).map(|_| empty()).collect() }
    }

    /// Its shape.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `positions` positions; see [`grown_capacity`].
    pub fn reserve(&mut self, positions: usize) {
        fn grow<T: KvTile>(layer: &mut KvLayer<T>, kv_heads: usize, old: usize, new: usize) {
            for tiles in [&mut layer.keys, &mut layer.values] {
                let mut grown = Tiles::zeroed(kv_heads * new);
                if old > 0 {
                    for (from, to) in tiles.chunks_exact(old).zip(grown.chunks_exact_mut(new)) {
                        to[..old].copy_from_slice(from);
                    }
                }
                *tiles = grown;
            }
        }
        if positions <= self.capacity {
            return;
        }
        let capacity = grown_capacity(self.capacity, positions).next_multiple_of(2 * TILE);
        let (heads, old, new) = (self.layout.kv_heads, self.tiles(self.capacity), self.tiles(capacity));
        for layer in &mut self.layers {
            match layer {
                KvTiles::F16(layer) => grow(layer, heads, old, new),
                KvTiles::F32(layer) => grow(layer, heads, old, new),
                KvTiles::Q8(layer) => grow(layer, heads, old, new),
            }
        }
        self.capacity = capacity;
    }

    /// Tiles that `positions` positions of one head take.
    pub fn tiles(&self, positions: usize) -> usize {
        positions.div_ceil(TILE) * self.layout.head_dim.div_ceil(TILE)
    }

    /// A layer.
    pub fn layer(&self, layer: usize) -> &KvTiles {
        &self.layers[layer]
    }

    /// Where `head` begins in a layer's tiles.
    pub fn head_start(&self, head: usize) -> usize {
        head * self.tiles(self.capacity)
    }

    /// Reads a key as f32.
    pub fn read_key(&self, layer: usize, head: usize, position: usize, out: &mut [f32]) {
        let start = self.head_start(head) + self.tiles(position / TILE * TILE);
        for (chunk, out) in out.chunks_mut(TILE).enumerate() {
            match &self.layers[layer] {
                KvTiles::F16(layer) => layer.keys[start + chunk].key(position % TILE, out),
                KvTiles::F32(layer) => layer.keys[start + chunk].key(position % TILE, out),
                KvTiles::Q8(layer) => layer.keys[start + chunk].key(position % TILE, out),
            }
        }
    }

    /// Reads a value vector as f32.
    pub fn read_value(&self, layer: usize, head: usize, position: usize, out: &mut [f32]) {
        let start = self.head_start(head) + self.tiles(position / TILE * TILE);
        for (chunk, out) in out.chunks_mut(TILE).enumerate() {
            match &self.layers[layer] {
                KvTiles::F16(layer) => layer.values[start + chunk].value(position % TILE, out),
                KvTiles::F32(layer) => layer.values[start + chunk].value(position % TILE, out),
                KvTiles::Q8(layer) => layer.values[start + chunk].value(position % TILE, out),
            }
        }
    }

    /// Stores `k` and `v: [tokens, kv_heads, head_dim]` from `position` on.
    pub fn store(&mut self, layer: usize, position: usize, tokens: usize, k: &[f32], v: &[f32]) {
        self.store_by_head(layer, position, tokens, k, v, |heads, store| (0..heads).for_each(store));
    }

    /// [`store`](Self::store), with `run(kv_heads, store)` calling `store(head)` for every head, on any threads.
    pub fn store_by_head(
        &mut self,
        layer: usize,
        position: usize,
        tokens: usize,
        k: &[f32],
        v: &[f32],
        run: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    ) {
        let KvLayout { kv_heads, head_dim, .. } = self.layout;
        assert!(position + tokens <= self.capacity, "position {} of {}", position + tokens, self.capacity);
        assert!(k.len() >= tokens * kv_heads * head_dim && v.len() >= tokens * kv_heads * head_dim);
        let tiles = self.tiles(self.capacity);
        match &mut self.layers[layer] {
            KvTiles::F16(layer) => store(layer, tiles, self.layout, position, tokens, k, v, run),
            KvTiles::F32(layer) => store(layer, tiles, self.layout, position, tokens, k, v, run),
            KvTiles::Q8(layer) => store(layer, tiles, self.layout, position, tokens, k, v, run),
        }
    }
}

/// See [`HostKvCache::store_by_head`]; a head has `tiles` tiles.
fn store<T: KvTile>(
    layer: &mut KvLayer<T>,
    tiles: usize,
    KvLayout { kv_heads, head_dim, .. }: KvLayout,
    position: usize,
    tokens: usize,
    k: &[f32],
    v: &[f32],
    run: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
) {
    let chunks = head_dim.div_ceil(TILE);
    // The lock is never waited for: it hands each head's tiles to the one task that works on them.
    let heads: Vec<_> = layer.keys.chunks_exact_mut(tiles).zip(layer.values.chunks_exact_mut(tiles)).collect();
    let heads: Vec<_> = heads.into_iter().map(Mutex::new).collect();
    run(kv_heads, &|head| {
        let mut tiles = heads[head].lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, values) = &mut *tiles;
        // ANCHOR: append
        // EXERCISE: m4.append
        for token in 0..tokens {
            let (block, at) = ((position + token) / TILE, (position + token) % TILE);
            let row = (token * kv_heads + head) * head_dim..(token * kv_heads + head + 1) * head_dim;
            for (chunk, (k, v)) in k[row.clone()].chunks(TILE).zip(v[row].chunks(TILE)).enumerate() {
                keys[block * chunks + chunk].set_key(at, k);
                values[block * chunks + chunk].set_value(at, v);
            }
        }
        // EXERCISE_END
        // ANCHOR_END: append
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    fn cache(dtype: KvDType, head_dim: usize) -> HostKvCache {
        HostKvCache::new(KvLayout { layers: 1, kv_heads: 2, head_dim, dtype })
    }

    #[test]
    fn a_context_token_of_qwen3_takes_112_kib() {
        let bytes = |kv_heads, head_dim, dtype| KvLayout { layers: 28, kv_heads, head_dim, dtype }.bytes_per_token();
        assert_eq!(bytes(8, 128, KvDType::F16), 114_688, "bytes a token of Qwen3-0.6B, f16");
        assert_eq!(bytes(8, 128, KvDType::F32), 229_376, "bytes a token of Qwen3-0.6B, f32");
        assert_eq!(bytes(8, 128, KvDType::Q8), 60_928, "bytes a token of Qwen3-0.6B, q8");
        // 40 values of a head fill two tiles of 32.
        assert_eq!(bytes(1, 40, KvDType::F16), 7_168, "bytes a token with heads of 40 values, f16");
    }

    #[test]
    fn tokens_are_appended_where_they_belong() {
        for head_dim in [2, 40] {
            let mut cache = cache(KvDType::F32, head_dim);
            cache.reserve(40);
            // Position p of head h holds the key [p, h, h, …] and the value [-p, -h, -h, …].
            let vector = |p: usize, h: usize, sign: f32| -> Vec<f32> {
                (0..head_dim).map(|i| sign * if i == 0 { p as f32 } else { h as f32 }).collect()
            };
            // First 31 tokens, then 2 over the edge between block 0 and block 1, at position 32.
            for (from, to) in [(0, 31), (31, 33)] {
                let row = |p, sign| [vector(p, 0, sign), vector(p, 1, sign)].concat();
                let rows = |sign| (from..to).flat_map(move |p| row(p, sign));
                cache.store(0, from, to - from, &rows(1.0).collect::<Vec<_>>(), &rows(-1.0).collect::<Vec<_>>());
            }
            for (p, h) in [0, 1, 30, 31, 32].into_iter().flat_map(|p| [(p, 0), (p, 1)]) {
                let (mut key, mut value) = (vec![f32::NAN; head_dim], vec![f32::NAN; head_dim]);
                cache.read_key(0, h, p, &mut key);
                cache.read_value(0, h, p, &mut value);
                let what = format!("position {p}, head {h}, {head_dim} wide");
                expect::close(&format!("key of {what}"), &key, &vector(p, h, 1.0), 0.0);
                expect::close(&format!("value of {what}"), &value, &vector(p, h, -1.0), 0.0);
            }
        }
    }

    #[test]
    fn what_is_stored_is_read_back_through_growth() {
        for (dtype, step) in [(KvDType::F32, 0.0), (KvDType::F16, 1.0 / 2048.0), (KvDType::Q8, 1.01 / 254.0)] {
            for head_dim in [1, 32, 80] {
                let mut cache = cache(dtype, head_dim);
                let row = |position: usize, sign: f32| -> Vec<f32> {
                    (0..2 * head_dim).map(|i| sign * (1.0 - (i * 7 + position * 3) as f32 % 64.0 / 32.0)).collect()
                };
                for position in 0..200 {
                    cache.reserve(position + 1);
                    cache.store(0, position, 1, &row(position, 1.0), &row(position, -1.0));
                }
                let mut found = vec![f32::NAN; head_dim];
                for position in 0..200 {
                    for head in 0..2 {
                        for sign in [1.0, -1.0] {
                            let expected = &row(position, sign)[head * head_dim..(head + 1) * head_dim];
                            match sign {
                                1.0 => cache.read_key(0, head, position, &mut found),
                                _ => cache.read_value(0, head, position, &mut found),
                            }
                            // No value is above 1, so no block's largest is.
                            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= step);
                            assert!(close, "{dtype:?} {head_dim} at {position}: {found:?}, expected {expected:?}");
                        }
                    }
                }
            }
        }
    }

    /// Memory is what is stored, and at most an eighth more for what comes next: never the whole context at once.
    #[test]
    fn memory_follows_what_is_stored() {
        fn bytes<T: KvTile>(layer: &KvLayer<T>) -> usize {
            size_of_val(&layer.keys[..]) + size_of_val(&layer.values[..])
        }
        for dtype in [KvDType::F16, KvDType::F32, KvDType::Q8] {
            let mut cache = cache(dtype, 64);
            let (mut grown, mut capacity) = (0, 0);
            for positions in 1..5000 {
                cache.reserve(positions);
                let taken = match cache.layer(0) {
                    KvTiles::F16(layer) => bytes(layer),
                    KvTiles::F32(layer) => bytes(layer),
                    KvTiles::Q8(layer) => bytes(layer),
                };
                assert_eq!(taken, cache.capacity() * cache.layout().bytes_per_token(), "{dtype:?}");
                assert!(
                    positions <= cache.capacity() && cache.capacity() <= positions + positions / 8 + 2 * TILE,
                    "{positions}"
                );
                grown += usize::from(cache.capacity() != capacity);
                capacity = cache.capacity();
            }
            assert!(grown <= 32, "{dtype:?} was copied {grown} times");
        }
    }

    #[test]
    fn q8_takes_8_5_bits_a_value_and_hides_nothing() {
        let layout = *cache(KvDType::Q8, 128).layout();
        assert_eq!(layout.bytes_per_token(), 2 * 2 * 128 * 17 / 16);
        assert_eq!(size_of::<Q8Tile>(), TILE * KvDType::Q8.bytes_per_tile_row());
        let read = |values: &[f32]| {
            let mut tile = Q8Tile::zeroed();
            tile.set_value(3, values);
            let mut out = vec![0.0; values.len()];
            tile.value(3, &mut out);
            out
        };
        assert_eq!(read(&[0.0; 32]), [0.0; 32]);
        assert_eq!(read(&[127.0, -127.0, 64.0, 0.4]), [127.0, -127.0, 64.0, 0.0]);
        // Too small for a scale in f16: zero, not NaN.
        assert_eq!(read(&[1e-30, -1e-30]), [0.0, 0.0]);
        assert!(read(&[1.0, f32::NAN, 2.0]).iter().all(|v| v.is_nan()));
        assert!(read(&[1.0, f32::INFINITY]).iter().all(|v| !v.is_finite()));
    }
}
