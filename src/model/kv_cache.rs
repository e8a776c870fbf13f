//! Keys and values of every position seen so far, so that a new token costs one token's work.
//!
//! Each layer holds `[kv_heads, capacity, head_dim]`: all positions of one head lie one after the other, because
//! attention streams them in that order. Growing doubles the capacity and copies, so `n` tokens cost O(n) copies in all
//! and memory is taken only for contexts that are really used.

use half::f16;

/// The element type of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDType {
    /// Half precision: half the memory traffic, and keys and values well inside its range.
    #[default]
    F16,
    /// Single precision: what the official implementation computes in; used for verification.
    F32,
}

impl KvDType {
    /// Every format: dtype, name, bytes an element.
    pub const TABLE: [(KvDType, &'static str, usize); 2] = [(KvDType::F16, "f16", 2), (KvDType::F32, "f32", 4)];

    /// The name on screen.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// Bytes an element.
    pub fn bytes(self) -> usize {
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

impl KvLayout {
    /// Bytes that one position takes over all layers, keys and values together.
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * self.dtype.bytes()
    }
}

/// Rows of `head_dim` elements in the cache's dtype.
#[derive(Clone, Debug)]
pub enum KvRows {
    /// Half precision.
    F16(Vec<f16>),
    /// Single precision.
    F32(Vec<f32>),
}

impl KvRows {
    fn new(dtype: KvDType, len: usize) -> Self {
        match dtype {
            KvDType::F16 => Self::F16(vec![f16::ZERO; len]),
            KvDType::F32 => Self::F32(vec![0.0; len]),
        }
    }

    /// Overwrites the elements from `start` on with `values`, rounded to this dtype.
    pub fn write(&mut self, start: usize, values: &[f32]) {
        use half::slice::HalfFloatSliceExt;
        match self {
            Self::F16(rows) => rows[start..start + values.len()].convert_from_f32_slice(values),
            Self::F32(rows) => rows[start..start + values.len()].copy_from_slice(values),
        }
    }

    /// Copies the elements from `start` on into `out` as f32.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        use half::slice::HalfFloatSliceExt;
        match self {
            Self::F16(rows) => rows[start..start + out.len()].convert_to_f32_slice(out),
            Self::F32(rows) => out.copy_from_slice(&rows[start..start + out.len()]),
        }
    }
}

/// A KV cache in host memory.
#[derive(Clone, Debug)]
pub struct HostKvCache {
    layout: KvLayout,
    capacity: usize,
    /// Of each layer, keys and then values: `[kv_heads, capacity, head_dim]`.
    layers: Vec<[KvRows; 2]>,
}

impl HostKvCache {
    /// An empty cache; memory is taken by [`reserve`](Self::reserve).
    pub fn new(layout: KvLayout) -> Self {
        let layers = (0..layout.layers).map(|_| [0, 1].map(|_| KvRows::new(layout.dtype, 0))).collect();
        Self { layout, capacity: 0, layers }
    }

    /// Its shape.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `positions` positions; doubles at least, so that growth is rare.
    pub fn reserve(&mut self, positions: usize) {
        if positions <= self.capacity {
            return;
        }
        let (old, new) = (self.capacity, positions.max(2 * self.capacity).next_multiple_of(64));
        let KvLayout { kv_heads, head_dim, dtype, .. } = self.layout;
        for rows in self.layers.iter_mut().flatten() {
            let mut grown = KvRows::new(dtype, kv_heads * new * head_dim);
            for head in 0..kv_heads {
                let (from, to, len) = (head * old * head_dim, head * new * head_dim, old * head_dim);
                match (&*rows, &mut grown) {
                    (KvRows::F16(a), KvRows::F16(b)) => b[to..to + len].copy_from_slice(&a[from..from + len]),
                    (KvRows::F32(a), KvRows::F32(b)) => b[to..to + len].copy_from_slice(&a[from..from + len]),
                    _ => unreachable!("a cache has one dtype"),
                }
            }
            *rows = grown;
        }
        self.capacity = new;
    }

    /// Keys and values of a layer, each `[kv_heads, capacity, head_dim]`.
    pub fn layer(&self, layer: usize) -> &[KvRows; 2] {
        &self.layers[layer]
    }

    /// Where the row of `head` at `position` begins in a layer's [`KvRows`].
    pub fn row_start(&self, head: usize, position: usize) -> usize {
        (head * self.capacity + position) * self.layout.head_dim
    }

    /// Stores `k` and `v: [tokens, kv_heads, head_dim]` from `position` on.
    pub fn store(&mut self, layer: usize, position: usize, tokens: usize, k: &[f32], v: &[f32]) {
        let KvLayout { kv_heads, head_dim, .. } = self.layout;
        assert!(position + tokens <= self.capacity, "position {} of {}", position + tokens, self.capacity);
        for token in 0..tokens {
            for head in 0..kv_heads {
                let to = self.row_start(head, position + token);
                let from = (token * kv_heads + head) * head_dim;
                let [keys, values] = &mut self.layers[layer];
                keys.write(to, &k[from..from + head_dim]);
                values.write(to, &v[from..from + head_dim]);
            }
        }
    }
}
