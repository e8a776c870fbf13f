//! Command buffers that come again and again, as CUDA graphs.
//!
//! A program that decodes text sends the same hundreds of dispatches for every token; only small arguments change, and
//! seldom a grid. Launching them one by one takes the processor longer than many of them take the GPU. So a command buffer
//! whose kernels came before in the same order, with the same barriers, becomes a graph: one launch for all, after what has
//! changed in it was set. The bytes of `setBytes` lie in memory that belongs to the graph, so that their addresses stay.
//!
//! Dispatches between two barriers are nodes side by side; each waits for all before the barrier. They *start early*: their blocks
//! are put on the GPU while those in front still run, read what no kernel of the command buffer writes (`setBytes`, weights), and
//! wait where they need more (`early.rs`). That takes the pause between two kernels away, and much of the time that weights take.

use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Edge, Handle, KernelNode, STARTS_EARLY};
use super::parameters::Parameters;
use super::{Event, Gpu, Loaded, Staging};
use crate::executor::Pipeline;

/// A dispatch, ready for the driver.
pub struct Launch {
    /// What runs: an executor's own, [`Loaded`].
    pub pipeline: Arc<Pipeline>,
    /// Its function, or in a graph the one that starts early.
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub parameters: Parameters,
    /// Barriers before it.
    pub stage: u32,
    /// What each parameter points to.
    pub memory: Vec<Pointee>,
}

/// What a parameter points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointee {
    /// Nothing: it is no buffer.
    None,
    /// What `setBytes` gave.
    Bytes,
    /// The allocation of this number.
    Allocation(u64),
}

// SAFETY: the handle is of a module that `pipeline` keeps, and drivers' handles may be used from any thread.
unsafe impl Send for Launch {}

impl Launch {
    /// Whether it can take the other's place in a graph.
    fn fits(&self, other: &Launch) -> bool {
        self.function == other.function && self.stage == other.stage
    }

    fn is(&self, other: &Launch) -> bool {
        self.fits(other) && self.grid == other.grid && self.block == other.block && self.parameters == other.parameters
    }

    fn loaded(&self) -> Result<&Loaded, String> {
        self.pipeline.prepared.downcast_ref().ok_or_else(|| "a pipeline of another executor".into())
    }

    /// Calls `body` with what the driver wants to be told.
    fn node<R>(&self, function: Handle, body: impl FnOnce(&KernelNode) -> R) -> R {
        let mut pointers: Vec<*mut c_void> =
            self.parameters.values.iter().map(|value| (&raw const *value).cast_mut().cast()).collect();
        body(&KernelNode {
            function,
            grid: self.grid,
            block: self.block,
            shared_bytes: self.parameters.shared,
            parameters: pointers.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kernel: std::ptr::null_mut(),
            context: std::ptr::null_mut(),
        })
    }

    /// Puts it on the stream.
    pub fn launch(&self, gpu: &Gpu) -> Result<(), String> {
        let driver = gpu.enter()?;
        // SAFETY: the function is loaded and takes these parameters, which the driver copies before it returns.
        self.node(self.function, |node| unsafe {
            let ([x, y, z], [i, j, k]) = (node.grid, node.block);
            let (shared, none) = (node.shared_bytes, std::ptr::null_mut());
            driver.launch(node.function, x, y, z, i, j, k, shared, gpu.stream, node.parameters, none)
        })
    }
}

/// A command buffer's launches, and the graph that they were made, if they came twice.
pub struct Program {
    gpu: Arc<Gpu>,
    /// Where its `setBytes` lie.
    pub staging: Staging,
    /// When those have arrived.
    pub copied: Event,
    launches: Vec<Launch>,
    graph: Option<Graph>,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Program {}

/// A graph, its instance, and its nodes with their functions, in the order of the launches.
struct Graph {
    graph: Handle,
    instance: Handle,
    nodes: Vec<Handle>,
    functions: Vec<Handle>,
    /// Of each launch, the parameters whose memory no launch writes.
    constant: Vec<u64>,
}

/// Of each launch, the parameters (bit `i`: number `i`) whose memory none of them writes.
fn constant_parameters(launches: &[Launch]) -> Result<Vec<u64>, String> {
    let mut written = HashSet::new();
    for launch in launches {
        let mask = launch.loaded()?.written;
        for (number, pointee) in launch.memory.iter().enumerate() {
            if let Pointee::Allocation(id) = pointee
                && (number >= 63 || mask >> number & 1 == 1)
            {
                written.insert(*id);
            }
        }
    }
    let is_constant = |pointee: &Pointee| match pointee {
        Pointee::None => false,
        Pointee::Bytes => true,
        Pointee::Allocation(id) => !written.contains(id),
    };
    let mask = |launch: &Launch| {
        let numbered = launch.memory.iter().take(63).enumerate();
        numbered.fold(0, |mask, (number, pointee)| mask | u64::from(is_constant(pointee)) << number)
    };
    Ok(launches.iter().map(mask).collect())
}

impl Program {
    /// With room for so many bytes of `setBytes`.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Program, String> {
        let staging = Staging::new(gpu, bytes.next_power_of_two().max(16 << 10))?;
        Ok(Program { gpu: gpu.clone(), staging, copied: Event::new(gpu, false)?, launches: Vec::new(), graph: None })
    }

