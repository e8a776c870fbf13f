//! What is checked.

/// Memory that a dispatch may access.
pub struct Region {
    pub start: usize,
    pub size: usize,
    pub space: u32,
    pub label: String,
    pub writable: bool,
    pub allocation: Option<u64>,
}

/// Shadow state.
#[derive(Default)]
pub struct Checks {}

impl Checks {
    pub fn new() -> Checks {
        Checks {}
    }
    pub fn begin_span(&mut self) {}
    pub fn begin_dispatch(&mut self, _kernel: &str, _regions: Vec<Region>) {}
    pub fn begin_threadgroup(&mut self, _position: [u32; 3]) {}
    pub fn forget(&mut self, _allocation: u64) {}
    pub fn threadgroup_barrier(&mut self, _flags: u32) {}

    pub fn simdgroup_barrier(&mut self, _simdgroup: usize, _flags: u32) {}

    pub fn access(&mut self, _thread: usize, _at: usize, _size: usize, _kind: u32, _line: u32) -> Result<(), String> {
        Ok(())
    }
}
