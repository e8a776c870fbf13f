//! The CPU executor, on kernels written in C++ with clang's address spaces, as the compiler's output would be.

mod common;

use common::Kernel;
use metal_standin::cpu::Options;

/// Sums each threadgroup's elements through threadgroup memory, with a tree.
const TREE: &str = "
KERNEL(tree) {
    device float *in = BUFFER(device float, 0);
    device float *out = BUFFER(device float, 1);
    static threadgroup float part[128];
    uint lid = t->index;
    part[lid] = in[t->grid[0]];
    barrier();
    for (uint n = 64; n > 0; n /= 2) {
        if (lid < n) part[lid] += part[lid + n];
        barrier();
    }
    if (lid == 0) out[t->group[0]] = part[0];
}";

fn tree_input() -> Vec<f32> {
    (0..512).map(|i| (i % 37) as f32).collect()
}

#[test]
fn fibers_meet_at_barriers() {
    let bench = common::Bench::new(Options::default());
    let kernel = Kernel::new(&bench, "tree", TREE);
    let input = bench.shared(&tree_input());
    let output = bench.shared(&[0_f32; 4]);
    bench.run(vec![kernel.dispatch(&[&input, &output], [512, 1, 1], [128, 1, 1])]).unwrap();
    let expected: Vec<f32> = tree_input().chunks(128).map(|part| part.iter().sum()).collect();
    assert_eq!(output.read::<f32>(), expected);
}
