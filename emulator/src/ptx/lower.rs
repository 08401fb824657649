//! Lowers statements to kernels: names become registers and offsets, calls are inlined, and labels
//! become instruction numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode::decode;
use super::error::{LoadError, Result};
use super::names::{Place, Scope};
use super::statement::parse;
use super::syntax::{Declaration, Function, Loc, Raw, RawInstruction, RawModule, Statement};
use crate::ir::{Guard, Instruction, Kernel, Location, Module, Op, Operand, Param, Variable};

/// Reads a module.
pub(crate) fn load(source: &str) -> Result<Module> {
    let raw = parse(source)?;
    let mut module = Module {
        target: raw.target,
        is_exact: raw.is_exact,
        version: raw.version,
        ..Module::default()
    };
    let mut globals = HashMap::new();
    let mut shared = 0;
    for declaration in raw.variables.iter().filter(|d| d.space != "shared") {
        let mut bytes = declaration.bytes.clone();
        bytes.resize(declaration.size(), 0);
        globals.insert(declaration.name, Place::Variable(module.variables.len() as u32));
        module.variables.push(Variable {
            name: declaration.name.to_owned(),
            size: declaration.size(),
            bytes,
        });
    }
    for declaration in raw.variables.iter().filter(|d| d.space == "shared" && d.count.is_some()) {
        globals.insert(declaration.name, Place::Shared(reserve(&mut shared, declaration)));
    }
    let mut locations = Locations::new(&raw);
    let mut kernels = vec![];
    for function in raw.functions.iter().filter(|f| f.entry) {
        kernels.push(Lowering::kernel(&raw, function, &globals, shared, &mut locations)?);
    }
    let locations = Arc::new(locations.all);
    module.kernels = kernels
        .into_iter()
        .map(|kernel| Arc::new(Kernel { locations: locations.clone(), ..kernel }))
        .collect();
    Ok(module)
}

/// Places a declaration at the end of a memory. Returns its offset.
fn reserve(end: &mut u64, declaration: &Declaration<'_>) -> u64 {
    let start = end.next_multiple_of(declaration.align.max(1) as u64);
    *end = start + declaration.size() as u64;
    start
}

/// The source locations of a module, each once.
struct Locations {
    files: HashMap<u32, Arc<str>>,
    all: Vec<Location>,
    index: HashMap<Loc, u32>,
}

impl Locations {
    fn new(raw: &RawModule<'_>) -> Self {
        let files = raw.files.iter().map(|&(index, name)| (index, Arc::from(name))).collect();
        Self { files, all: vec![Location::default()], index: HashMap::new() }
    }

    fn of(&mut self, loc: Loc) -> u32 {
        let file = |index| self.files.get(&index).cloned().unwrap_or_default();
        let all = &mut self.all;
        *self.index.entry(loc).or_insert_with(|| {
            all.push(Location {
                file: file(loc.file),
                line: loc.line,
                caller: loc.caller.map(|(index, line)| (file(index), line)),
            });
            all.len() as u32 - 1
        })
    }
}

/// A kernel that is being lowered.
struct Lowering<'m, 'a> {
    raw: &'m RawModule<'a>,
    globals: &'m HashMap<&'a str, Place>,
    locations: &'m mut Locations,
    kernel: Kernel,
    shared: u64,
    local: u64,
    dynamic_align: u64,
    /// The functions that are being inlined, the innermost last.
    calls: Vec<&'a str>,
}

impl<'m, 'a> Lowering<'m, 'a> {
    /// Lowers a kernel.
    fn kernel(
        raw: &'m RawModule<'a>,
        function: &'m Function<'a>,
        globals: &'m HashMap<&'a str, Place>,
        shared: u64,
        locations: &'m mut Locations,
    ) -> Result<Kernel> {
        let kernel = Kernel {
            name: function.name.to_owned(),
            max_threads: function.max_threads.map(|sizes| sizes.iter().product::<u32>() as usize),
            exact_threads: function.exact_threads,
            registers: 1,
            ..Kernel::default()
        };
        let mut lowering = Self {
            raw,
            globals,
            locations,
            kernel,
            shared,
            local: 0,
            dynamic_align: 16,
            calls: vec![],
        };
        let mut places = HashMap::new();
        let mut end = 0;
        for param in &function.params {
            let offset = reserve(&mut end, param);
            places.insert(param.name, Place::KernelParam(offset));
            lowering.kernel.params.push(Param { offset: offset as usize, size: param.size() });
        }
        lowering.kernel.param_bytes = end as usize;
        lowering.inline(function, places)?;
        let Self { mut kernel, shared, local, dynamic_align, .. } = lowering;
        kernel.static_shared = shared.next_multiple_of(dynamic_align) as usize;
        kernel.local_bytes = local as usize;
        intern_constants(&mut kernel);
        Ok(kernel)
    }

