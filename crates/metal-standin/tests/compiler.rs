//! Programs that must compile, and what they become.

#![cfg(not(target_os = "macos"))]

use metal_standin::compiler::{ArgumentKind, ConstantValue, Kernel, Library, Source, Target};

fn source(text: &str) -> Source {
    let text = format!("#include <metal_stdlib>\nusing namespace metal;\n{text}\n");
    Source { text, language_version: 0x3_0001, macros: Vec::new(), fast_math: true }
}

fn library(text: &str) -> Library {
    Library::compile(&source(text)).unwrap_or_else(|error| panic!("{error}"))
}

fn build(library: &Library, name: &str, constants: &[(u32, ConstantValue)], target: Target) -> (Kernel, String) {
    let kernel = library.build(name, constants, target).unwrap_or_else(|error| panic!("{error}"));
    let code = std::fs::read_to_string(&*kernel.code).unwrap();
    (kernel, code)
}

#[test]
fn arguments_and_names() {
    let library = library(
        "struct Args { uint n; float scale; };\n\
         template <typename T, int N> kernel void scale(constant Args &args [[buffer(2)]], device const T *x, device T *y,\n\
             threadgroup T *shared [[threadgroup(0)]], uint3 at [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]) {\n\
             shared[lane] = x[at.x * N]; y[at.x] = T(shared[lane] * args.scale); }\n\
         typedef decltype(scale<float, 1>) scale_t;\n\
         template [[host_name(\"scale_f32\")]] kernel scale_t scale<float, 1>;\n\
         template [[host_name(\"scale_f16\")]] kernel decltype(scale<half, 2>) scale<half, 2>;\n\
         [[kernel, max_total_threads_per_threadgroup(256)]] void plain(device int *x, uint i [[thread_position_in_grid]]) { x[i] = i; }",
    );
    let mut names = library.function_names();
    names.sort();
    assert_eq!(names, ["plain", "scale_f16", "scale_f32"]);
    for target in [Target::Cpu, Target::Nvidia] {
        let (kernel, _) = build(&library, "scale_f16", &[], target);
        let arguments: Vec<_> = kernel.arguments.iter().map(|a| (&*a.name, a.kind, a.index)).collect();
        // Implicit indices take what is free, in order.
        let wanted = [
            ("args", ArgumentKind::Constant, 2),
            ("x", ArgumentKind::Device, 0),
            ("y", ArgumentKind::Device, 1),
            ("shared", ArgumentKind::Threadgroup, 0),
        ];
        assert_eq!(arguments, wanted);
        assert_eq!(kernel.max_threads, 1024);
    }
    assert_eq!(build(&library, "plain", &[], Target::Cpu).0.max_threads, 256);
    assert!(library.build("absent", &[], Target::Cpu).is_err());
}

#[test]
fn function_constants() {
    let library = library(
        "constant bool wide [[function_constant(3)]];\n\
         constant int stride [[function_constant(4)]];\n\
         constant int both = is_function_constant_defined(stride) ? stride * 2 : 1;\n\
         kernel void k(device int *x [[buffer(0)]], device int *y [[buffer(1), function_constant(wide)]], uint i [[thread_position_in_grid]]) {\n\
             x[i] = wide ? 77 : both; }\n\
         kernel void other(device int *x [[buffer(0)]]) { x[0] = 1; }",
    );
    let names: Vec<_> = library.function_constants("k").into_iter().map(|c| (c.name, c.index, c.type_name)).collect();
    assert_eq!(names, [("wide".into(), 3, "bool".into()), ("stride".into(), 4, "int".to_string())]);
    assert!(library.function_constants("other").is_empty());
    let (kernel, code) = build(&library, "k", &[(3, ConstantValue::Bool(true))], Target::Cpu);
    assert!(code.contains("store i32 77") && kernel.arguments.len() == 2, "{code}");
    let set = [(3, ConstantValue::Bool(false)), (4, ConstantValue::Int(21))];
    let (kernel, code) = build(&library, "k", &set, Target::Cpu);
    assert!(code.contains("store i32 42") && kernel.arguments.len() == 1, "{code}");
    let (_, code) = build(&library, "k", &[(3, ConstantValue::Bool(false))], Target::Cpu);
    assert!(code.contains("store i32 1,"), "{code}");
    let error = library.build("k", &[], Target::Cpu).unwrap_err().to_string();
    assert!(error.contains("'wide' (index 3)"), "{error}");
}

#[test]
fn fast_math_is_a_choice() {
    let mut program = source(
        "kernel void k(device float *x [[buffer(0)]]) { x[0] = (x[1] + x[2]) + x[3]; x[4] = isnan(x[5]) ? 1.0f : x[6] - x[6]; x[7] = -INFINITY; }",
    );
    let fast = Library::compile(&program).unwrap();
    let (_, code) = build(&fast, "k", &[], Target::Cpu);
    assert!(code.contains("fadd reassoc"), "{code}");
    // NaN and infinity are kept in both: kernels mask with -INFINITY.
    assert!(code.contains("fcmp") && code.contains("0xFFF0000000000000") && !code.contains("nnan"), "{code}");
    program.fast_math = false;
    let exact = Library::compile(&program).unwrap();
    let (_, code) = build(&exact, "k", &[], Target::Cpu);
    assert!(!code.contains("reassoc") && code.contains("fcmp uno") && code.contains("fsub"), "{code}");
}

