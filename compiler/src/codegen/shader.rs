//! What `codegen` makes of one kernel.

use std::{
    fmt::{self, Write},
    ops::Deref,
    sync::{Arc, OnceLock},
};

use naga::{
    AddressSpace, Block, Function, Module, Statement, TypeInner,
    valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationError, ValidationFlags, Validator},
};

use crate::{bug, lower::TensorId};

/// A validated module. One that was read from a file may be made only when it is first looked at.
#[derive(Clone)]
pub struct LateModule(Arc<Late>);

struct Late {
    made: OnceLock<Module>,
    make: Box<dyn Fn() -> Module + Send + Sync>,
}

impl LateModule {
    pub fn new(make: impl Fn() -> Module + Send + Sync + 'static) -> LateModule {
        LateModule(Arc::new(Late { made: OnceLock::new(), make: Box::new(make) }))
    }

    pub fn is_made(&self) -> bool {
        self.0.made.get().is_some()
    }
}

impl From<Module> for LateModule {
    fn from(module: Module) -> LateModule {
        LateModule(Arc::new(Late { made: OnceLock::from(module), make: Box::new(Module::default) }))
    }
}

impl Deref for LateModule {
    type Target = Module;

    fn deref(&self) -> &Module {
        self.0.made.get_or_init(|| (self.0.make)())
    }
}

impl fmt::Debug for LateModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LateModule").field(&self.0.made).finish()
    }
}

/// A validated module with one entry point, `main`.
#[derive(Clone, Debug)]
pub struct Shader {
    pub module: LateModule,
    pub workgroup_size: [u32; 3],
    /// Workgroups to dispatch.
    pub groups: [u32; 3],
    /// What binding `i` of group 0 holds. All are storage buffers, `read_write`.
    pub bindings: Vec<Binding>,
    /// Of the module's content; equal keys mean equal modules.
    pub key: u128,
}

/// A tensor, or one of the consecutive parts of a tensor that is larger than a binding may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    pub tensor: TensorId,
    /// Offset and length in the tensor's device form, in bytes.
    pub offset: u64,
    pub len: u64,
}

impl Shader {
    /// The module as WGSL.
    pub fn wgsl(&self) -> String {
        let info = validate(&self.module).unwrap_or_else(|it| bug!("a shader's module is not valid: {it:?}"));
        naga::back::wgsl::write_string(&self.module, &info, naga::back::wgsl::WriterFlags::empty())
            .unwrap_or_else(|it| bug!("a valid module has no text: {it}"))
    }
}

/// What modules may use: packing f16 in words, which WGSL has everywhere; subgroups, f16 and cooperative matrices, which only
/// kernels have that are scheduled for a target with them.
pub const CAPABILITIES: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SUBGROUP_BARRIER)
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::COOPERATIVE_MATRIX);

pub fn validate(module: &naga::Module) -> Result<ModuleInfo, Box<ValidationError>> {
    Validator::new(ValidationFlags::all(), CAPABILITIES)
        .validate(module)
        .map_err(|it| Box::new(it.into_inner()))
}

/// Where `module` writes a single component of a vector, which may undo what another invocation writes to another: in storage,
/// or in workgroup memory unless `components_apart` (see `Target`).
pub fn torn(module: &Module, info: &ModuleInfo, components_apart: bool) -> Option<AddressSpace> {
    let shared = |it: AddressSpace| match it {
        AddressSpace::WorkGroup => !components_apart,
        AddressSpace::Storage { .. } => true,
        _ => false,
    };
    let functions = module.functions.iter().map(|(handle, it)| (it, &info[handle]));
    let entries =
        module.entry_points.iter().enumerate().map(|(at, it)| (&it.function, info.get_entry_point(at)));
    functions.chain(entries).find_map(|(function, info)| {
        let mut written = Vec::new();
        components_written(module, (function, info), &function.body, &mut written);
        written.into_iter().find(|it| shared(*it))
    })
}

/// Where the stores of `block` to components of vectors write.
fn components_written(
    module: &Module,
    of: (&Function, &FunctionInfo),
    block: &Block,
    written: &mut Vec<AddressSpace>,
) {
    for statement in block.iter() {
        let inner: Vec<&Block> = match statement {
            Statement::Block(it) => vec![it],
            Statement::If { accept, reject, .. } => vec![accept, reject],
            Statement::Switch { cases, .. } => cases.iter().map(|it| &it.body).collect(),
            Statement::Loop { body, continuing, .. } => vec![body, continuing],
            // A pointer to a scalar that is no component has a type of its own.
            Statement::Store { pointer, .. } => {
                if let TypeInner::ValuePointer { size: None, space, .. } =
                    of.1[*pointer].ty.inner_with(&module.types)
                {
                    written.push(*space);
                }
                continue;
            }
            _ => continue,
        };
        inner.into_iter().for_each(|it| components_written(module, of, it, written));
    }
}

/// The hash of everything in `module` but the order in which its parts were found out: of its debug text, which names every
/// part and holds no addresses and no hash maps.
pub fn key(module: &naga::Module) -> u128 {
    let mut hasher = Hasher([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]);
    let parts: [&dyn fmt::Debug; 6] = [
        &module.types,
        &module.constants,
        &module.global_variables,
        &module.global_expressions,
        &module.functions,
        &module.entry_points,
    ];
    for part in parts {
        write!(hasher, "{part:?};").unwrap_or_else(|_| bug!("a hash cannot fail"));
    }
    (hasher.0[0] as u128) << 64 | hasher.0[1] as u128
}

/// Two independent lanes of multiply and rotate (the constants are primes from the digits of the golden ratio and of
/// pi).
struct Hasher([u64; 2]);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let [a, b] = &mut self.0;
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56;
            *a = (*a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            *b = (*b ^ word).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(31).wrapping_add(*a);
        }
        Ok(())
    }
}
