//! Generates the Rust twins of the declarations that kernels and host share.
//!
//! Every header in `kernels/params` declares what one kernel file and its launches must agree on:
//! the structs of parameters that kernels take by value, structs in device memory, constants and
//! enumerations. The C++ declaration is the only one. This module reads it as text, so that it
//! works without nvcc, and rejects any syntax that it does not know. From each header it writes
//!
//! - a Rust module of the same name, with a `#[repr(C)]` twin of each struct and assertions of its
//!   size and offsets,
//! - a C++ header of `static_assert`s of the same sizes and offsets, which nvcc compiles in front
//!   of the kernel file.
//!
//! From the kernel files it reads which kernel takes which struct.
//!
//! The headers are written in this subset of C++, one declaration per line, comments above it:
//!
//! ```text
//! #include "params/other.cuh"
//! constexpr int kName = 1 << kOther;
//! enum Name : uint32_t {            template <typename E>
//!   kFirst = 0,                     struct Name {
//!   kSecond = 1,                      const E* pointer;
//! };                                  Other<E> nested;
//!                                     uint32_t array[kLen];
//!                                   };
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The scalar types of C++, their Rust twins, and their bytes. An `int` counts something, as a
/// `usize` does in Rust, and is allowed in constants only.
const SCALARS: [(&str, &str, usize); 9] = [
    ("uint32_t", "u32", 4),
    ("int32_t", "i32", 4),
    ("uint64_t", "u64", 8),
    ("unsigned long long", "u64", 8),
    ("int64_t", "i64", 8),
    ("float", "f32", 4),
    ("double", "f64", 8),
    ("void", "std::ffi::c_void", 0),
    ("int", "usize", 0),
];

/// The text before the path of a Rust type from `src/ops` in the comment of its C++ twin.
const OPS_TYPE: &str = "The Rust type is ";

/// A header of `kernels/params`, or a kernel file.
pub(super) struct Source {
    /// The name of the file without its extension.
    pub(super) stem: String,
    pub(super) text: String,
}

/// The generated files.
pub(super) struct Generated {
    /// The Rust modules, one after another.
    pub(super) rust: String,
    /// The stem and the `static_assert`s of each header.
    pub(super) checks: Vec<(String, String)>,
}

struct Struct {
    docs: Vec<String>,
    name: String,
    /// The names of the parameters of the template.
    generics: Vec<String>,
    /// The path of the Rust type, if that is declared in `src/ops` instead of generated.
    ops_type: Option<String>,
    fields: Vec<Field>,
}

struct Field {
    docs: Vec<String>,
    name: String,
    kind: String,
    pointer: Option<Access>,
    /// The length of an array, as the C++ expression.
    len: Option<String>,
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

enum Item {
    Constant { docs: Vec<String>, kind: String, name: String, value: String },
    Enum { docs: Vec<String>, name: String, kind: String, variants: Vec<(String, String)> },
    Struct(Struct),
}

struct Header<'a> {
    stem: &'a str,
    includes: Vec<String>,
    items: Vec<Item>,
}

/// The size and the alignment of a type and the offsets of its fields. `is_plain` is true if any
/// bits are a value of the type: it has no pointers, enumerations or padding.
#[derive(Clone, Default)]
struct Layout {
    size: usize,
    align: usize,
    offsets: Vec<usize>,
    is_plain: bool,
    has_array: bool,
}

/// Returns the twins of `headers`, and the table of the kernels in `kernel_files`.
///
/// # Errors
/// Returns a message with the header and the line that is not understood, or with the name of a
/// type or kernel whose declarations do not fit together.
pub(super) fn generate(headers: &[Source], kernel_files: &[Source]) -> Result<Generated, String> {
    let parsed = headers.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let layouts = layouts(&parsed)?;
    let kernels = kernels(kernel_files)?;
    let mut generated = Generated { rust: String::new(), checks: Vec::new() };
    for header in &parsed {
        generated.rust += &rust_module(header, &layouts, &kernels)?;
        generated.checks.push((header.stem.to_owned(), static_asserts(header, &layouts)));
    }
    generated.rust += &kernel_table(&parsed, &kernels)?;
    Ok(generated)
}

// Reading headers.

