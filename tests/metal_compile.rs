//! Every kernel compiles. This needs no GPU that could run them, and so it is what a Mac without one (a hosted runner's is
//! virtual, and of an older family) can say about Apple's compiler.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

use failed_star::backend::metal::Metal;

#[test]
fn every_file_of_kernels_compiles() {
    assert_eq!(Metal::compile_all().unwrap(), 19);
}
