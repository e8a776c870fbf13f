//! The Metal backend: our own kernels (`metal/*.metal`), driven through the Objective-C runtime.
//!
//! Reading order: [`objc`] (messages to Metal), `device` (the GPU and its memory), `library` (from a source to a
//! pipeline), `stream` (command buffers and barriers), `weight` and `kv` (what lies in GPU memory), and then this file
//! with `linear` and `attention`: an encoder function for each operation. All of them stand here in the order of [`Backend`],
//! which is why this file is longer than others.
//!
//! Nothing is computed when an operation's method returns: it has been encoded. [`Backend::read`], [`Backend::finish`],
//! [`Backend::argmax`] and [`Backend::top_k`] run what was encoded and wait; [`Backend::argmax_ahead`] runs it and does not
//! wait (`choose` has these three). An operation cannot say that it failed; the next of those five does.

mod attention;
mod choose;
mod device;
mod kv;
mod library;
mod linear;
pub mod objc;
mod pack;
mod stream;
mod weight;

pub use device::DeviceReport;
pub use kv::MetalKvCache;
pub use weight::MetalWeight;

use super::{Ahead, Backend, BackendError, BackendInfo, CachePosition, Counters, Heads, plain};
use crate::model::kv_cache::{KvDType, KvLayout, TILE, grown_capacity};
use crate::weights::Tensor;
use bytemuck::{Pod, Zeroable, bytes_of, cast_slice};
use device::{Device, NEEDS_LESS};
use library::{Kernel, Library};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use stream::{Arg, Grid, Memory, Sent, Stream};

/// The Metal backend.
pub struct Metal {
    device: Device,
    library: Library,
    /// Run the plain kernels in place of the fused and the fast ones.
    plain: bool,
    /// One for each thread that encodes.
    streams: Mutex<HashMap<ThreadId, Stream>>,
    /// Where results lie for the CPU to read.
    results: Mutex<Option<Memory>>,
    promises: Mutex<choose::Promises>,
    /// Whether a GPU trace is being written.
    #[cfg(target_os = "macos")]
    captures: std::sync::atomic::AtomicBool,
}

#[cfg(target_os = "macos")]
impl Drop for Metal {
    fn drop(&mut self) {
        if self.captures.load(std::sync::atomic::Ordering::Relaxed) {
            objc::stop_capture();
        }
    }
}

/// f32 activations in GPU memory; `None` where there was no memory for them, which the next wait says.
pub struct MetalBuffer(Option<Memory>);

/// The least positions that a cache has room for.
const LEAST_CAPACITY: usize = 2 * TILE;

impl Metal {
    /// A backend on the system's default device. `plain` runs the plain kernels only: slower, and the oracle of the others.
    /// `FS_METAL_SOURCE_DIR` names a directory to read kernels from.
    pub fn new(plain: bool) -> Result<Self, BackendError> {
        Self::with_sources(plain, source_directory())
    }

    /// Compiles every file of kernels, and says how many there are. Any Metal device will do, also one that is too old to run them.
    pub fn compile_all() -> Result<usize, BackendError> {
        objc::pool(|| Library::new(Device::system().map_err(error)?, source_directory()).compile_all().map_err(error))
    }

    /// [`new`](Self::new) with the kernels of this directory, or those of the binary.
    pub fn with_sources(plain: bool, directory: Option<PathBuf>) -> Result<Self, BackendError> {
        let device = Device::open().map_err(error)?;
        let library = Library::new(device.object.clone(), directory);
        Ok(Self {
            device,
            library,
            plain,
            streams: Mutex::default(),
            results: Mutex::default(),
            promises: Mutex::default(),
            #[cfg(target_os = "macos")]
            captures: Default::default(),
        })
    }

    /// What there is to know about the device.
    pub fn report(&self) -> DeviceReport {
        self.device.report()
    }

