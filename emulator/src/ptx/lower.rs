//! From statements to kernels: names become registers and offsets, calls are inlined at their place, labels become instruction numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::LoadError;
use super::decode::decode;
use super::statement::parse;
use super::syntax::{Declaration, Function, Loc, Raw, RawInstruction, RawModule, Statement};
use crate::ir::{Guard, Instruction, Kernel, Location, Module, Op, Operand, Param, Special, Variable};

type Result<T> = std::result::Result<T, LoadError>;

/// What a name that is no register stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Shared(u64),
    /// Behind the static shared memory, whose size is known only when the whole kernel has been read.
    DynamicShared,
    Local(u64),
    KernelParam(u64),
    Variable(u32),
}

/// The names of one inlined function, innermost block last.
#[derive(Default)]
pub(super) struct Scope<'a> {
    registers: Vec<HashMap<&'a str, u32>>,
    /// Prefix of a `%r<5>`, its first register and how many there are.
    ranges: Vec<HashMap<&'a str, (u32, u32)>>,
    places: Vec<HashMap<&'a str, Place>>,
    targets: HashMap<&'a str, Vec<&'a str>>,
    /// The register of the carry flag, the first of all.
    pub(super) flag: u32,
}

impl<'a> Scope<'a> {
    fn open(&mut self) {
        self.registers.push(HashMap::new());
        self.ranges.push(HashMap::new());
        self.places.push(HashMap::new());
    }

    fn close(&mut self) {
        self.registers.pop();
        self.ranges.pop();
        self.places.pop();
    }

    pub(super) fn register(&self, name: &str) -> Option<u32> {
        if let Some(&found) = self.registers.iter().rev().find_map(|names| names.get(name)) {
            return Some(found);
        }
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, index) = (&name[..digits], name[digits..].parse::<u32>().ok()?);
        let &(first, count) = self.ranges.iter().rev().find_map(|ranges| ranges.get(prefix))?;
        (index < count).then_some(first + index)
    }

    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.places.iter().rev().find_map(|names| names.get(name)).copied()
    }

    pub(super) fn targets(&self, table: &str) -> Option<&[&'a str]> {
        self.targets.get(table).map(Vec::as_slice)
    }
}

