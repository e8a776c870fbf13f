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

#[test]
fn names_of_types() {
    refuses(&format!("{HEAD} threadgroup uint *half = nullptr;\n x[i] = half != nullptr; }}"), 2, "'half' is a type");
    refuses(&format!("{HEAD} float4 bfloat = 0;\n x[i] = bfloat.x; }}"), 2, "'bfloat' is a type");
    refuses(&format!("float f(int uint) {{ return uint; }}\n{HEAD} x[i] = f(1); }}"), 1, "'uint' is a type");
    refuses(
        &format!("struct S {{ float float4; }};\n{HEAD} S s; s.float4 = 1; x[i] = s.float4; }}"),
        1,
        "'float4' is a type",
    );
    refuses(&format!("float ushort(float v) {{ return v; }}\n{HEAD} x[i] = 0; }}"), 1, "'ushort' is a type");
    refuses(&format!("{HEAD} float a = 1, half;\n half = a; x[i] = half; }}"), 2, "'half' is a type");
    // The library's types said again, conversions, products and template arguments.
    accepts(&format!(
        "typedef unsigned int uint;\nusing ulong4 = vec<ulong, 4>;\ntemplate <typename A, typename B> B f(A a) {{ return B(a); }}\n\
         float h(float, half = 0.0h) {{ return 1; }}\n\
         {HEAD} float v = 2 * half(x[i]); x[i] = f<float, half>(v) * uint(3) + float4(v).x + sizeof(half) + h(1); }}"
    ));
}

#[test]
fn positions_of_different_widths() {
    let kernel = |grid: &str, local: &str, size: &str| {
        format!(
            "kernel void k(device float *x [[buffer(0)]], {grid} i [[thread_position_in_grid]],\n{local} t [[thread_position_in_threadgroup]],\n\
             {size} n [[threads_per_grid]], ushort lane [[thread_index_in_simdgroup]]) {{ x[0] = 1; }}"
        )
    };
    let rule = "all scalar types or all vector types with the same number of elements";
    refuses(&kernel("uint", "uint2", "uint"), 2, rule);
    refuses(&kernel("uint3", "uint3", "uint2"), 3, rule);
    refuses(&kernel("uint3", "ushort", "ushort3"), 2, rule);
    accepts(&kernel("uint", "ushort", "uint32_t"));
    accepts(&kernel("uint3", "ushort3", "const uint3"));
}

#[test]
fn types_of_inputs() {
    let kernel = |type_name: &str, input: &str| {
        format!("kernel void k(device float *x [[buffer(0)]],\n{type_name} i [[{input}]]) {{ x[0] = 1; }}")
    };
    for type_name in ["int", "float", "ulong", "size_t", "uint4", "int2", "uchar3"] {
        refuses(
            &kernel(type_name, "thread_position_in_grid"),
            2,
            "is not valid for attribute 'thread_position_in_grid'",
        );
    }
    for input in [
        "thread_index_in_simdgroup",
        "simdgroup_index_in_threadgroup",
        "thread_index_in_threadgroup",
        "threads_per_simdgroup",
        "simdgroups_per_threadgroup",
        "quadgroup_index_in_threadgroup",
    ] {
        refuses(&kernel("uint2", input), 2, "is not valid for attribute");
        refuses(&kernel("int", input), 2, "is not valid for attribute");
        accepts(&kernel("ushort", input));
    }
    accepts(&kernel("unsigned int", "thread_position_in_grid"));
}

#[test]
fn calls_of_kernels() {
    let one = "kernel void one(device float *x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = 1; }\n";
    refuses(&format!("{one}{HEAD} x[i] = 0;\n one(x, i); }}"), 4, "'one' is a kernel");
    refuses(&format!("{one}void f(device float *x) {{\n one(x, 0); }}\n{HEAD} f(x); }}"), 3, "'one' is a kernel");
    let many = "template <typename T> kernel void many(device T *x [[buffer(0)]]) { x[0] = 1; }\n";
    refuses(&format!("{many}{HEAD} many<float>(x); }}"), 3, "is a kernel");
    // A method, and an overload of the library, go by a kernel's name.
    accepts(&format!(
        "kernel void clamp(device float *x [[buffer(0)]]) {{ x[0] = 1; }}\n\
         struct S {{ float one(float v) {{ return v; }} }};\n{one}{HEAD} S s; x[i] = s.one(clamp(x[i], 0.0f, 1.0f)); }}"
    ));
}

#[test]
fn pointers_without_an_address_space() {
    let rule = "must have explicit address space qualifier";
    let kernel = |text: &str| format!("{text}\n{HEAD} x[i] = 0; }}");
    refuses(&kernel("template <typename T> T f(T *p) { return *p; }"), 1, rule);
    refuses(&kernel("template <typename T> T f(const T &p) { return p; }"), 1, rule);
    refuses(&kernel("template <typename T> void f(device T *p) {\n T *q = p; }"), 2, rule);
    refuses(&kernel("typedef float F;\nF f(F *p) { return *p; }"), 2, rule);
    refuses(&kernel("using F = const float;\nfloat f(F &p) { return p; }"), 2, rule);
    refuses(&kernel("float f(float (&p)[4]) { return p[0]; }"), 1, rule);
    refuses(&kernel("struct S { float *p; };"), 1, rule);
    refuses(&kernel("struct S { float v; float f(S &s) { return s.v; } };"), 1, rule);
    refuses(&kernel("float *g(thread float *p) { return p; }"), 1, rule);
    // Each in its place; what needs none; a product; and what Apple's compiler takes.
    accepts(&format!(
        "typedef device float D;\n\
         struct S {{ device float *p; float device *q; thread const float &r; thread S *next; thread S *self() {{ return this; }} }};\n\
         template <typename T> device T *f(device const T *p, T thread &q, threadgroup T (&a)[4], float thread (&b)[4]) {{\n\
             return (device T *)p; }}\n\
         float g(float p[4], device float *&x) {{ return *x++ + p[0]; }}\n\
         template <typename U> void skip(const device U *&p) {{ p++; }}\n\
         float h(constant uint &T, D *p) {{ float v = 0; auto *q = &v; auto r = p; return T * *q + *r; }}\n\
         {HEAD} threadgroup float tile[4]; threadgroup float (&t)[4] = tile; t[0] = x[i]; float four[4] = {{}};\n\
             device const float *row = x; skip(row); x[i] = g(four, x) * tile[1]; }}"
    ));
}

