//! Command buffers that come again and again, as CUDA graphs.
//!
//! A program that decodes text sends the same hundreds of dispatches for every token; only small arguments change, and
//! seldom a grid. Launching them one by one takes the processor longer than many of them take the GPU. So a command buffer
//! whose kernels came before in the same order, with the same barriers, becomes a graph: one launch for all, after what has
//! changed in it was set. The bytes of `setBytes` lie in memory that belongs to the graph, so that their addresses stay.
//!
//! Dispatches between two barriers are nodes side by side; each waits for all before the barrier. Where one kernel follows
//! one kernel, the second *starts early*: its blocks are put on the GPU while the first still runs, read the `setBytes`, which
//! no kernel writes, and wait there (`griddepcontrol.wait`, put into every kernel by [`with_early_start`]) until all that
//! the first has written can be seen. That takes a good part of the pause between the two away.

use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Edge, Handle, KernelNode, STARTS_EARLY};
use super::parameters::Parameters;
use super::{Event, Gpu, Staging};
use crate::executor::Pipeline;

/// A dispatch, ready for the driver.
pub struct Launch {
    /// Keeps the function.
    pub _pipeline: Arc<Pipeline>,
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub parameters: Parameters,
    /// Barriers before it.
    pub stage: u32,
    /// Whether what it takes as `constant` are `setBytes` alone, so that it may read them before other kernels have ended.
    pub may_start_early: bool,
}

// SAFETY: the handle is of a module that `_pipeline` keeps, and drivers' handles may be used from any thread.
unsafe impl Send for Launch {}

impl Launch {
    /// Whether it can take the other's place in a graph.
    fn fits(&self, other: &Launch) -> bool {
        self.function == other.function && self.stage == other.stage && self.may_start_early == other.may_start_early
    }

    fn is(&self, other: &Launch) -> bool {
        self.fits(other) && self.grid == other.grid && self.block == other.block && self.parameters == other.parameters
    }