#[test]
fn wide_loads_stay_wide_on_nvidia() {
    let library = library(
        "kernel void k(device const float4 * __restrict x [[buffer(0)]], device const uint4 *u [[buffer(1)]], device float4 *y [[buffer(2)]],\n\
             uint i [[thread_position_in_grid]]) { y[i] = x[i] * 2.0f + float4(u[i]); }\n\
         kernel void t(device float *y [[buffer(0)]], threadgroup float *t [[threadgroup(0)]], uint i [[thread_position_in_grid]]) { t[i] = y[i]; y[i] = t[i ^ 1]; }\n\
         kernel void s(device float *y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = simd_sum(y[i]); }",
    );
    let (_, code) = build(&library, "k", &[], Target::Nvidia);
    for part in
        [".visible .entry msl_entry_k(", "ld.global.nc.v4.f32", "ld.global.v4.u32", "st.global.v4.f32", "fma.rn.f32"]
    {
        assert!(code.contains(part), "no {part} in\n{code}");
    }
    // Threadgroup arguments are offsets into dynamic shared memory; a name in PTX has no dots.
    let (_, code) = build(&library, "t", &[], Target::Nvidia);
    assert!(code.contains(".extern .shared .align 16 .b8 msl_dynamic[]") && code.contains("_param_1,"), "{code}");
    let (_, code) = build(&library, "s", &[], Target::Nvidia);
    assert!(code.contains("shfl.sync.bfly.b32"), "{code}");
}

#[test]
fn the_language() {
    let text = include_str!("language.metal");
    let library =
        Library::compile(&Source { text: text.into(), ..source("") }).unwrap_or_else(|error| panic!("{error}"));
    assert!(library.function_names().len() >= 5);
    for name in library.function_names() {
        for target in [Target::Cpu, Target::Nvidia] {
            let (_, code) = build(&library, &name, &[], target);
            let calls = code.lines().filter(|l| l.contains("call ") && !l.contains("@llvm.") && target == Target::Cpu);
            for call in calls {
                assert!(
                    ["@msl_barrier", "@msl_simd_exchange"].iter().any(|f| call.contains(f)) || is_libm(call),
                    "{name}: {call}"
                );
            }
            assert!(target == Target::Cpu || !code.contains(".extern .func"), "{name}:\n{code}");
        }
    }
}

fn is_libm(call: &str) -> bool {
    let name = call.split('@').nth(1).and_then(|rest| rest.split('(').next()).unwrap_or("");
    name.ends_with('f') && name.len() < 8
}

#[test]
fn a_cached_library_needs_no_compiler() {
    let cache = tempfile::tempdir().unwrap();
    let directory = cache.path();
    let run = |clang: &str| {
        let file = directory.join("k.metal");
        std::fs::write(&file, "#include <metal_stdlib>\nkernel void k(device float *x [[buffer(0)]]) { x[0] = 1; }\n")
            .unwrap();
        std::process::Command::new(env!("CARGO_BIN_EXE_mslc"))
            .args([file.to_str().unwrap(), "--function", "k", "--target", "nvidia"])
            .env("METAL_STANDIN_CACHE", directory.join("cache"))
            .env("METAL_STANDIN_CLANG", clang)
            .output()
            .unwrap()
    };
    let refused = run("/nonexistent/clang");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("METAL_STANDIN_CLANG"));
    assert!(run("clang-19").status.success());
    let cached = run("/nonexistent/clang");
    assert!(cached.status.success(), "{}", String::from_utf8_lossy(&cached.stderr));
    assert!(String::from_utf8_lossy(&cached.stdout).contains(".visible .entry msl_entry_k("));
}

/// Another compiler makes other kernels, also where it goes by the same name.
#[test]
#[cfg(unix)]
fn another_version_of_clang_has_a_cache_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("k.metal"), "kernel void k(device float *x [[buffer(0)]]) { x[0] = 1; }\n").unwrap();
    let libraries = |version: &str| {
        let script =
            format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo clang {version}; else exec clang-19 \"$@\"; fi\n");
        std::fs::write(file("clang"), script).unwrap();
        std::fs::set_permissions(file("clang"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mslc"))
            .arg(file("k.metal"))
            .env("METAL_STANDIN_CACHE", file("cache"))
            .env("METAL_STANDIN_CLANG", file("clang"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let entries = std::fs::read_dir(file("cache")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "library")).count()
    };
    assert_eq!(["19.1", "19.1", "19.2"].map(libraries), [1, 1, 2]);
}

/// Messages are about the files that a program says it was put together from.
#[test]
fn line_directives_are_obeyed() {
    let text = "#line 1 \"kernel.metal\"\n#include <metal_stdlib>\nusing namespace metal;\n#line 7 \"included.h\"\n\
                constant float right = wrong;\n#line 4 \"kernel.metal\"\nkernel vood k(device float *x [[buffer(0)]]) { x[0] = right; }\n";
    let messages = |text: &str| {
        let source = Source { text: text.into(), language_version: 0x3_0001, macros: Vec::new(), fast_math: true };
        Library::compile(&source).err().unwrap().to_string()
    };
    let ours = messages(text);
    assert!(ours.starts_with("kernel.metal:4:13: error: a kernel must return 'void'\nkernel vood k("), "{ours}");
    let clangs = messages(&text.replace("vood", "void"));
    assert!(clangs.starts_with("included.h:7:24: error: ") && clangs.contains("wrong"), "{clangs}");
    let preprocessors = messages(&text.replace("using", "#error no\nusing"));
    assert!(preprocessors.starts_with("kernel.metal:2:2: error: no"), "{preprocessors}");
}

#[test]
fn threads_build_the_same_kernel_at_once() {
    let text = format!("kernel void k(device float *x [[buffer(0)]]) {{ x[0] = {}; }}", std::process::id());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let text = text.clone();
            std::thread::spawn(move || build(&library(&text), "k", &[], Target::Cpu).1)
        })
        .collect();
    let codes: Vec<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(codes.iter().all(|code| *code == codes[0] && code.contains("@msl_entry_k(")));
}
