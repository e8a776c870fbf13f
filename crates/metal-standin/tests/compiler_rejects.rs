//! What Apple's compiler refuses is refused here, with the line and the rule.

#![cfg(not(target_os = "macos"))]

use metal_standin::compiler::{Library, Source, Target};

fn source(text: &str) -> Source {
    let text = format!("#include <metal_stdlib>\nusing namespace metal;\n{text}\n");
    Source { text, language_version: 0x3_0001, macros: Vec::new(), fast_math: true }
}

/// The message must name the place, counted from the first line of `text`, and the rule.
fn refuses(text: &str, line: u32, rule: &str) {
    refuses_source(&source(text), line, rule);
}

fn refuses_source(source: &Source, line: u32, rule: &str) {
    let error = match Library::compile(source) {
        Ok(_) => panic!("this was not refused ({rule}):\n{}", source.text),
        Err(error) => error.to_string(),
    };
    let place = format!("program_source:{}:", line + 2);
    let found = error.lines().any(|l| l.starts_with(&place) && l.contains("error: ") && l.contains(rule));
    assert!(found, "wanted '{rule}' at line {line}, got:\n{error}");
}

fn accepts(text: &str) {
    if let Err(error) = Library::compile(&source(text)) {
        panic!("refused:\n{error}");
    }
}

const HEAD: &str = "kernel void k(device float *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n";

#[test]
fn recursion() {
    refuses(&format!("int f(int n) {{ return n < 2 ? 1 : n * f(n - 1); }}\n{HEAD} x[i] = f(i); }}"), 1, "recursion");
    refuses(
        &format!(
            "int g(int n);\nint f(int n) {{ return g(n); }}\nint g(int n) {{ return n ? f(n - 1) : 0; }}\n{HEAD} x[i] = f(i); }}"
        ),
        2,
        "recursion",
    );
    // An overload, and a template that counts down, only look like it.
    accepts(&format!(
        "float f(float v) {{ return v; }}\nfloat f(float2 v) {{ return f(v.x) + f(v.y); }}\n{HEAD} x[i] = f(float2(x[i])); }}"
    ));
    accepts(&format!(
        "template <int N> int f() {{ return N + f<N - 1>(); }}\ntemplate <> int f<0>() {{ return 0; }}\n{HEAD} x[i] = f<4>(); }}"
    ));
}

#[test]
fn words_that_metal_has_not() {
    refuses(&format!("{HEAD} double d = x[i];\n x[i] = d; }}"), 2, "'double'");
    refuses(&format!("{HEAD} if (i) goto end;\n x[i] = 0;\n end: return; }}"), 2, "'goto'");
    refuses(&format!("{HEAD} thread int *p = new int;\n x[i] = *p; }}"), 2, "'new'");
    refuses(&format!("struct s {{ virtual float f() {{ return 1; }} }};\n{HEAD} x[i] = 0; }}"), 1, "'virtual'");
    refuses(&format!("{HEAD} try {{ x[i] = 0; }} catch (...) {{}} }}"), 2, "'try'");
    refuses(&format!("{HEAD} auto f = [&](float v) {{ return v; }};\n x[i] = f(1); }}"), 2, "lambda");
    refuses(
        &format!("float f(float v) {{ return v; }}\n{HEAD} float (*g)(float) = f;\n x[i] = g(1); }}"),
        3,
        "pointers to functions",
    );
    refuses(&format!("{HEAD} static int n = 0;\n x[i] = n++; }}"), 2, "static variable");
}

#[test]
fn address_spaces() {
    refuses(&format!("{HEAD} float *p = x;\n p[i] = 0; }}"), 2, "address space");
    refuses(&format!("{HEAD} thread float *p = x;\n p[i] = 0; }}"), 2, "cannot initialize");
    refuses(&format!("{HEAD} threadgroup float *p = x;\n p[i] = 0; }}"), 2, "cannot initialize");
    refuses("kernel void k(float *x [[buffer(0)]]) { x[0] = 0; }", 1, "address space");
    refuses(&format!("float f(float *p) {{ return *p; }}\n{HEAD} x[i] = f(x); }}"), 1, "address space");
    refuses(&format!("float f(thread float &p) {{ return p; }}\n{HEAD} x[i] = f(x[i]); }}"), 3, "no matching function");
    refuses("kernel void k(constant float *x [[buffer(0)]]) { x[0] = 0; }", 1, "read-only");
    refuses(&format!("int counter = 0;\n{HEAD} x[i] = counter; }}"), 1, "'constant' address space");
    accepts(&format!("{HEAD} float v = x[i];\n thread float *p = &v;\n device float &r = x[i];\n r = *p * 2; }}"));
}

#[test]
fn arguments() {
    refuses("kernel void k(device float *x [[buffer(0)]], uint n) { x[0] = n; }", 1, "attribute");
    refuses(
        "kernel void k(device float *x [[buffer(0)]], device float *y [[buffer(0)]]) { x[0] = y[0]; }",
        1,
        "index 0 is used",
    );
    refuses("kernel void k(device float *x [[buffer(31)]]) { x[0] = 0; }", 1, "out of range");
    refuses("kernel float k(device float *x [[buffer(0)]]) { return x[0]; }", 1, "'void'");
    refuses("constant float missing;\nkernel void k(device float *x [[buffer(0)]]) { x[0] = missing; }", 1, "const");
}

#[test]
fn bfloat_before_3_1() {
    let mut old = source("kernel void k(device bfloat *x [[buffer(0)]]) { x[0] = bfloat(1.0f); }");
    assert!(Library::compile(&old).is_ok());
    old.language_version = 0x3_0000;
    refuses_source(&old, 1, "'bfloat' is not supported in Metal 3.0");
}

#[test]
fn threadgroup_memory_over_32_kib() {
    let body =
        "threadgroup float t[N]; t[i] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = t[i ^ 1]; }";
    let build = |n: u32| {
        let library = Library::compile(&source(&format!("{HEAD} {}", body.replace('N', &n.to_string())))).unwrap();
        library.build("k", &[], Target::Cpu)
    };
    assert_eq!(build(8192).unwrap().static_threadgroup_bytes, 32768);
    let error = build(8193).unwrap_err().to_string();
    assert!(error.contains("'k'") && error.contains("32768") && error.contains("program_source:4:"), "{error}");
}

#[test]
fn messages_point_at_the_users_line_and_column() {
    // A macro before it, an attribute and a conversion on the line: none may move the column.
    let text = "#define TWICE(x) ((x) + (x))\nkernel void k(device float4 *x [[buffer(0)]]) {\n    x[0] = float4(TWICE(1.0f)) + unknown;\n}";
    let error = Library::compile(&source(text)).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.starts_with("program_source:5:34: error: use of undeclared identifier 'unknown'"), "{error}");
    assert!(
        error.contains("\n    x[0] = float4(TWICE(1.0f)) + unknown;\n                                 ^"),
        "{error}"
    );
}