    /// Adds the body of a function to the kernel.
    fn inline(
        &mut self,
        function: &'m Function<'a>,
        places: HashMap<&'a str, Place>,
    ) -> Result<()> {
        let missing = || {
            LoadError::new(
                function.line,
                format!("function {} has no body in this module", function.name),
            )
        };
        let body = function.body.as_ref().ok_or_else(missing)?;
        self.calls.push(function.name);
        let mut scope = Scope::default();
        scope.open();
        scope.places[0] = places;
        for statement in body {
            if let Statement::Targets(label, names) = statement {
                scope.targets.insert(label, names.clone());
            }
        }
        for declaration in
            self.raw.variables.iter().filter(|d| d.space == "shared" && d.count.is_none())
        {
            self.dynamic_align = self.dynamic_align.max(declaration.align as u64);
            scope.places[0].insert(declaration.name, Place::DynamicShared);
        }
        for (name, place) in self.globals {
            scope.places[0].entry(name).or_insert(*place);
        }
        let first = self.kernel.code.len();
        let mut labels = HashMap::new();
        let mut branches: Vec<(usize, u32, Vec<&'a str>)> = vec![];
        let mut returns = vec![];
        let mut location = 0;
        for statement in body {
            match statement {
                Statement::Open => scope.open(),
                Statement::Close => scope.close(),
                Statement::Label(label) => {
                    labels.insert(*label, self.kernel.code.len() as u32);
                }
                Statement::Targets(..) => {}
                Statement::Declare(declaration) => self.declare(&mut scope, declaration)?,
                Statement::Loc(loc) => location = self.locations.of(*loc),
                Statement::Instruction(raw) => {
                    let op = if raw.stem() == "call" {
                        match self.callee(&scope, raw)? {
                            Ok(callee) => {
                                self.call(&scope, raw, callee)?;
                                continue;
                            }
                            Err(op) => op,
                        }
                    } else if let Some(name) = self.function_named(&scope, raw) {
                        Op::Unsupported(format!("the address of {name}").into())
                    } else {
                        decode(raw, &scope)?
                    };
                    let at = self.kernel.code.len();
                    match raw.stem() {
                        "bra" => branches.push((at, raw.line, branch_names(raw, &scope)?)),
                        "brx" => branches.push((at, raw.line, branch_names(raw, &scope)?)),
                        "ret" => returns.push(at),
                        _ => {}
                    }
                    let guard = match raw.guard {
                        Some((name, negated)) => {
                            let unknown =
                                || LoadError::new(raw.line, format!("unknown predicate {name}"));
                            Some(Guard { reg: scope.register(name).ok_or_else(unknown)?, negated })
                        }
                        None => None,
                    };
                    let text = raw.text.split_whitespace().collect::<Vec<_>>().join(" ").into();
                    self.kernel.code.push(Instruction {
                        guard,
                        op,
                        line: raw.line,
                        location,
                        text,
                    });
                }
            }
        }
        for (at, line, names) in branches {
            let mut targets = vec![];
            for name in names {
                let unknown = || LoadError::new(line, format!("unknown label {name}"));
                targets.push(*labels.get(name).ok_or_else(unknown)?);
            }
            match &mut self.kernel.code[at].op {
                Op::Branch(target) => *target = targets[0],
                Op::BranchIndexed(all, _) => *all = targets.into(),
                _ => {}
            }
        }
        self.calls.pop();
        let end = self.kernel.code.len() as u32;
        if self.calls.is_empty() {
            // A label may follow the last instruction, and a function may end without `ret`.
            self.kernel.code.push(Instruction {
                guard: None,
                op: Op::Exit,
                line: function.line,
                location: 0,
                text: "(end of the kernel)".into(),
            });
        } else {
            returns
                .iter()
                .filter(|&&at| at >= first)
                .for_each(|&at| self.kernel.code[at].op = Op::Branch(end));
        }
        Ok(())
    }

    /// Places a declared variable, or numbers declared registers.
    fn declare(&mut self, scope: &mut Scope<'a>, declaration: &Declaration<'a>) -> Result<()> {
        let depth = scope.registers.len() - 1;
        let place = match declaration.space {
            "reg" => {
                let first = self.kernel.registers as u32;
                let count = declaration.range.unwrap_or(1);
                self.kernel.registers += count as usize;
                if declaration.range.is_some() {
                    scope.ranges[depth].insert(declaration.name, (first, count));
                } else {
                    scope.registers[depth].insert(declaration.name, first);
                }
                return Ok(());
            }
            "shared" => Place::Shared(reserve(&mut self.shared, declaration)),
            "local" | "param" => Place::Local(reserve(&mut self.local, declaration)),
            space => {
                let message = format!("a .{space} variable inside a function is not supported");
                return Err(LoadError::new(declaration.line, message));
            }
        };
        scope.places[depth].insert(declaration.name, place);
        Ok(())
    }

    /// Returns the function of the module that an operand names.
    fn function_named(&self, scope: &Scope<'a>, raw: &RawInstruction<'a>) -> Option<&'a str> {
        let mut names = raw
            .operands
            .iter()
            .filter_map(|o| if let Raw::Name(name) = o { Some(*name) } else { None });
        names.find(|&name| {
            !name.starts_with('%')
                && scope.place(name).is_none()
                && self.raw.functions.iter().any(|f| f.name == name)
        })
    }