    /// Bytes a second that this device moves when it copies `bytes` bytes, read and written ones counted: what any kernel can
    /// reach. The best of a few times.
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<f64, BackendError> {
        let pieces = bytes / 16;
        let [from, to] = [0; 2].map(|_| self.device.private(pieces * 16).map_err(error));
        let (from, to) = (from?, to?);
        let mut best = f64::INFINITY;
        for _ in 0..8 {
            let before = self.stream(|stream| stream.counters.device_seconds);
            let arguments = [Arg::Bytes(&(pieces as u32).to_le_bytes()), Arg::In(&from), Arg::Out(&to)];
            self.run(&COPY, &arguments, Grid::groups(pieces.div_ceil(1024), 1, 256));
            self.finish()?;
            best = best.min(self.stream(|stream| stream.counters.device_seconds) - before);
        }
        Ok(2.0 * (pieces * 16) as f64 / best)
    }

    /// This thread's stream, for as long as `body` runs.
    fn stream<R>(&self, body: impl FnOnce(&mut Stream) -> R) -> R {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        body(streams.entry(std::thread::current().id()).or_default())
    }

    fn encode(&self, kernel: &Kernel, arguments: &[Arg<'_>], grid: Grid) {
        self.stream(|stream| stream.dispatch(&self.device.queue, &self.library, kernel, arguments, grid));
    }

    /// [`encode`](Self::encode) a kernel of the operation's own file and name.
    fn run(&self, operation: &Operation, arguments: &[Arg<'_>], grid: Grid) {
        self.encode(&operation.0, arguments, grid);
    }

    fn fail(&self, message: String) {
        self.stream(|stream| stream.fail(message));
    }

    /// `Ok` as it is; an error waits for the next [`Backend::read`].
    fn noted<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.fail(message)).ok()
    }

    /// Memory for results of so many bytes.
    fn staging<'a>(&self, results: &'a mut Option<Memory>, bytes: usize) -> Result<&'a Memory, BackendError> {
        if results.as_ref().is_some_and(|memory| memory.buffer.length() < bytes as u64) {
            *results = None;
        }
        match results {
            Some(memory) => Ok(memory),
            none => match self.device.shared(bytes) {
                Ok(memory) => Ok(none.insert(memory)),
                Err(message) => {
                    // What has been encoded would otherwise go off with this thread's next pass.
                    self.fail(message.clone());
                    let _ = self.finish();
                    Err(error(message))
                }
            },
        }
    }

    /// Waits for what was sent.
    fn wait(&self, sent: Sent) -> Result<(), BackendError> {
        let seconds = sent.wait().map_err(error)?;
        self.stream(|stream| {
            stream.counters.waits += 1;
            stream.counters.device_seconds += seconds;
        });
        Ok(())
    }

    /// Rows of a table, to the output's rows from `first` on.
    fn embed_rows(&self, out: &Memory, table: &MetalWeight, ids: Arg<'_>, first: u32, count: usize) {
        let [columns, row_bytes, rows] = [table.columns, table.row_bytes(), table.rows].map(|n| n as u32);
        let shape = EmbedShape { columns, row_bytes, first, rows };
        let kernel = match table.is_sorted() {
            true => linear::by_dtype!("embed.metal", "embed_packed", table.dtype),
            false => linear::by_dtype!("embed.metal", "embed", table.dtype),
        };
        let arguments = [Arg::Bytes(bytes_of(&shape)), ids, table.arg(), Arg::Out(out)];
        self.encode(&kernel, &arguments, Grid::groups(table.columns.div_ceil(256), count, 256));
    }

    /// Copies `rows` rows of `columns` 32-bit words; `from` and `to` are the first word and the words from row to row.
    fn copy_words(&self, out: &Memory, x: Arg<'_>, rows: usize, columns: usize, from: [usize; 2], to: [usize; 2]) {
        let [from, to] = [from, to].map(|pair| pair.map(|n| n as u32));
        let shape = CopyShape { columns: columns as u32, from, to };
        let kernel = if matches!(x, Arg::Bytes(_)) { &COPY_BYTES } else { &COPY_ROWS };
        let grid = Grid::groups(columns.div_ceil(256), rows, 256);
        self.run(kernel, &[Arg::Bytes(bytes_of(&shape)), x, Arg::Out(out)], grid);
    }
}

/// A kernel that exists once.
struct Operation(Kernel);

impl Operation {
    const fn new(file: &'static str, name: &'static str) -> Self {
        Self(Kernel::new(file, name))
    }
}

