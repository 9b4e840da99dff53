//! Functions and templates from `shaders/*.wgsl`.
//!
//! A file is parsed once for each choice of its constants (`const NAME: u32 = N;`, or `bool`, or `alias NAME = vec4<fN>;`). What a kernel uses of it is copied into
//! the kernel's module, callees first, with the *holes* (functions that the file only declares the meaning of) replaced by
//! functions that were generated before.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock},
};

use naga::{
    Barrier, Block, Constant, EntryPoint, Expression, Function, GlobalVariable, Handle, Module, Span,
    Statement, Type, TypeInner,
};

use super::{
    unroll::{is_marked, unroll},
    writer::{FunctionHandle, Writer},
};
use crate::bug;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum File {
    Math,
    Reduce,
    Matmul,
    MatmulCoop,
    Conv,
    Attention,
    AttentionRow,
    AttentionCoop,
}

impl File {
    fn text(self) -> &'static str {
        match self {
            File::Math => include_str!("../../../shaders/math.wgsl"),
            File::Reduce => include_str!("../../../shaders/reduce.wgsl"),
            File::Matmul => include_str!("../../../shaders/matmul.wgsl"),
            File::MatmulCoop => include_str!("../../../shaders/matmul_coop.wgsl"),
            File::Conv => include_str!("../../../shaders/conv.wgsl"),
            File::Attention => include_str!("../../../shaders/attention.wgsl"),
            File::AttentionRow => include_str!("../../../shaders/attention_row.wgsl"),
            File::AttentionCoop => include_str!("../../../shaders/attention_coop.wgsl"),
        }
    }
}

