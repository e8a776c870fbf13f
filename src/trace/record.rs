//! The observer that writes operations down.

use super::{Bytes, Operation, TraceOptions, Values};
use crate::backend::observed::{Call, Observer, Operand};
use crate::backend::reference::attention::attention_weights;
use crate::backend::{Backend, BackendError, CachePosition, Heads};
use crate::model::kv_cache::{HostKvCache, KvLayout};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What moves data between a device and the host, and is no operation of the model.
const SERVICES: [&str; 6] = ["buffer", "write", "read", "finish", "argmax", "reserve_kv"];

/// Writes down what runs.
pub struct Recorder {
    options: TraceOptions,
    heads: Heads,
    state: Mutex<State>,
}

struct State {
    operations: Vec<Operation>,
    /// Tokens that the operations work on.
    tokens: usize,
    /// The block that they belong to.
    layer: Option<usize>,
    /// The keys that attention reads, rounded as the backend's own cache rounds them: attention gives its result and keeps its
    /// weights to itself, so they are computed once more.
    cache: HostKvCache,
}

impl Recorder {
    /// For a model with these heads and this cache.
    pub fn new(options: TraceOptions, heads: Heads, layout: KvLayout) -> Self {
        let state = State { operations: Vec::new(), tokens: 0, layer: None, cache: HostKvCache::new(layout) };
        Self { options, heads, state: Mutex::new(state) }
    }

    /// What has been written down since the last call.
    pub fn take_operations(&self) -> Vec<Operation> {
        std::mem::take(&mut self.state().operations)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Statistics of `values`, and the first values of the recorded tokens, of which each has an equal part.
    fn sample(&self, values: &[f32], tokens: usize) -> Values {
        let width = values.len() / tokens.max(1);
        let rows = values.chunks_exact(width.max(1)).skip(tokens - self.options.rows.count(tokens));
        let rows = rows.map(|row| row[..width.min(self.options.values)].to_vec()).collect();
        let count = values.len().max(1) as f64;
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        Values {
            rows,
            min: values.iter().copied().fold(f32::INFINITY, f32::min),
            max: values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            mean: sum / count,
            rms: (squares / count).sqrt(),
        }
    }

    /// `[rows][heads][positions]`; `q: [tokens, heads, head_dim]`.
    fn attention(&self, cache: &HostKvCache, q: &[f32], at: CachePosition) -> Vec<Vec<Vec<f32>>> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let row = |token: usize| {
            let head = |head: usize| {
                let query = &q[(token * heads + head) * head_dim..][..head_dim];
                let mut weights = vec![0.0; at.start + token + 1];
                attention_weights(&mut weights, query, cache, at.layer, head / (heads / kv_heads));
                weights
            };
            (0..heads).map(head).collect()
        };
        (at.tokens - self.options.rows.count(at.tokens)..at.tokens).map(row).collect()
    }
}

impl<B: Backend> Observer<B> for Recorder {
    const PLAIN: bool = true;

    fn ran(&self, backend: &B, call: Call<'_, B>) -> Result<(), BackendError> {
        if SERVICES.contains(&call.operation) {
            return Ok(());
        }
        let mut state = self.state();
        let tensor = call.tensors.first();
        match (call.operation, tensor, call.at) {
            (_, _, Some(at)) => state.layer = Some(at.layer),
            (_, Some(tensor), _) => state.layer = layer_of(&tensor.name),
            ("copy_rows", ..) => state.layer = None,
            // What has no tensor follows what has one.
            _ => {}
        }
        if let ("embed" | "copy_rows", [out]) = (call.operation, call.outputs) {
            state.tokens = out.1[0];
        }
        // Operations on flat buffers do not know whose values these are; everything is some values a token.
        let shape = |operand: &Operand<'_, B>| {
            let [rows, columns] = operand.1;
            [state.tokens, rows * columns / state.tokens.max(1)]
        };
        let count = |operands: &[Operand<'_, B>]| operands.iter().map(|o| 4 * (o.1[0] * o.1[1]) as u64).sum::<u64>();
        let in_place = if call.in_place { count(&call.outputs[..1]) } else { 0 };
        let mut operation = Operation {
            operation: call.operation,
            layer: state.layer,
            tensor: tensor.map(|tensor| tensor.name.clone()),
            dtype: tensor.map(|tensor| tensor.dtype.name()),
            weights: tensor.map(|tensor| tensor.shape.clone()).unwrap_or_default(),
            inputs: call.inputs.iter().map(shape).collect(),
            outputs: call.outputs.iter().map(shape).collect(),
            in_place: call.in_place,
            bytes: Bytes {
                weights: call.work.weight_bytes as u64,
                kv_read: call.work.kv_read as u64,
                kv_written: call.work.kv_written as u64,
                activations_read: count(call.inputs) + in_place,
                activations_written: count(call.outputs),
            },
            flop: call.work.flop as u64,
            seconds: call.cost.seconds,
            values: None,
            attention: Vec::new(),
        };
        if self.options.operations && self.options.values > 0 {
            if let [out, ..] = call.outputs {
                operation.values = Some(self.sample(&out.read(backend)?, state.tokens));
            }
            match (call.operation, call.inputs, call.at) {
                ("store_kv", [k, v], Some(at)) => {
                    state.cache.reserve(at.start + at.tokens);
                    state.cache.store(at.layer, at.start, at.tokens, &k.read(backend)?, &v.read(backend)?);
                }
                ("attention", [q], Some(at)) => {
                    operation.attention = self.attention(&state.cache, &q.read(backend)?, at)
                }
                _ => {}
            }
        }
        state.operations.push(operation);
        Ok(())
    }
}

/// The number in `model.layers.3.mlp.up_proj.weight`.
fn layer_of(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}