fn parse(source: &Source) -> Result<Header<'_>, String> {
    let mut header = Header { stem: &source.stem, includes: Vec::new(), items: Vec::new() };
    let mut lines = source.text.lines().map(str::trim).enumerate();
    let (mut docs, mut generics) = (Vec::new(), Vec::new());
    while let Some((number, line)) = lines.next() {
        let fail = |number: usize, line: &str| {
            format!("kernels/params/{}.cuh:{}: not understood: {line}", source.stem, number + 1)
        };
        let not_understood = || fail(number, line);
        if let Some(comment) = line.strip_prefix("//") {
            docs.push(comment.trim().to_owned());
            continue;
        }
        if line.is_empty() || line.starts_with("#pragma once") {
            docs.clear();
            continue;
        }
        if let Some(path) = line.strip_prefix("#include ") {
            docs.clear();
            if let Some(path) = path.strip_prefix("\"params/") {
                let stem = path.strip_suffix(".cuh\"").ok_or_else(not_understood)?;
                header.includes.push(stem.to_owned());
            }
            continue;
        }
        if let Some(list) = line.strip_prefix("template <") {
            let list = list.strip_suffix('>').ok_or_else(not_understood)?;
            let names = list.split(',').map(|name| name.trim().strip_prefix("typename "));
            let names = names.collect::<Option<Vec<_>>>().ok_or_else(not_understood)?;
            generics = names.into_iter().map(str::to_owned).collect();
            continue;
        }
        if let Some(constant) = line.strip_prefix("constexpr ") {
            let (left, value) = constant.split_once(" = ").ok_or_else(not_understood)?;
            let (kind, name) = left.rsplit_once(' ').ok_or_else(not_understood)?;
            let value = value.strip_suffix(';').ok_or_else(not_understood)?;
            header.items.push(Item::Constant {
                docs: std::mem::take(&mut docs),
                kind: kind.to_owned(),
                name: name.to_owned(),
                value: value.to_owned(),
            });
            continue;
        }
        // The body of a declaration is all lines up to its closing brace.
        let mut body = Vec::new();
        if line.ends_with('{') {
            for (number, line) in lines.by_ref().take_while(|(_, line)| *line != "};") {
                body.push((number, line));
            }
        }
        let docs = std::mem::take(&mut docs);
        if let Some(declared) = line.strip_prefix("enum ").and_then(|line| line.strip_suffix(" {"))
        {
            let (name, kind) = declared.split_once(" : ").ok_or_else(not_understood)?;
            let variants = body.iter().filter(|(_, line)| !line.starts_with("//"));
            let variants = variants.map(|&(number, line)| {
                let variant = line.strip_suffix(',').and_then(|line| line.split_once(" = "));
                let (name, value) = variant.ok_or_else(|| fail(number, line))?;
                Ok((name.to_owned(), value.to_owned()))
            });
            header.items.push(Item::Enum {
                docs,
                name: name.to_owned(),
                kind: kind.to_owned(),
                variants: variants.collect::<Result<_, String>>()?,
            });
        } else if let Some(name) =
            line.strip_prefix("struct ").and_then(|line| line.strip_suffix(" {"))
        {
            let mut fields = Vec::new();
            let mut field_docs = Vec::new();
            for (number, line) in body {
                match line.strip_prefix("//") {
                    Some(comment) => field_docs.push(comment.trim().to_owned()),
                    None => {
                        let field = parse_field(line, std::mem::take(&mut field_docs));
                        fields.push(field.ok_or_else(|| fail(number, line))?);
                    }
                }
            }
            let ops_type = docs.iter().find_map(|line| line.split_once(OPS_TYPE));
            let ops_type = ops_type.map(|(_, path)| path.trim_matches(['`', '.']).to_owned());
            header.items.push(Item::Struct(Struct {
                docs,
                name: name.to_owned(),
                generics: std::mem::take(&mut generics),
                ops_type,
                fields,
            }));
        } else {
            return Err(not_understood());
        }
    }
    Ok(header)
}