#[test]
fn casts_between_address_spaces() {
    let rule = "a cast cannot change the address space";
    refuses(&format!("{HEAD} thread float *p = (thread float *)x;\n *p = 0; }}"), 2, rule);
    refuses(&format!("{HEAD} threadgroup float *p =\n (threadgroup float *)(x + i);\n *p = 0; }}"), 3, rule);
    refuses(&format!("{HEAD} float v = x[i];\n x[i] = *(device float *)&v; }}"), 3, rule);
    refuses(&format!("{HEAD} *reinterpret_cast<thread float *>(x) = 0; }}"), 2, "is not allowed");
    accepts(&format!(
        "struct S {{ device uchar *at; device float *get() const {{ return (device float *)at; }} }};\n\
         {HEAD} float v = x[i]; S s; s.at = (device uchar *)x; x[i] = *(thread uint *)&v + *(device uint *)(x + 1) + *s.get();\n\
             device const uint4 *q = reinterpret_cast<device const uint4 *>(x); x[i] += ((const device uint *)q)[1]; }}"
    ));
}

#[test]
fn doubles_in_disguise() {
    refuses(&format!("{HEAD} x[i] = 1.0l; }}"), 2, "'long double' is not supported");
    refuses(&format!("{HEAD} decltype(0.0L) d = 1;\n x[i] = d; }}"), 2, "'long double' is not supported");
    refuses(&format!("{HEAD} x[i] = 0x1p3L; }}"), 2, "'long double' is not supported");
    refuses(&format!("{HEAD} long double d = 1;\n x[i] = d; }}"), 2, "'double' is not supported");
    accepts(&format!("{HEAD} x[i] = 1l + 0xel + 1.0 + 1e3f; }}"));
}

#[test]
fn recursion_of_methods() {
    let method =
        |body: &str| format!("struct S {{ int f(int n) const {{\n {body} }} }};\n{HEAD} S s; x[i] = s.f(i); }}");
    refuses(&method("return n > 0 ? f(n - 1) + n : 0;"), 1, "recursion");
    refuses(&method("int sum = 0; while (n > 0) { sum += f(--n); } return sum;"), 1, "recursion");
    refuses(&method("return f(n - 1) + f(n - 2);"), 1, "recursion");
    // A call that is the last thing done becomes a loop.
    accepts(&method("return n > 0 ? f(n - 1) : 0;"));
    accepts(&method("if (n > 9) { n -= 8; return f(n - 1); } return n;"));
    accepts(&format!(
        "struct S {{ int a, b, c, d, e; void next(int n) {{ if (n == 0) {{ return; }} a += n; if (n > 2) {{ next(n - 1); }} }} }};\n\
         {HEAD} S s{{1, 2, 3, 4, 5}}; s.next(i); x[i] = s.a; }}"
    ));
}

#[test]
fn arrays_whose_size_is_not_known() {
    let constant = "constant uint N [[function_constant(0)]];\n";
    let rule = "variable length arrays are not supported";
    refuses(&format!("{constant}{HEAD} threadgroup float t[N * 2];\n t[i] = 1; x[i] = t[i]; }}"), 3, rule);
    refuses(&format!("{HEAD} float t[i];\n t[0] = 1; x[i] = t[0]; }}"), 2, rule);
    accepts(&format!(
        "{HEAD} const uint n = 4; constexpr uint m = n * 2; threadgroup float t[m]; t[i] = 1; x[i] = t[i]; }}"
    ));
}

#[test]
fn matrices_of_integers() {
    let rule = "elements of type float, half or bfloat";
    refuses(&format!("{HEAD} simdgroup_matrix<int, 8, 8> m;\n x[i] = m.thread_elements()[0]; }}"), 2, rule);
    for element in ["float", "half", "bfloat"] {
        accepts(&format!(
            "{HEAD} simdgroup_matrix<{element}, 8, 8> m({element}(1)); x[i] = m.thread_elements()[0]; }}"
        ));
    }
}

#[test]
fn orders_of_atomics() {
    let rule = "memory_order_relaxed only";
    let kernel = |line: &str| {
        format!(
            "kernel void k(device atomic_uint *n [[buffer(0)]]) {{ uint e = 0;\n {line}\n atomic_store_explicit(n, e, memory_order_relaxed); }}"
        )
    };
    refuses(&kernel("atomic_fetch_add_explicit(n, 1, memory_order_acquire);"), 2, rule);
    refuses(&kernel("atomic_store_explicit(n, 1, memory_order_seq_cst);"), 2, rule);
    refuses(&kernel("e = atomic_load_explicit(n, metal::memory_order_acquire);"), 2, rule);
    refuses(
        &kernel("atomic_compare_exchange_weak_explicit(n, &e, 1, memory_order_relaxed, memory_order_acquire);"),
        2,
        rule,
    );
    accepts(&kernel("atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst);"));
}