    /// Whether these kernels came last time, in this order.
    pub fn fits(&self, functions: &[(Handle, u32)]) -> bool {
        self.launches.len() == functions.len()
            && self.launches.iter().zip(functions).all(|(known, new)| (known.function, known.stage) == *new)
    }

    /// Puts the launches on the stream, as a graph if they fit those of last time.
    pub fn run(&mut self, launches: Vec<Launch>) -> Result<(), String> {
        /// A graph costs more than these few launches.
        const FEW: usize = 8;
        let again = launches.len() == self.launches.len()
            && launches.iter().zip(&self.launches).all(|(new, known)| new.fits(known));
        if !again || launches.len() < FEW {
            self.forget_graph();
            self.launches = launches;
            return self.launches.iter().try_for_each(|launch| launch.launch(&self.gpu));
        }
        let moved = launches.iter().zip(&self.launches).any(|(new, known)| new.memory != known.memory);
        if moved
            && let Some(graph) = &self.graph
            && constant_parameters(&launches)? != graph.constant
        {
            self.forget_graph();
        }
        let driver = self.gpu.enter()?;
        match &self.graph {
            // Drivers that know no early start, or not of several kernels at once, say so now.
            None => {
                let early = std::env::var_os("METAL_STANDIN_EARLY").is_none_or(|value| value != "0");
                self.graph = Some(self.build(&launches, early).or_else(|_| self.build(&launches, false))?);
            }
            Some(graph) => {
                let nodes = graph.nodes.iter().zip(&graph.functions);
                for ((new, known), (node, function)) in launches.iter().zip(&self.launches).zip(nodes) {
                    if !new.is(known) {
                        // SAFETY: a node of this instance, whose launches are over; parameters are copied.
                        new.node(*function, |kernel| unsafe { driver.set_kernel_node(graph.instance, *node, kernel) })?;
                    }
                }
            }
        }
        self.launches = launches;
        let instance = self.graph.as_ref().map_or(std::ptr::null_mut(), |graph| graph.instance);
        // SAFETY: an instance that lives until the stream is past it: `drop` waits.
        unsafe { driver.launch_graph(instance, self.gpu.stream) }
    }

    fn build(&self, launches: &[Launch], early: bool) -> Result<Graph, String> {
        let driver = self.gpu.enter()?;
        let null = std::ptr::null_mut();
        let constant = constant_parameters(launches)?;
        let mut built = Graph { graph: null, instance: null, nodes: Vec::new(), functions: Vec::new(), constant };
        let result = (|| {
            // SAFETY: places for handles; nodes of this graph.
            unsafe { driver.create_graph(&mut built.graph, 0)? };
            let mut before = 0..0;
            for stage in launches.chunk_by(|a, b| a.stage == b.stage) {
                let first = built.nodes.len();
                for launch in stage {
                    let mut node = std::ptr::null_mut();
                    let waiting = match early {
                        true => launch.loaded()?.waiting(built.constant[built.nodes.len()])?,
                        false => None,
                    };
                    let (function, early) = (waiting.unwrap_or(launch.function), waiting.is_some());
                    // SAFETY: as above; parameters are copied.
                    launch.node(function, |kernel| unsafe {
                        driver.add_kernel_node(&mut node, built.graph, std::ptr::null(), 0, kernel)
                    })?;
                    let from = &built.nodes[before.clone()];
                    let edges = vec![if early { STARTS_EARLY } else { Edge::default() }; from.len()];
                    if !from.is_empty() {
                        let to = vec![node; from.len()];
                        // SAFETY: as above; three arrays of this length.
                        unsafe {
                            driver.add_edges(built.graph, from.as_ptr(), to.as_ptr(), edges.as_ptr(), from.len())?;
                        }
                    }
                    built.nodes.push(node);
                    built.functions.push(function);
                }
                before = first..built.nodes.len();
            }
            // SAFETY: as above.
            unsafe { driver.instantiate_graph(&mut built.instance, built.graph, 0) }
        })();
        match result {
            Ok(()) => Ok(built),
            Err(why) => {
                self.destroy(built);
                Err(why)
            }
        }
    }

    fn forget_graph(&mut self) {
        if let Some(graph) = self.graph.take() {
            self.destroy(graph);
        }
    }

    fn destroy(&self, Graph { graph, instance, .. }: Graph) {
        let Ok(driver) = self.gpu.enter() else { return };
        // SAFETY: made by `build`, destroyed once, when the stream is past it. A broken context may refuse.
        unsafe {
            let _ = driver.synchronize_stream(self.gpu.stream);
            if !instance.is_null() {
                let _ = driver.destroy_instance(instance);
            }
            if !graph.is_null() {
                let _ = driver.destroy_graph(graph);
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.forget_graph();
    }
}