    /// Returns the function that is called, or the operation that replaces a call which cannot be
    /// inlined: a failed assertion traps, and any other is a fault of the kernel that executes it.
    fn callee(
        &self,
        scope: &Scope<'a>,
        raw: &RawInstruction<'a>,
    ) -> Result<std::result::Result<&'m Function<'a>, Op>> {
        let name = raw
            .operands
            .iter()
            .find_map(|o| if let Raw::Name(name) = o { Some(*name) } else { None });
        let name = name.ok_or_else(|| LoadError::new(raw.line, "a call without a name"))?;
        let unsupported = |what: String| Ok(Err(Op::Unsupported(what.into())));
        match self.raw.functions.iter().find(|f| f.name == name && f.body.is_some()) {
            _ if scope.register(name).is_some() => unsupported("calls through pointers".into()),
            _ if name == "__assertfail" => Ok(Err(Op::Trap)),
            None => unsupported(format!("call of {name}")),
            Some(_) if raw.guard.is_some() => {
                unsupported(format!("call of {name} under a predicate"))
            }
            Some(_) if self.calls.contains(&name) => {
                unsupported(format!("{name}, which calls itself"))
            }
            Some(callee) => Ok(Ok(callee)),
        }
    }

    /// Replaces a call with the body of the function. Its parameters are variables of the caller.
    fn call(
        &mut self,
        scope: &Scope<'a>,
        raw: &RawInstruction<'a>,
        callee: &'m Function<'a>,
    ) -> Result<()> {
        let (name, error) = (callee.name, |message: String| LoadError::new(raw.line, message));
        let groups: Vec<&Vec<Raw<'a>>> = raw
            .operands
            .iter()
            .filter_map(|o| if let Raw::Group(names) = o { Some(names) } else { None })
            .collect();
        let returns_first = matches!(raw.operands.first(), Some(Raw::Group(_)));
        let (returned, passed) = match (returns_first, groups.as_slice()) {
            (true, [returned]) => (Some(*returned), None),
            (true, [returned, passed, ..]) => (Some(*returned), Some(*passed)),
            (false, [passed, ..]) => (None, Some(*passed)),
            _ => (None, None),
        };
        let mut places = HashMap::new();
        for (declarations, names) in [(&callee.returns, returned), (&callee.params, passed)] {
            let names = names.map_or(&[][..], Vec::as_slice);
            if declarations.len() != names.len() {
                return Err(error(format!(
                    "call of {name} with {} arguments, it has {}",
                    names.len(),
                    declarations.len()
                )));
            }
            for (declaration, argument) in declarations.iter().zip(names) {
                let place = if let Raw::Name(name) = argument { scope.place(name) } else { None };
                let place = place.ok_or_else(|| {
                    error(format!("call of {name} with an argument that is no .param"))
                })?;
                places.insert(declaration.name, place);
            }
        }
        self.inline(callee, places)
    }
}

/// Makes every number a constant of the kernel, so that the executor has its 32 lanes ready.
fn intern_constants(kernel: &mut Kernel) {
    let mut index = HashMap::new();
    for instruction in &mut kernel.code {
        instruction.op.for_each_value(&mut |operand| {
            if let Operand::Imm(value) = *operand {
                let next = index.len() as u32;
                *operand = Operand::Const(*index.entry(value).or_insert(next));
            }
        });
    }
    kernel.constants.resize(index.len(), 0);
    index.into_iter().for_each(|(value, k)| kernel.constants[k as usize] = value);
}

/// Returns the labels that a branch may go to.
fn branch_names<'a>(raw: &RawInstruction<'a>, scope: &Scope<'a>) -> Result<Vec<&'a str>> {
    let error = || LoadError::new(raw.line, format!("{}: unknown target", raw.text));
    match raw.operands.last() {
        Some(Raw::Name(label)) if raw.stem() == "bra" => Ok(vec![label]),
        Some(Raw::Name(table)) => scope.targets(table).map(<[_]>::to_vec).ok_or_else(error),
        _ => Err(error()),
    }
}
