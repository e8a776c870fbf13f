//! How strongly a text uses each column of each matrix; see [`crate::weights::quantize::Importance`].

use super::engine::{Engine, EngineOptions, WithBackend};
use super::error::SessionError;
use crate::backend::Backend;
use crate::backend::collect::Collect;
use crate::backend::observed::Observed;
use crate::model::kv_cache::KvDType;
use crate::model::qwen3::{LogitsFor, Qwen3};
use crate::weights::gguf::names;
use crate::weights::quantize::ColumnSums;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

impl Engine {
    /// Runs `ids` in chunks of `chunk` tokens, each from an empty context, and sums up what goes into every matrix, under the
    /// names that GGUF gives them. `progress(tokens done, tokens in all)` is called between chunks and can stop.
    pub fn collect_importance(
        &self,
        options: &EngineOptions,
        ids: &[u32],
        chunk: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<BTreeMap<String, ColumnSums>, SessionError> {
        self.check(ids, usize::MAX)?;
        let chunk = chunk.clamp(1, self.config().max_context());
        options.with_backend(CollectOn { engine: self, ids, chunk, progress })
    }
}

/// Watches the inputs of the matrices on a backend.
struct CollectOn<'a> {
    engine: &'a Engine,
    ids: &'a [u32],
    chunk: usize,
    progress: &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>,
}

impl WithBackend for CollectOn<'_> {
    type Out = BTreeMap<String, ColumnSums>;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Out, SessionError> {
        let Self { engine, ids, chunk, progress } = self;
        let model =
            Qwen3::load(Observed::new(backend, Collect::default()), engine.config().clone(), engine.checkpoint())?;
        let mut state = model.state(KvDType::F16);
        for (i, part) in ids.chunks(chunk).enumerate() {
            if progress(i * chunk, ids.len()).is_break() {
                return Err(SessionError::Interrupted { done: i * chunk, total: ids.len() });
            }
            state.truncate(0);
            // Every token's state goes through the head, which is a matrix like the others.
            model.append(&mut state, part, LogitsFor::All, None)?;
        }
        let sums = model.backend().observer().take_sums().into_iter().filter_map(|(name, sums)| {
            let squares = sums.squares.iter().map(|&sum| sum as f32).collect();
            Some((names::to_gguf(&name)?, ColumnSums { squares, rows: sums.rows }))
        });
        Ok(sums.collect())
    }
}