/// A file with constants put in.
type Key = (File, Vec<(&'static str, u32)>);

/// A parsed file.
pub struct Library {
    file: File,
    module: Module,
    functions: BTreeMap<String, FunctionHandle>,
}

/// What a module already has of the libraries.
#[derive(Default)]
pub struct Copied {
    functions: HashMap<(File, FunctionHandle), FunctionHandle>,
    globals: HashMap<(File, Handle<GlobalVariable>), Handle<GlobalVariable>>,
    constants: HashMap<(File, Handle<Constant>), Handle<Constant>>,
    /// Types that stand for others, and how far apart their values lie in an array.
    types: HashMap<(File, Handle<Type>), (Handle<Type>, u32)>,
}

/// The library of `file` with the constants `values`. A module uses one choice of constants a file.
pub fn library(file: File, values: &[(&'static str, u32)]) -> Arc<Library> {
    static PARSED: OnceLock<Mutex<HashMap<Key, Arc<Library>>>> = OnceLock::new();
    let parsed = PARSED.get_or_init(Mutex::default);
    let key = (file, values.to_vec());
    if let Some(found) = parsed.lock().unwrap_or_else(|it| it.into_inner()).get(&key) {
        return found.clone();
    }
    // Parsed outside of the lock: two threads may do the same work, none waits for the other.
    let library = Arc::new(Library::parse(file, values));
    parsed.lock().unwrap_or_else(|it| it.into_inner()).entry(key).or_insert(library).clone()
}

/// The function `name` of `shaders/math.wgsl`, in the module of `writer`.
pub fn math(writer: &mut Writer, name: &str) -> FunctionHandle {
    static MATH: OnceLock<Arc<Library>> = OnceLock::new();
    MATH.get_or_init(|| library(File::Math, &[])).copy(writer, name)
}

impl Library {
    fn parse(file: File, values: &[(&'static str, u32)]) -> Library {
        let text = put_constants(file.text(), values);
        let parse = |text: &str| {
            naga::front::wgsl::parse_str(text)
                .unwrap_or_else(|it| bug!("{file:?} does not parse: {}", it.emit_to_string(text)))
        };
        let mut module = parse(&text);
        if is_marked(&text) {
            module = parse(&unroll(&text, &module));
        }
        let named = |(handle, it): (FunctionHandle, &Function)| Some((it.name.clone()?, handle));
        let functions = module.functions.iter().filter_map(named).collect();
        Library { file, module, functions }
    }

    fn find(&self, name: &str) -> FunctionHandle {
        *self.functions.get(name).unwrap_or_else(|| bug!("{:?} has no function {name}", self.file))
    }

    /// From here on `function` stands for the function `name`.
    pub fn fill(&self, writer: &mut Writer, name: &str, function: FunctionHandle) {
        writer.copied.functions.insert((self.file, self.find(name)), function);
    }

    /// From here on the structure `ty` of the module of `writer` stands for the type `name`.
    pub fn fill_type(&self, writer: &mut Writer, name: &str, ty: Handle<Type>) {
        let own = self.module.types.iter().find(|it| it.1.name.as_deref() == Some(name));
        let Some((own, _)) = own else { bug!("{:?} has no type {name}", self.file) };
        let TypeInner::Struct { span, .. } = writer.module.types[ty].inner else {
            bug!("{name} is no structure")
        };
        writer.copied.types.insert((self.file, own), (ty, span));
    }

    /// The function `name` in the module of `writer`.
    pub fn copy(&self, writer: &mut Writer, name: &str) -> FunctionHandle {
        self.function(writer, self.find(name))
    }

    /// The file's only entry point becomes that of the module. Gives its workgroup size.
    pub fn entry_point(&self, writer: &mut Writer) -> [u32; 3] {
        let [entry] = self.module.entry_points.as_slice() else {
            bug!("{:?} does not have one entry point", self.file)
        };
        let EntryPoint { function, workgroup_size, .. } = entry;
        let function = self.moved(writer, function);
        writer.entry_point(function, *workgroup_size);
        *workgroup_size
    }

    fn function(&self, writer: &mut Writer, function: FunctionHandle) -> FunctionHandle {
        if let Some(&found) = writer.copied.functions.get(&(self.file, function)) {
            return found;
        }
        let moved = self.moved(writer, &self.module.functions[function]);
        let handle = writer.module.functions.append(moved, Span::UNDEFINED);
        writer.copied.functions.insert((self.file, function), handle);
        handle
    }

    /// `function` with every handle into this library's module replaced. Expressions keep their places.
    fn moved(&self, writer: &mut Writer, function: &Function) -> Function {
        let mut moved = function.clone();
        for argument in &mut moved.arguments {
            argument.ty = self.ty(writer, argument.ty);
        }
        if let Some(result) = &mut moved.result {
            result.ty = self.ty(writer, result.ty);
        }
        for (_, local) in moved.local_variables.iter_mut() {
            local.ty = self.ty(writer, local.ty);
        }
        for (_, expr) in moved.expressions.iter_mut() {
            self.expression(writer, expr);
        }
        self.block(writer, &mut moved.body);
        moved
    }

    fn expression(&self, writer: &mut Writer, expr: &mut Expression) {
        match expr {
            Expression::Constant(it) => *it = self.constant(writer, *it),
            Expression::GlobalVariable(it) => *it = self.global(writer, *it),
            Expression::CallResult(it) => *it = self.function(writer, *it),
            Expression::ZeroValue(ty)
            | Expression::Compose { ty, .. }
            | Expression::AtomicResult { ty, .. }
            | Expression::WorkGroupUniformLoadResult { ty }
            | Expression::SubgroupOperationResult { ty } => *ty = self.ty(writer, *ty),
            Expression::Override(_) => bug!("{:?} has an override", self.file),
            _ => {}
        }
    }

    fn block(&self, writer: &mut Writer, block: &mut Block) {
        for statement in block.iter_mut() {
            match statement {
                Statement::Call { function, .. } => *function = self.function(writer, *function),
                // A subgroup's barrier is for what it shares, which WGSL leaves open and naga leaves out.
                Statement::ControlBarrier(flags) if flags.contains(Barrier::SUB_GROUP) => {
                    *flags |= Barrier::WORK_GROUP;
                }
                Statement::Block(inner) => self.block(writer, inner),
                Statement::If { accept, reject, .. } => {
                    self.block(writer, accept);
                    self.block(writer, reject);
                }
                Statement::Switch { cases, .. } => {
                    cases.iter_mut().for_each(|it| self.block(writer, &mut it.body));
                }
                Statement::Loop { body, continuing, .. } => {
                    self.block(writer, body);
                    self.block(writer, continuing);
                }
                _ => {}
            }
        }
    }

    fn ty(&self, writer: &mut Writer, ty: Handle<Type>) -> Handle<Type> {
        if let Some(filled) = writer.copied.types.get(&(self.file, ty)) {
            return filled.0;
        }
        let Type { name, mut inner } = self.module.types[ty].clone();
        match &mut inner {
            TypeInner::Array { base, stride, .. }
                if writer.copied.types.contains_key(&(self.file, *base)) =>
            {
                (*base, *stride) = writer.copied.types[&(self.file, *base)];
            }
            TypeInner::Array { base, .. } | TypeInner::Pointer { base, .. } => {
                *base = self.ty(writer, *base);
            }
            TypeInner::Struct { members, .. } => {
                members.iter_mut().for_each(|it| it.ty = self.ty(writer, it.ty));
            }
            _ => {}
        }
        writer.module.types.insert(Type { name, inner }, Span::UNDEFINED)
    }

    fn global(&self, writer: &mut Writer, global: Handle<GlobalVariable>) -> Handle<GlobalVariable> {
        if let Some(&found) = writer.copied.globals.get(&(self.file, global)) {
            return found;
        }
        let mut moved = self.module.global_variables[global].clone();
        moved.ty = self.ty(writer, moved.ty);
        moved.init = moved.init.map(|it| self.global_expression(writer, it));
        let handle = writer.module.global_variables.append(moved, Span::UNDEFINED);
        writer.copied.globals.insert((self.file, global), handle);
        handle
    }

    fn constant(&self, writer: &mut Writer, constant: Handle<Constant>) -> Handle<Constant> {
        if let Some(&found) = writer.copied.constants.get(&(self.file, constant)) {
            return found;
        }
        let mut moved = self.module.constants[constant].clone();
        moved.ty = self.ty(writer, moved.ty);
        moved.init = self.global_expression(writer, moved.init);
        let handle = writer.module.constants.append(moved, Span::UNDEFINED);
        writer.copied.constants.insert((self.file, constant), handle);
        handle
    }

    fn global_expression(&self, writer: &mut Writer, expr: Handle<Expression>) -> Handle<Expression> {
        let mut moved = self.module.global_expressions[expr].clone();
        match &mut moved {
            Expression::Compose { components, .. } => {
                components.iter_mut().for_each(|it| *it = self.global_expression(writer, *it));
            }
            Expression::Splat { value, .. } => *value = self.global_expression(writer, *value),
            Expression::Literal(_) | Expression::ZeroValue(_) | Expression::Constant(_) => {}
            it => bug!("{:?} has the global expression {it:?}", self.file),
        }
        self.expression(writer, &mut moved);
        writer.module.global_expressions.append(moved, Span::UNDEFINED)
    }
}

/// `text` with the value of each named constant replaced; those of type `bool` are 0 or 1, those that are vectors of floats by
/// another name are bits.
fn put_constants(text: &str, values: &[(&'static str, u32)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in values {
        let alias = format!("alias {name} = vec4<f");
        if let Some(at) = text.find(&alias).map(|it| it + alias.len()) {
            let Some(end) = text[at..].find('>') else { bug!("the type {name} has no end") };
            text.replace_range(at..at + end, &value.to_string());
            continue;
        }
        let start = format!("const {name}: ");
        let Some(at) = text.find(&start).map(|it| it + start.len()) else {
            bug!("a shader has no constant {name}")
        };
        let Some(end) = text[at..].find(';') else { bug!("the constant {name} has no end") };
        let constant = match text[at..].starts_with("bool") {
            true => format!("bool = {}", *value != 0),
            false => format!("u32 = {value}u"),
        };
        text.replace_range(at..at + end, &constant);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::shader::CAPABILITIES, *};

    #[test]
    fn files_parse_and_their_functions_can_be_copied() {
        let files = [
            File::Math,
            File::Reduce,
            File::Matmul,
            File::MatmulCoop,
            File::Attention,
            File::AttentionRow,
            File::AttentionCoop,
        ];
        for file in files {
            let library = library(file, &[]);
            let mut writer = Writer::default();
            for name in library.functions.keys() {
                library.copy(&mut writer, name);
            }
            let cooperates = matches!(file, File::MatmulCoop | File::AttentionCoop);
            let capabilities = if cooperates { CAPABILITIES } else { naga::valid::Capabilities::empty() };
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
                .validate(&writer.module)
                .unwrap_or_else(|it| panic!("{file:?}: {it:?}"));
        }
    }
}