static ADD: Operation = Operation::new("add.metal", "add");
static ADD_BIAS: Operation = Operation::new("add.metal", "add_bias");
static COPY: Operation = Operation::new("copy.metal", "copy");
static COPY_ROWS: Operation = Operation::new("copy_rows.metal", "copy_rows");
static COPY_BYTES: Operation = Operation::new("copy_rows.metal", "copy_bytes");
static RMS_NORM: Operation = Operation::new("rms_norm.metal", "rms_norm");
static ROPE: Operation = Operation::new("rope.metal", "rope");
static SWIGLU: Operation = Operation::new("swiglu.metal", "swiglu");

/// Bytes as a person reads them.
fn size(bytes: f64) -> String {
    if bytes < 1e8 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.2} GB", bytes / 1e9) }
}

/// Where kernels are read from, if not from the binary.
fn source_directory() -> Option<PathBuf> {
    std::env::var_os("FS_METAL_SOURCE_DIR").filter(|name| !name.is_empty()).map(PathBuf::from)
}

fn error(message: String) -> BackendError {
    BackendError { backend: "metal", message }
}

impl MetalBuffer {
    /// The memory; an operation on a buffer that has none is left out, and the failure that it has none is known.
    fn memory(&self) -> Option<&Memory> {
        self.0.as_ref()
    }
}

/// Binds the memory of buffers to names, or leaves the operation out.
macro_rules! memory {
    ($($buffer:ident),*) => {
        let ($(Some($buffer),)*) = ($($buffer.memory(),)*) else { return };
    };
}
use memory;