    /// Calls `body` with what the driver wants to be told.
    fn node<R>(&self, body: impl FnOnce(&KernelNode) -> R) -> R {
        let mut pointers: Vec<*mut c_void> =
            self.parameters.values.iter().map(|value| (&raw const *value).cast_mut().cast()).collect();
        body(&KernelNode {
            function: self.function,
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
        self.node(|node| unsafe {
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

/// A graph, its instance and its nodes, in the order of the launches.
struct Graph {
    graph: Handle,
    instance: Handle,
    nodes: Vec<Handle>,
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
        let driver = self.gpu.enter()?;
        match &self.graph {
            None => self.graph = Some(self.build(&launches)?),
            Some(graph) => {
                for ((new, known), node) in launches.iter().zip(&self.launches).zip(&graph.nodes) {
                    if !new.is(known) {
                        // SAFETY: a node of this instance, whose launches are over; parameters are copied.
                        new.node(|kernel| unsafe { driver.set_kernel_node(graph.instance, *node, kernel) })?;
                    }
                }
            }
        }
        self.launches = launches;
        let instance = self.graph.as_ref().map_or(std::ptr::null_mut(), |graph| graph.instance);
        // SAFETY: an instance that lives until the stream is past it: `drop` waits.
        unsafe { driver.launch_graph(instance, self.gpu.stream) }
    }

    fn build(&self, launches: &[Launch]) -> Result<Graph, String> {
        let driver = self.gpu.enter()?;
        let mut built = Graph { graph: std::ptr::null_mut(), instance: std::ptr::null_mut(), nodes: Vec::new() };
        let result = (|| {
            // SAFETY: places for handles; nodes of this graph.
            unsafe { driver.create_graph(&mut built.graph, 0)? };
            let mut before = 0..0;
            for stage in launches.chunk_by(|a, b| a.stage == b.stage) {
                let first = built.nodes.len();
                for launch in stage {
                    let mut node = std::ptr::null_mut();
                    // SAFETY: as above; parameters are copied.
                    launch.node(|kernel| unsafe {
                        driver.add_kernel_node(&mut node, built.graph, std::ptr::null(), 0, kernel)
                    })?;
                    let from = &built.nodes[before.clone()];
                    let early = stage.len() == 1 && from.len() == 1 && launch.may_start_early;
                    let edges = vec![if early { STARTS_EARLY } else { Edge::default() }; from.len()];
                    if !from.is_empty() {
                        let to = vec![node; from.len()];
                        // SAFETY: as above; three arrays of this length.
                        unsafe {
                            driver.add_edges(built.graph, from.as_ptr(), to.as_ptr(), edges.as_ptr(), from.len())?;
                        }
                    }
                    built.nodes.push(node);
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

/// PTX whose kernel may be started before the kernel in front of it has ended: it reads no more than its parameters and
/// `constant` memory, which the parameters at `constants` point to, waits for it, and then lets the one behind it start. Without
/// an early start both instructions do nothing. Threads outside of the grid leave before that; one is always inside.
pub fn with_early_start(ptx: &str, constants: &[usize]) -> String {
    const LINES: &str = "\tgriddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;\n";
    // The label of the block that does nothing but return.
    let end = ptx.rfind("\tret;").and_then(|at| ptx[..at].rfind("\n$L").map(|label| &ptx[label + 1..at]));
    let end = end.and_then(|block| block.split_once(':')).filter(|(_, rest)| rest.lines().all(is_comment));
    let leaving = end.map(|(label, _)| format!("{label};"));
    let (mut text, mut inside, mut known) = (String::with_capacity(ptx.len() + 128), false, Vec::new());
    for line in ptx.split_inclusive('\n') {
        let instruction = line.trim();
        let leaves = |label: &String| instruction.contains("bra") && instruction.ends_with(label.as_str());
        if inside {
            // `ld.param.u64 %rd1, [entry_param_3];`: the register has the address of the fourth parameter's memory.
            if let Some((register, parameter)) =
                instruction.strip_prefix("ld.param.u64").and_then(|x| x.split_once(", ["))
            {
                let number = parameter.trim_end_matches("];").rsplit('_').next().and_then(|digits| digits.parse().ok());
                if number.is_some_and(|number| constants.contains(&number)) {
                    known.push(register.trim());
                }
            }
            if !is_harmless(instruction, &known) && !leaving.as_ref().is_some_and(leaves) {
                text += LINES;
                inside = false;
            }
        }
        text += line;
        inside |= line.trim_end() == "{";
    }
    text
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.trim().starts_with("//")
}

/// Declarations, and instructions that leave memory alone or read it at one of these registers.
fn is_harmless(line: &str, constant: &[&str]) -> bool {
    const ARITHMETIC: [&str; 23] = [
        "ld.param.",
        "mov.",
        "cvta.",
        "cvt.",
        "add.",
        "sub.",
        "mul.",
        "mad.",
        "div.",
        "rem.",
        "shl.",
        "shr.",
        "and.",
        "or.",
        "xor.",
        "not.",
        "neg.",
        "min.",
        "max.",
        "setp.",
        "selp.",
        "bfe.",
        "prmt.",
    ];
    let reads = line.strip_prefix("ld.global.").and_then(|rest| rest.split_once('['));
    let register = reads.and_then(|(_, address)| address.split([']', '+', '-']).next());
    is_comment(line)
        || line.starts_with('.')
        || ARITHMETIC.iter().any(|start| line.starts_with(start))
        || register.is_some_and(|register| constant.contains(&register))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_waits_before_it_looks_at_what_others_write() {
        let ptx = ".visible .entry k(\n\t.param .u64 k_param_0\n)\n{\n\t.reg .b32 \t%r<2>;\n\n// %bb.0:\n\tld.param.u64 %rd1, [k_param_0];\n\
                   \t@%p1 bra \t$L1;\n// %bb.1:\n\tld.global.nc.u32 %r1, [%rd1];\n\tsetp.eq.s32 %p1, %r1, 0;\n\
                   \t@%p1 bra $L0;\n\tld.global.u32 %r2, [%rd2];\n$L0:\n\tst.global.u32 [%rd3], %r2;\n$L1:  // the end\n\tret;\n}\n";
        let place = |text: &str, what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
        let text = with_early_start(ptx, &[0, 2]);
        let wait = place(&text, "griddepcontrol.wait;");
        // Behind the leaving of threads that are too many, and `constant` memory; before a branch that another path joins.
        assert!(place(&text, "ld.global.nc") < wait && wait < place(&text, "bra $L0"), "{text}");
        assert_eq!(text.matches("griddepcontrol").count(), 2, "{text}");
        let text = with_early_start(ptx, &[1]);
        assert!(place(&text, "griddepcontrol.wait;") < place(&text, "ld.global.nc"), "{text}");
        let text = with_early_start(&ptx.replace("\tret;", "\tst.global.u32 [%rd3], %r2;\n\tret;"), &[0]);
        assert!(place(&text, "griddepcontrol.wait;") < place(&text, "bra \t$L1"), "{text}");
    }
}