/// Reads `const E* name;`, `float name;` or `Fault name[kLen];`.
fn parse_field(line: &str, docs: Vec<String>) -> Option<Field> {
    let (kind, name) = line.strip_suffix(';')?.rsplit_once(' ')?;
    let (name, len) = match name.split_once('[') {
        Some((name, len)) => (name, Some(len.strip_suffix(']')?.to_owned())),
        None => (name, None),
    };
    let (kind, pointer) = match kind.strip_suffix('*') {
        None => (kind, None),
        Some(pointee) => match pointee.strip_prefix("const ") {
            Some(pointee) => (pointee, Some(Access::Read)),
            None => (pointee, Some(Access::Write)),
        },
    };
    let is_type = |c: char| c.is_alphanumeric() || "_<>, ".contains(c);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    (kind.chars().all(is_type) && name.chars().all(is_name) && !name.is_empty()).then(|| Field {
        docs,
        name: name.to_owned(),
        kind: kind.to_owned(),
        pointer,
        len,
    })
}

// Layouts.

/// Computes the layout of every struct and enumeration. A struct may contain others.
fn layouts(headers: &[Header<'_>]) -> Result<BTreeMap<String, Layout>, String> {
    let mut known = BTreeMap::new();
    let mut lens = BTreeMap::new();
    let mut structs = Vec::new();
    for item in headers.iter().flat_map(|header| &header.items) {
        match item {
            Item::Constant { name, value, .. } => {
                if let Ok(len) = value.parse::<usize>() {
                    lens.insert(name.as_str(), len);
                }
            }
            Item::Enum { name, .. } => {
                known.insert(name.clone(), Layout { size: 4, align: 4, ..Default::default() });
            }
            Item::Struct(declared) => structs.push(declared),
        }
    }
    while !structs.is_empty() {
        let before = structs.len();
        let mut waiting = Vec::new();
        for declared in structs {
            match layout_of(declared, &known, &lens) {
                Some(layout) => {
                    if known.insert(declared.name.clone(), layout).is_some() {
                        return Err(format!("kernels/params: two types named {}", declared.name));
                    }
                }
                None => waiting.push(declared),
            }
        }
        structs = waiting;
        if structs.len() == before {
            return Err(format!("kernels/params: {}: a field has no known type", structs[0].name));
        }
    }
    Ok(known)
}

/// Returns the layout of a struct, if the layouts of its fields are known.
fn layout_of(
    declared: &Struct,
    known: &BTreeMap<String, Layout>,
    lens: &BTreeMap<&str, usize>,
) -> Option<Layout> {
    let mut layout = Layout { is_plain: declared.generics.is_empty(), ..Default::default() };
    let mut filled = 0;
    for field in &declared.fields {
        let (size, align, is_plain) = match (field.pointer, scalar(&field.kind)) {
            (Some(_), _) => (8, 8, false),
            (None, Some((_, size))) => (size, size, true),
            (None, None) => {
                let inner = known.get(base(&field.kind))?;
                (inner.size, inner.align, inner.is_plain)
            }
        };
        let len = match &field.len {
            None => 1,
            Some(len) => *lens.get(len.as_str())?,
        };
        if size == 0 {
            return None;
        }
        layout.size = layout.size.next_multiple_of(align);
        layout.offsets.push(layout.size);
        layout.size += size * len;
        layout.align = layout.align.max(align);
        layout.is_plain &= is_plain;
        layout.has_array |= field.len.is_some();
        filled += size * len;
    }
    layout.size = layout.size.next_multiple_of(layout.align);
    layout.is_plain &= filled == layout.size;
    Some(layout)
}

/// Returns the Rust twin of a scalar type, and its bytes.
fn scalar(kind: &str) -> Option<(&'static str, usize)> {
    SCALARS.iter().find(|(name, ..)| *name == kind).map(|&(_, rust, size)| (rust, size))
}

/// Returns the Rust twin of a type: of a scalar, or of a struct and the arguments of its template.
fn rust_type(kind: &str) -> String {
    let Some((name, arguments)) = kind.split_once('<') else {
        return scalar(kind).map_or(kind, |(rust, _)| rust).to_owned();
    };
    let arguments = arguments.trim_end_matches('>').split(", ").map(rust_type);
    format!("{name}<{}>", arguments.collect::<Vec<_>>().join(", "))
}

/// Returns the name of a type without the arguments of its template.
fn base(kind: &str) -> &str {
    kind.split('<').next().unwrap_or(kind)
}

// Kernels.

/// A kernel and all its instances, which take the same struct.
struct Kernel {
    stem: String,
    /// The name of the kernel, or the common prefix of the names of its instances.
    name: String,
}

/// Finds every `name(const __grid_constant__ Struct<...> p)` and returns the kernels by the name of
/// the struct. The name of a kernel ends where a macro begins to paste the names of types.
fn kernels(files: &[Source]) -> Result<BTreeMap<String, Kernel>, String> {
    let mut kernels: BTreeMap<String, Kernel> = BTreeMap::new();
    for file in files {
        let text = file.text.replace("\\\n", " ");
        let mut parts = text.split("const __grid_constant__ ");
        let mut before = parts.next().unwrap_or_default();
        for after in parts {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let parameters: String = after.chars().take_while(|&c| is_name(c)).collect();
            let pasted = before.trim_end().trim_end_matches('(').trim_end();
            let start = pasted.rfind(|c: char| !is_name(c) && c != '#').map_or(0, |at| at + 1);
            let name = pasted[start..].split("##").next().unwrap_or_default();
            let name = name.trim_end_matches('_').to_owned();
            let kernel = Kernel { stem: file.stem.clone(), name };
            let other = kernels.get(&parameters);
            if other.is_some_and(|other| other.name != kernel.name || other.stem != kernel.stem) {
                return Err(format!("{}: {parameters} is of another kernel", kernel.name));
            }
            kernels.insert(parameters, kernel);
            before = after;
        }
    }
    Ok(kernels)
}

// Writing.

/// Writes the module of a header.
fn rust_module(
    header: &Header<'_>,
    layouts: &BTreeMap<String, Layout>,
    kernels: &BTreeMap<String, Kernel>,
) -> Result<String, String> {
    let stem = header.stem;
    let mut out = format!(
        "/// The twins of `kernels/params/{stem}.cuh`.\n\
         #[allow(dead_code, unused_imports, reason = \"kernels use some of it alone\")]\n\
         pub(crate) mod {stem} {{\n    \
         use super::{{Kernel, Parameters, Ptr, PtrMut}};\n"
    );
    for include in &header.includes {
        out += &format!("    pub(crate) use super::{include}::*;\n");
    }
    for item in &header.items {
        out += "\n";
        match item {
            Item::Constant { docs, kind, name, value } => {
                let rust = scalar(kind).ok_or_else(|| format!("{stem}.cuh: {name}: {kind}"))?.0;
                out += &doc(docs, 1);
                out += &format!(
                    "    pub(crate) const {}: {rust} = {};\n",
                    constant_name(name),
                    expression(value)
                );
            }
            Item::Enum { docs, name, kind, variants } => {
                let rust = scalar(kind).ok_or_else(|| format!("{stem}.cuh: {name}: {kind}"))?.0;
                out += &doc(docs, 1);
                out += &format!(
                    "    #[repr({rust})]\n    #[derive(Clone, Copy, Debug, PartialEq, Eq)]\n    \
                     pub(crate) enum {name} {{\n"
                );
                for (name, value) in variants {
                    out += &format!("        {} = {value},\n", name.trim_start_matches('k'));
                }
                out += "    }\n";
            }
            Item::Struct(declared) => {
                if let Some(path) = &declared.ops_type {
                    out += &format!("    pub(crate) use {path} as {};\n", declared.name);
                } else {
                    out += &rust_struct(declared, layouts);
                }
                out += &rust_asserts(declared, layouts);
                if let Some(Kernel { stem, name }) = kernels.get(&declared.name) {
                    let arguments = arguments(declared, "()");
                    let generics = arguments_of_itself(declared);
                    let kind = &declared.name;
                    out += &format!(
                        "    impl Kernel for {kind}{arguments} {{\n        \
                         const STEM: &'static str = {stem:?};\n        \
                         const NAME: &'static str = {name:?};\n    }}\n    \
                         impl{generics} Parameters for {kind}{generics} {{\n        \
                         type Kernel = {kind}{arguments};\n    }}\n"
                    );
                }
            }
        }
    }
    Ok(out + "}\n\n")
}

fn rust_struct(declared: &Struct, layouts: &BTreeMap<String, Layout>) -> String {
    let layout = &layouts[&declared.name];
    let derives = match (layout.is_plain, layout.has_array) {
        (true, true) => "Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable",
        (true, false) => {
            "Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable"
        }
        (false, _) => "Clone, Copy, Debug",
    };
    let mut out = doc(&declared.docs, 1);
    out += &format!(
        "    #[repr(C)]\n    #[derive({derives})]\n    pub(crate) struct {}{} {{\n",
        declared.name,
        arguments_of_itself(declared)
    );
    for field in &declared.fields {
        let kind = rust_type(&field.kind);
        let kind = match (field.pointer, &field.len) {
            (Some(Access::Read), _) => format!("Ptr<{kind}>"),
            (Some(Access::Write), _) => format!("PtrMut<{kind}>"),
            (None, Some(len)) => format!("[{kind}; {}]", expression(len)),
            (None, None) => kind,
        };
        out += &doc(&field.docs, 2);
        out += &format!("        pub(crate) {}: {kind},\n", field.name);
    }
    out + "    }\n"
}

fn rust_asserts(declared: &Struct, layouts: &BTreeMap<String, Layout>) -> String {
    let layout = &layouts[&declared.name];
    let kind = format!("{}{}", declared.name, arguments(declared, "()"));
    let mut out = format!(
        "    const _: () = {{\n        \
         assert!(size_of::<{kind}>() == {} && align_of::<{kind}>() == {});\n",
        layout.size, layout.align
    );
    for (field, offset) in declared.fields.iter().zip(&layout.offsets) {
        let name = &field.name;
        let _ = writeln!(out, "        assert!(std::mem::offset_of!({kind}, {name}) == {offset});");
    }
    out + "    };\n"
}

/// Writes the same assertions for nvcc. No layout depends on the arguments of a template, since
/// structs contain only pointers to them.
fn static_asserts(header: &Header<'_>, layouts: &BTreeMap<String, Layout>) -> String {
    let mut out =
        format!("#pragma once\n#include <stddef.h>\n#include \"params/{}.cuh\"\n", header.stem);
    for item in &header.items {
        let Item::Struct(declared) = item else { continue };
        let (name, layout) = (&declared.name, &layouts[&declared.name]);
        out += &format!("using {name}Checked = {name}{};\n", arguments(declared, "float"));
        out += &format!(
            "static_assert(sizeof({name}Checked) == {} && alignof({name}Checked) == {}, \"\");\n",
            layout.size, layout.align
        );
        for (field, offset) in declared.fields.iter().zip(&layout.offsets) {
            let field = &field.name;
            out += &format!("static_assert(offsetof({name}Checked, {field}) == {offset}, \"\");\n");
        }
    }
    out
}

/// Writes the table of kernels, which a test compares with the PTX.
fn kernel_table(
    headers: &[Header<'_>],
    kernels: &BTreeMap<String, Kernel>,
) -> Result<String, String> {
    let mut out = "pub(crate) static KERNELS: &[KernelInfo] = &[\n".to_owned();
    let mut left: Vec<_> = kernels.keys().collect();
    for header in headers {
        for item in &header.items {
            let Item::Struct(declared) = item else { continue };
            if !kernels.contains_key(&declared.name) {
                continue;
            }
            left.retain(|name| **name != declared.name);
            out += &format!(
                "    KernelInfo::of::<{}::{}{}>(),\n",
                header.stem,
                declared.name,
                arguments(declared, "()")
            );
        }
    }
    match left.first() {
        None => Ok(out + "];\n"),
        Some(name) => Err(format!("kernels/params declares no {name}, which a kernel takes")),
    }
}

/// Returns `<argument, argument>` for a template.
fn arguments(declared: &Struct, argument: &str) -> String {
    match declared.generics.len() {
        0 => String::new(),
        count => format!("<{}>", vec![argument; count].join(", ")),
    }
}

/// Returns `<A, B>` for a template of `A` and `B`.
fn arguments_of_itself(declared: &Struct) -> String {
    match declared.generics.is_empty() {
        true => String::new(),
        false => format!("<{}>", declared.generics.join(", ")),
    }
}

fn doc(lines: &[String], depth: usize) -> String {
    let indent = "    ".repeat(depth);
    lines.iter().map(|line| format!("{indent}/// {line}\n")).collect()
}

/// Returns `MAX_ROWS` for `kMaxRows`.
fn constant_name(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.trim_start_matches('k').char_indices() {
        if c.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// Returns a constant expression with the Rust names of the constants in it.
fn expression(value: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in value.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        // Suffixes of C++ literals have no counterpart in Rust.
        out += &match word.starts_with('k') {
            true => constant_name(&word),
            false => word.trim_end_matches('u').to_owned(),
        };
        word.clear();
        out.push(c);
    }
    out.trim_end().to_owned()
}