// The kernels' parameters, at buffer index 0; `metal/` declares each under the same name, with the same fields.

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CopyShape {
    columns: u32,
    from: [u32; 2],
    to: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct EmbedShape {
    columns: u32,
    row_bytes: u32,
    first: u32,
    rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormShape {
    columns: u32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RopeShape {
    heads: u32,
    head_dim: u32,
    pairs: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StoreShape {
    tokens: u32,
    kv_heads: u32,
    head_dim: u32,
    start: u32,
    capacity: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormRopeStoreShape {
    heads: u32,
    kv_heads: u32,
    start: u32,
    capacity: u32,
    eps: f32,
}

/// A kernel's name with the cache's element type: `store_kv_f16`.
macro_rules! by_kv_dtype {
    ($file:literal, $name:literal, $dtype:expr) => {
        Kernel::new(
            $file,
            match $dtype {
                KvDType::F16 => concat!($name, "_f16"),
                KvDType::F32 => concat!($name, "_f32"),
                KvDType::Q8 => concat!($name, "_q8"),
            },
        )
    };
}
use by_kv_dtype;

impl Backend for Metal {
    type Weight = MetalWeight;
    type Buffer = MetalBuffer;
    type KvCache = MetalKvCache;

    fn info(&self) -> BackendInfo {
        BackendInfo { name: "metal", device: self.device.report().name, threads: 1 }
    }

    fn admit(&self, bytes: u64, values: u64) -> Result<(), BackendError> {
        let most = self.device.object.recommended_max_working_set_size();
        if most == 0 || bytes <= most {
            return Ok(());
        }
        // Formats that are still too large help nobody, and none makes more of what is in fewer bits already.
        let formats = [("q8_0", 8.5), ("q4_k_m", 4.9)].map(|(name, bits)| (name, values as f64 * bits / 8.0));
        let smaller = formats.iter().filter(|(_, smaller)| *smaller <= most as f64 && *smaller < 0.95 * bytes as f64);
        let smaller = smaller.map(|(name, bytes)| {
            format!("`fs quantize --type {name}` of the unquantized model makes {}, ", size(*bytes))
        });
        Err(error(format!(
            "the weights take {}, and {} wants at most {} in use; {}run with --backend cpu",
            size(bytes as f64),
            self.device.report().name,
            size(most as f64),
            smaller.map(|format| format + "or ").collect::<String>(),
        )))
    }

    fn load(&self, tensor: &Tensor) -> Result<MetalWeight, BackendError> {
        MetalWeight::new(&self.device, &tensor.for_kernels(), self.plain).map_err(error)
    }

    fn buffer(&self, len: usize) -> MetalBuffer {
        MetalBuffer(self.noted(self.device.private(len * size_of::<f32>())))
    }

    fn write(&self, buffer: &mut MetalBuffer, values: &[f32]) {
        memory!(buffer);
        let bytes: &[u8] = cast_slice(values);
        if bytes.is_empty() {
            return;
        }
        // The GPU may still have to read what the buffer held before, so the values wait their turn as everything else.
        if bytes.len() <= objc::MAX_BYTES {
            return self.copy_words(buffer, Arg::Bytes(bytes), 1, values.len(), [0; 2], [0; 2]);
        }
        let staged = self.device.object.buffer_of(bytes);
        let staged =
            staged.ok_or_else(|| format!("no memory for {} bytes on their way to the GPU; {NEEDS_LESS}", bytes.len()));
        if let Some(staged) = self.noted(staged) {
            self.copy_words(buffer, Arg::Constant(&staged, 0), 1, values.len(), [0; 2], [0; 2]);
        }
    }

    fn read(&self, buffer: &MetalBuffer, len: usize) -> Result<Vec<f32>, BackendError> {
        let mut values = vec![0.0; len];
        if let (Some(memory), true) = (buffer.memory(), len > 0) {
            // One result at a time lies there.
            let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            let staged = self.staging(&mut results, len * size_of::<f32>())?;
            self.copy_words(staged, Arg::In(memory), 1, len, [0; 2], [0; 2]);
            self.finish()?;
            staged.buffer.copy_to(bytemuck::cast_slice_mut(&mut values));
        } else {
            self.finish()?;
        }
        Ok(values)
    }

    fn finish(&self) -> Result<(), BackendError> {
        match self.stream(|stream| stream.send()).map_err(error)? {
            Some(sent) => self.wait(sent),
            None => Ok(()),
        }
    }

    #[cfg(target_os = "macos")]
    fn capture(&self, path: &std::path::Path) -> Result<(), BackendError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = absolute.to_str().ok_or_else(|| error(format!("{}: not UTF-8", path.display())))?;
        objc::start_capture(&self.device.object, text).map_err(|reason| error(format!("{text}: {reason}")))?;
        self.captures.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn counters(&self) -> Option<Counters> {
        Some(self.stream(|stream| stream.counters))
    }

    fn argmax(&self, buffer: &MetalBuffer, len: usize) -> Result<(u32, f32), BackendError> {
        self.settle(choose::argmax(self, buffer, len)?)
    }

    fn argmax_ahead(&self, buffer: &MetalBuffer, len: usize) -> Result<Ahead, BackendError> {
        choose::argmax(self, buffer, len)
    }

    fn settle(&self, ahead: Ahead) -> Result<(u32, f32), BackendError> {
        choose::settle(self, ahead)
    }

    fn top_k(&self, buffer: &MetalBuffer, len: usize, k: usize) -> Result<Vec<(u32, f32)>, BackendError> {
        choose::top_k(self, buffer, len, k)
    }

    fn kv_cache(&self, layout: KvLayout) -> MetalKvCache {
        MetalKvCache::new(layout)
    }

    fn reserve_kv(&self, cache: &mut MetalKvCache, positions: usize) {
        if positions <= cache.capacity {
            return;
        }
        let (old, new) = (cache.capacity, grown_capacity(cache.capacity, positions).next_multiple_of(LEAST_CAPACITY));
        let memory = || self.device.private(cache.bytes(new));
        let layers = (0..cache.layout.layers).map(|_| Ok([memory()?, memory()?])).collect::<Result<Vec<_>, String>>();
        let Some(layers) = self.noted(layers) else { return };
        for (from, to) in cache.layers.iter().flatten().zip(layers.iter().flatten()) {
            for ((from_start, row), (to_start, _)) in cache.planes(old).into_iter().zip(cache.planes(new)) {
                // Positions of a head stand together: one long row a head.
                let [from_start, to_start, old, new] = [from_start, to_start, old * row, new * row].map(|n| n / 4);
                self.copy_words(to, Arg::In(from), cache.layout.kv_heads, old, [from_start, old], [to_start, new]);
            }
        }
        (cache.capacity, cache.layers) = (new, layers);
    }

    fn embed(&self, out: &mut MetalBuffer, table: &MetalWeight, ids: &[u32]) {
        memory!(out);
        // As many ids as fit into one argument.
        let most = objc::MAX_BYTES / size_of::<u32>();
        for (first, ids) in (0..).step_by(most).zip(ids.chunks(most)) {
            self.embed_rows(out, table, Arg::Bytes(cast_slice(ids)), first, ids.len());
        }
    }

    fn embed_ahead(&self, out: &mut MetalBuffer, table: &MetalWeight, ahead: &Ahead) {
        memory!(out);
        match (ahead, choose::found(self, ahead)) {
            (Ahead::Known(index, _), _) => self.embed_rows(out, table, Arg::Bytes(bytes_of(index)), 0, 1),
            (_, Some(found)) => self.embed_rows(out, table, Arg::In(&found), 0, 1),
            (_, None) => self.fail("a token that was settled before it was embedded".into()),
        }
    }

    fn rms_norm(&self, out: &mut MetalBuffer, x: &MetalBuffer, weight: &MetalWeight, eps: f32, rows: usize) {
        memory!(out, x);
        let shape = NormShape { columns: weight.columns as u32, eps };
        let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(out)];
        self.run(&RMS_NORM, &arguments, Grid::groups(rows, 1, 256));
    }

    fn head_norm(&self, x: &mut MetalBuffer, weight: &MetalWeight, eps: f32, rows: usize) {
        memory!(x);
        let shape = NormShape { columns: weight.columns as u32, eps };
        // A threadgroup reads its whole row before it writes the first value.
        let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(x)];
        self.run(&RMS_NORM, &arguments, Grid::groups(rows, 1, 256));
    }

    fn linear(&self, out: &mut MetalBuffer, x: &MetalBuffer, weight: &MetalWeight, rows: usize) {
        linear::linear(self, out, x, weight, rows);
    }

    fn linear_qkv(&self, out: [&mut MetalBuffer; 3], x: &MetalBuffer, weights: [&MetalWeight; 3], rows: usize) {
        match self.plain {
            true => plain::linear_qkv(self, out, x, weights, rows),
            false => linear::linear_qkv(self, out, x, weights, rows),
        }
    }

    fn linear_swiglu(
        &self,
        gate: &mut MetalBuffer,
        up: &mut MetalBuffer,
        x: &MetalBuffer,
        weights: [&MetalWeight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        match self.plain {
            true => plain::linear_swiglu(self, gate, up, x, weights, rows, intermediate),
            false => linear::linear_swiglu(self, gate, up, x, weights, rows, intermediate),
        }
    }

    fn linear_add(
        &self,
        x: &mut MetalBuffer,
        scratch: &mut MetalBuffer,
        y: &MetalBuffer,
        weight: &MetalWeight,
        rows: usize,
        features: usize,
    ) {
        match self.plain {
            true => plain::linear_add(self, x, scratch, y, weight, rows, features),
            false => linear::linear_add(self, x, scratch, y, weight, rows, features),
        }
    }

    fn norm_linear_qkv(
        &self,
        out: [&mut MetalBuffer; 3],
        h: &mut MetalBuffer,
        x: &MetalBuffer,
        norm: &MetalWeight,
        eps: f32,
        weights: [&MetalWeight; 3],
        rows: usize,
    ) {
        if !linear::norms_input(self, &weights, rows) {
            return plain::norm_linear_qkv(self, out, h, x, norm, eps, weights, rows);
        }
        linear::fused_qkv(self, out, x, Some((norm, eps)), weights);
    }

    fn norm_linear_swiglu(
        &self,
        out: [&mut MetalBuffer; 2],
        h: &mut MetalBuffer,
        x: &MetalBuffer,
        norm: &MetalWeight,
        eps: f32,
        weights: [&MetalWeight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        if !linear::norms_input(self, &weights, rows) {
            return plain::norm_linear_swiglu(self, out, h, x, norm, eps, weights, rows, intermediate);
        }
        linear::fused_swiglu(self, out[0], x, Some((norm, eps)), weights, intermediate);
    }

    fn add_bias(&self, x: &mut MetalBuffer, bias: &MetalWeight, rows: usize) {
        memory!(x);
        let len = [(rows * bias.columns) as u32, bias.columns as u32];
        let arguments = [Arg::Bytes(bytes_of(&len)), Arg::Out(x), bias.arg()];
        self.run(&ADD_BIAS, &arguments, Grid::threads(rows * bias.columns));
    }

    fn rope(&self, x: &mut MetalBuffer, cos_sin: &MetalBuffer, tokens: usize, heads: usize, head_dim: usize) {
        memory!(x, cos_sin);
        let pairs = tokens * heads * head_dim / 2;
        let shape = RopeShape { heads: heads as u32, head_dim: head_dim as u32, pairs: pairs as u32 };
        self.run(&ROPE, &[Arg::Bytes(bytes_of(&shape)), Arg::Out(x), Arg::In(cos_sin)], Grid::threads(pairs));
    }

    fn store_kv(&self, cache: &mut MetalKvCache, k: &MetalBuffer, v: &MetalBuffer, at: CachePosition) {
        let KvLayout { kv_heads, head_dim, dtype, .. } = cache.layout;
        for (x, memory) in [k, v].into_iter().zip(cache.layers.get(at.layer).into_iter().flatten()) {
            memory!(x);
            let [tokens, kv_heads_, head_dim_] = [at.tokens, kv_heads, head_dim].map(|n| n as u32);
            let [start, capacity] = [at.start, cache.capacity].map(|n| n as u32);
            let shape = StoreShape { tokens, kv_heads: kv_heads_, head_dim: head_dim_, start, capacity };
            self.encode(
                &by_kv_dtype!("store_kv.metal", "store_kv", dtype),
                &[Arg::Bytes(bytes_of(&shape)), Arg::In(x), Arg::Out(memory)],
                Grid::groups(kv_heads, at.tokens, 32),
            );
        }
    }

    fn norm_rope_store(
        &self,
        [q, k, v]: [&mut MetalBuffer; 3],
        norms: [&MetalWeight; 2],
        eps: f32,
        cos_sin: &MetalBuffer,
        cache: &mut MetalKvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        // The fused kernel keeps a pair's two halves in one lane, at most 8 of them, and a block of q8 in one row of lanes.
        let block = if cache.layout.dtype == KvDType::Q8 { 2 * TILE } else { 2 };
        let odd = heads.head_dim > 512 || !heads.head_dim.is_multiple_of(block);
        if self.plain || odd {
            return plain::norm_rope_store(self, [q, k, v], norms, eps, cos_sin, cache, heads, at);
        }
        memory!(q, k, v, cos_sin);
        let Some([keys, values]) = cache.layers.get(at.layer) else { return };
        let Heads { heads, kv_heads, head_dim } = heads;
        let groups = heads + 2 * kv_heads;
        let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|n| n as u32);
        let [start, capacity] = [at.start, cache.capacity].map(|n| n as u32);
        let shape = NormRopeStoreShape { heads, kv_heads, start, capacity, eps };
        let mut kernel = by_kv_dtype!("norm_rope_store.metal", "norm_rope_store", cache.layout.dtype);
        kernel.constants = vec![(0, objc::Value::Uint(head_dim))];
        self.encode(
            &kernel,
            &[
                Arg::Bytes(bytes_of(&shape)),
                Arg::Out(q),
                Arg::In(k),
                Arg::In(v),
                norms[0].arg(),
                norms[1].arg(),
                Arg::In(cos_sin),
                Arg::Out(keys),
                Arg::Out(values),
            ],
            Grid::groups(groups, at.tokens, 32),
        );
    }

    fn attention(&self, out: &mut MetalBuffer, q: &MetalBuffer, cache: &MetalKvCache, heads: Heads, at: CachePosition) {
        attention::attention(self, out, q, cache, heads, at);
    }

    fn swiglu(&self, gate: &mut MetalBuffer, up: &MetalBuffer, len: usize) {
        memory!(gate, up);
        self.run(&SWIGLU, &[Arg::Bytes(&(len as u32).to_le_bytes()), Arg::Out(gate), Arg::In(up)], Grid::threads(len));
    }

    // ANCHOR: add
    fn add(&self, x: &mut MetalBuffer, y: &MetalBuffer, len: usize) {
        memory!(x, y);
        self.run(&ADD, &[Arg::Bytes(&(len as u32).to_le_bytes()), Arg::Out(x), Arg::In(y)], Grid::threads(len));
    }
    // ANCHOR_END: add

    fn copy_rows(&self, out: &mut MetalBuffer, x: &MetalBuffer, first: usize, rows: usize, columns: usize) {
        memory!(out, x);
        self.copy_words(out, Arg::In(x), rows, columns, [first * columns, columns], [0, columns]);
    }
}