/// Reads a module.
pub(crate) fn load(source: &str) -> Result<Module> {
    let raw = parse(source)?;
    let mut module = Module { target: raw.target, version: raw.version, ..Module::default() };
    let mut globals = HashMap::new();
    let mut shared = 0;
    for declaration in raw.variables.iter().filter(|d| d.space != "shared") {
        let mut bytes = declaration.bytes.clone();
        bytes.resize(declaration.size(), 0);
        globals.insert(declaration.name, Place::Variable(module.variables.len() as u32));
        module.variables.push(Variable { name: declaration.name.to_owned(), size: declaration.size(), bytes });
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
    module.kernels =
        kernels.into_iter().map(|kernel| Arc::new(Kernel { locations: locations.clone(), ..kernel })).collect();
    Ok(module)
}

fn reserve(end: &mut u64, declaration: &Declaration<'_>) -> u64 {
    let start = end.next_multiple_of(declaration.align.max(1) as u64);
    *end = start + declaration.size() as u64;
    start
}

/// The source lines of a module, each once.
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

struct Lowering<'m, 'a> {
    raw: &'m RawModule<'a>,
    globals: &'m HashMap<&'a str, Place>,
    locations: &'m mut Locations,
    kernel: Kernel,
    shared: u64,
    local: u64,
    dynamic_align: u64,
    calls: Vec<&'a str>,
}

impl<'m, 'a> Lowering<'m, 'a> {
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
        let mut lowering = Self { raw, globals, locations, kernel, shared, local: 0, dynamic_align: 16, calls: vec![] };
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

    fn inline(&mut self, function: &'m Function<'a>, places: HashMap<&'a str, Place>) -> Result<()> {
        let missing =
            || LoadError::new(function.line, format!("function {} has no body in this module", function.name));
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
        for declaration in self.raw.variables.iter().filter(|d| d.space == "shared" && d.count.is_none()) {
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
                    if raw.stem() == "call" {
                        self.call(&scope, raw, location)?;
                        continue;
                    }
                    let op = decode(raw, &scope)?;
                    let at = self.kernel.code.len();
                    match raw.stem() {
                        "bra" => branches.push((at, raw.line, branch_names(raw, &scope)?)),
                        "brx" => branches.push((at, raw.line, branch_names(raw, &scope)?)),
                        "ret" => returns.push(at),
                        _ => {}
                    }
                    let guard = match raw.guard {
                        Some((name, negated)) => {
                            let unknown = || LoadError::new(raw.line, format!("unknown predicate {name}"));
                            Some(Guard { reg: scope.register(name).ok_or_else(unknown)?, negated })
                        }
                        None => None,
                    };
                    self.kernel.code.push(Instruction { guard, op, line: raw.line, location, text: raw.text.into() });
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
            // A label may stand behind the last instruction, and a function may end without `ret`.
            self.kernel.code.push(Instruction {
                guard: None,
                op: Op::Exit,
                line: function.line,
                location: 0,
                text: "(end of the kernel)".into(),
            });
        } else {
            returns.iter().filter(|&&at| at >= first).for_each(|&at| self.kernel.code[at].op = Op::Branch(end));
        }
        Ok(())
    }

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

    /// The body of the called function takes the call's place: its parameters are the caller's variables.
    fn call(&mut self, scope: &Scope<'a>, raw: &RawInstruction<'a>, location: u32) -> Result<()> {
        let error = |message: String| LoadError::new(raw.line, message);
        let groups: Vec<&Vec<Raw<'a>>> =
            raw.operands.iter().filter_map(|o| if let Raw::Group(names) = o { Some(names) } else { None }).collect();
        let name = raw.operands.iter().find_map(|o| if let Raw::Name(name) = o { Some(*name) } else { None });
        let name = name.ok_or_else(|| error("a call without a name".into()))?;
        let callee = self.raw.functions.iter().find(|f| f.name == name && f.body.is_some());
        // What cannot be inlined is an error of the kernel that comes to it: an assertion that failed, or what nobody knows.
        let refused = if scope.register(name).is_some() {
            Some(Op::Unsupported(format!("the call through the pointer {name}").into()))
        } else if raw.guard.is_some() {
            Some(Op::Unsupported(format!("the call of {name} under a predicate").into()))
        } else if self.calls.contains(&name) {
            Some(Op::Unsupported(format!("{name}, which calls itself").into()))
        } else if name == "__assertfail" {
            Some(Op::Trap)
        } else if callee.is_none() {
            Some(Op::Unsupported(format!("the call of {name}").into()))
        } else {
            None
        };
        let (callee, op) = match (callee, refused) {
            (Some(callee), None) => (callee, None),
            (_, op) => return self.refuse(raw, scope, location, op.unwrap_or(Op::Trap)),
        };
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
                let place = place.ok_or_else(|| error(format!("call of {name} with an argument that is no .param")))?;
                places.insert(declaration.name, place);
            }
        }
        self.inline(callee, places)
    }
}

/// Makes every number a constant of the kernel, so that the executor finds its 32 lanes ready.
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

fn branch_names<'a>(raw: &RawInstruction<'a>, scope: &Scope<'a>) -> Result<Vec<&'a str>> {
    let error = || LoadError::new(raw.line, format!("{}: unknown target", raw.text));
    match raw.operands.last() {
        Some(Raw::Name(label)) if raw.stem() == "bra" => Ok(vec![label]),
        Some(Raw::Name(table)) => scope.targets(table).map(<[_]>::to_vec).ok_or_else(error),
        _ => Err(error()),
    }
}

/// The value of a register that tells of clusters, or of grids, where each block is a cluster of its own.
pub(super) fn cluster_of_one(name: &str) -> Option<u64> {
    let stem = name.split('.').next().unwrap_or(name);
    Some(match stem {
        "%cluster_nctaid" | "%cluster_nctarank" => 1,
        "%cluster_ctaid" | "%cluster_ctarank" | "%is_explicit_cluster" | "%gridid" => 0,
        _ => return None,
    })
}

/// The hardware's register of that name.
pub(super) fn special(name: &str) -> Option<Special> {
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::WarpCount,
        "WARP_SZ" => Special::WarpSize,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%lanemask_eq" => Special::MaskEq,
        "%smid" => Special::Sm,
        "%nsmid" => Special::SmCount,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%clock" | "%clock64" | "%globaltimer" | "%clock_hi" | "%globaltimer_lo" => Special::Clock,
        _ => {
            let (stem, of) = name.split_once('.')?;
            match stem {
                "%tid" => Special::Tid(axis(of)?),
                "%ntid" => Special::Ntid(axis(of)?),
                "%ctaid" | "%clusterid" => Special::Ctaid(axis(of)?),
                "%nctaid" | "%nclusterid" => Special::Nctaid(axis(of)?),
                _ => return None,
            }
        }
    })
}
