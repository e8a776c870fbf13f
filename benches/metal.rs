//! Linear layers of the Metal backend at Qwen3-0.6B's shapes, one row of input: microseconds, GB/s of weights, and the share of
//! what copying memory reaches on the same device in the same run.
//!
//! `cargo bench --bench metal` on a Mac; with `--features metal-standin` through the stand-in. `-- --smoke` does little of it, to
//! see that it runs, and `-- --once` all of it, once, for what it asks of a compiler; `-- --json` prints the same as JSON; words
//! choose rows by name (`head`, `q8_0`).
//!
//! Every layer is there in as many copies as are beyond all caches, and each dispatch waits for the one before, as in decoding.
//! Times are of many dispatches in one command buffer.

#[cfg(not(any(target_os = "macos", feature = "metal-standin")))]
fn main() {
    eprintln!("there is no Metal here; with --features metal-standin the stand-in takes its place");
}

#[cfg(any(target_os = "macos", feature = "metal-standin"))]
fn main() {
    bench::main();
}

#[cfg(any(target_os = "macos", feature = "metal-standin"))]
mod bench {
    use failed_star::backend::Backend;
    use failed_star::backend::metal::{Metal, MetalWeight};
    use failed_star::weights::{DType, SharedBytes, Tensor};

    const FORMATS: [DType; 8] =
        [DType::BF16, DType::F16, DType::F32, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q5K, DType::Q6K];

    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Linear,
        Add,
        Qkv,
        SwiGlu,
    }

    /// A layer's name, its weights' output features, its input features.
    const LAYERS: [(&str, Kind, &[usize], usize); 5] = [
        ("qkv", Kind::Qkv, &[2048, 1024, 1024], 1024),
        ("o", Kind::Add, &[1024], 2048),
        ("gate_up", Kind::SwiGlu, &[3072, 3072], 1024),
        ("down", Kind::Add, &[1024], 3072),
        ("head", Kind::Linear, &[151_936], 1024),
    ];

    /// Codes do not change the time; scales are 0x3c3c (about 1), so that no number is subnormal.
    fn tensor(dtype: DType, features: usize, columns: usize) -> Tensor {
        let bytes = vec![0x3c; dtype.bytes(features * columns).expect("whole blocks")];
        let data = SharedBytes::from_vec(bytes).aligned();
        let shape = if features == 1 { vec![columns] } else { vec![features, columns] };
        Tensor { name: "bench".into(), dtype, shape, data, file: "bench".into(), offset: 0 }
    }

    /// Seconds of device time a dispatch, the least of a few times.
    fn time(
        metal: &Metal,
        kind: Kind,
        layers: &[Vec<MetalWeight>],
        features: &[usize],
        columns: usize,
        rounds: usize,
        times: usize,
    ) -> f64 {
        let mut x = metal.buffer(columns);
        metal.write(&mut x, &vec![0.001; columns]);
        let norm = metal.load(&tensor(DType::F32, 1, columns)).expect("there is memory");
        let mut h = metal.buffer(columns);
        let mut outs = [0; 3].map(|_| metal.buffer(*features.iter().max().unwrap()));
        let mut best = f64::INFINITY;
        for _ in 0..times {
            metal.finish().expect("nothing failed");
            let before = metal.counters().unwrap();
            for layer in (0..rounds).flat_map(|_| layers) {
                let [a, b, c] = &mut outs;
                match kind {
                    Kind::Linear => metal.linear(a, &x, &layer[0], 1),
                    Kind::Add => metal.linear_add(a, b, &x, &layer[0], 1, features[0]),
                    Kind::Qkv => {
                        metal.norm_linear_qkv([a, b, c], &mut h, &x, &norm, 1e-6, [&layer[0], &layer[1], &layer[2]], 1)
                    }
                    Kind::SwiGlu => {
                        let weights = [&layer[0], &layer[1]];
                        metal.norm_linear_swiglu([a, b], &mut h, &x, &norm, 1e-6, weights, 1, features[0])
                    }
                }
            }
            metal.finish().expect("the kernels ran");
            let after = metal.counters().unwrap();
            let count = rounds * layers.len();
            assert_eq!((after.dispatches - before.dispatches) as usize, count, "one dispatch a layer");
            best = best.min((after.device_seconds - before.device_seconds) / count as f64);
        }
        best
    }

    pub fn main() {
        let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        let (smoke, json) = (words.iter().any(|word| word == "--smoke"), words.iter().any(|word| word == "--json"));
        let once = words.iter().any(|word| word == "--once");
        let chosen: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
        let metal = Metal::new(false).expect("a device");
        let device = metal.report().name;
        // Beyond every cache: 256 MB, twice.
        let copy = metal.copy_bandwidth(if smoke { 1 << 16 } else { 256 << 20 }).expect("copying works");
        let mut rows = Vec::new();
        if !json {
            println!("{device}: copying moves {:.1} GB/s\n", copy / 1e9);
            println!("{:<9} {:<6} {:>9} {:>9} {:>9} {:>7}", "layer", "format", "MB", "us", "GB/s", "of copy");
        }
        for (name, kind, features, columns) in LAYERS {
            for dtype in FORMATS {
                let format = dtype.to_string();
                // Words are names of layers or of formats; of each kind, none means all.
                let wanted = |word: &str, known: &[String]| {
                    let mut of_kind = chosen.iter().filter(|chosen| known.contains(chosen)).peekable();
                    of_kind.peek().is_none() || of_kind.any(|chosen| *chosen == word)
                };
                let names = LAYERS.map(|layer| layer.0.to_string());
                if !wanted(name, &names) || !wanted(&format, &FORMATS.map(|dtype| dtype.to_string())) {
                    continue;
                }
                let features: Vec<usize> = features.iter().map(|n| if smoke { n / 64 } else { *n }).collect();
                let total: usize = features.iter().map(|n| dtype.bytes(n * columns).unwrap()).sum();
                let copies = if smoke || once { 1 } else { (160_usize << 20).div_ceil(total) };
                let rounds = if smoke || once { 1 } else { (600_usize << 20).div_ceil(copies * total) };
                let tensors: Vec<Tensor> = features.iter().map(|n| tensor(dtype, *n, columns)).collect();
                let load = |tensor: &Tensor| metal.load(tensor).expect("there is memory");
                let layers: Vec<Vec<MetalWeight>> = (0..copies).map(|_| tensors.iter().map(load).collect()).collect();
                let times = if smoke || once { 1 } else { 5 };
                let seconds = time(&metal, kind, &layers, &features, columns, rounds, times);
                let speed = total as f64 / seconds;
                if !json {
                    println!(
                        "{name:<9} {format:<6} {:>9.3} {:>9.2} {:>9.1} {:>6.1}%",
                        total as f64 / 1e6,
                        seconds * 1e6,
                        speed / 1e9,
                        speed / copy * 100.0
                    );
                }
                rows.push(serde_json::json!({
                    "layer": name, "format": format, "features": features, "columns": columns, "bytes": total,
                    "seconds": seconds, "bytes_per_second": speed, "share_of_copy": speed / copy,
                }));
            }
        }
        if json {
            let all = serde_json::json!({ "device": device, "copy_bytes_per_second": copy, "layers": rows });
            println!("{}", serde_json::to_string_pretty(&all).expect("numbers and names"));
        }
    }
}
