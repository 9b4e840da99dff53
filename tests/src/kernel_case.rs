//! A kernel built by hand or at random, run on the device and by the evaluator, and compared.

use std::sync::Arc;

use slotmap::SlotMap;
use wgfuse_compiler::{
    codegen::{Shader, device_bytes, emit},
    dtype::{Class, DType},
    index::Index,
    lower::{Body, Coords, Definition, Expr, ExprId, TensorId, TensorInfo, eval::Memory},
    options::Options,
    scalar::Scalar,
    schedule::{Kernel, Schedule, Skeleton, Store, eval::eval_kernel},
    shape::{Shape, Type},
    target::{Place, Target},
};

use crate::{
    gpu::{from_device, gpu, to_device},
    random::Random,
};

/// What poisoned bytes look like: as f32 -1.3e38, as a word neither 0 nor 1.
const POISON: u8 = 0xfe;

pub struct Case {
    pub tensors: SlotMap<TensorId, TensorInfo>,
    pub values: Memory,
    pub body: Body,
    pub stores: Vec<Store>,
    pub target: Target,
    random: Random,
}

impl Case {
    pub fn new(seed: u64) -> Case {
        Case {
            tensors: SlotMap::with_key(),
            values: Memory::new(),
            body: Body::default(),
            stores: Vec::new(),
            target: Target::webgpu_minimum(),
            random: Random::new(seed),
        }
    }

    fn tensor(&mut self, dtype: DType, shape: impl Into<Shape>) -> TensorId {
        let origin = Arc::from(format!("t{}", self.tensors.len()));
        let ty = Type::new(dtype, shape);
        self.tensors.insert(TensorInfo { ty, definition: Definition::Input(0), origin })
    }

    /// A tensor with these elements.
    pub fn given(&mut self, dtype: DType, shape: impl Into<Shape>, values: &[f64]) -> TensorId {
        let tensor = self.tensor(dtype, shape);
        assert_eq!(self.tensors[tensor].ty.shape.count(), values.len());
        self.values.insert(tensor, values.iter().map(|&it| Scalar::of(dtype, it)).collect());
        tensor
    }

    /// A tensor with random elements: floats in -2..2, integers of their whole range up to 16 bits.
    pub fn input(&mut self, dtype: DType, shape: impl Into<Shape>) -> TensorId {
        let shape = shape.into();
        let values: Vec<f64> = (0..shape.count())
            .map(|_| match dtype.class() {
                Class::Float => self.random.unit() * 2.0,
                Class::Bool => (self.random.below(2)) as f64,
                Class::Signed => self.random.below(1 << 16) as f64 - 32768.0,
                Class::Unsigned => self.random.below(1 << 16) as f64,
            })
            .collect();
        // Integers wrap to their width through i64.
        let wrapped: Vec<Scalar> = values
            .iter()
            .map(|&it| match dtype.class() {
                Class::Float | Class::Bool => Scalar::of(dtype, it),
                Class::Signed | Class::Unsigned => Scalar::Int(it as i64).cast(DType::I64, dtype),
            })
            .collect();
        let tensor = self.tensor(dtype, shape);
        self.values.insert(tensor, wrapped);
        tensor
    }

    pub fn load(&mut self, tensor: TensorId, at: impl IntoIterator<Item = Index>) -> ExprId {
        let dtype = self.tensors[tensor].ty.dtype;
        self.body.add(Expr::Load { tensor, at: at.into_iter().collect(), guard: None }, dtype)
    }

    pub fn load_if(
        &mut self,
        guard: ExprId,
        tensor: TensorId,
        at: impl IntoIterator<Item = Index>,
    ) -> ExprId {
        let dtype = self.tensors[tensor].ty.dtype;
        self.body.add(Expr::Load { tensor, at: at.into_iter().collect(), guard: Some(guard) }, dtype)
    }

    pub fn param(&mut self, number: u32) -> ExprId {
        self.body.add(Expr::Param(number), DType::F32)
    }

    /// A new tensor of `shape`, written at `at`.
    pub fn store(
        &mut self,
        shape: impl Into<Shape>,
        at: impl IntoIterator<Item = Index>,
        value: ExprId,
    ) -> TensorId {
        let tensor = self.tensor(self.body.dtype(value), shape);
        self.stores.push(Store { tensor, at: at.into_iter().collect::<Coords>(), value });
        tensor
    }

    pub fn schedule(&self, skeleton: Skeleton) -> Schedule {
        let written: Vec<TensorId> = self.stores.iter().map(|it| it.tensor).collect();
        let read: Vec<TensorId> = self.tensors.keys().filter(|it| !written.contains(it)).collect();
        let kernel = Kernel {
            name: "k000_test".to_owned(),
            place: Place::Gpu,
            origins: vec![],
            ops: vec![],
            body: self.body.clone(),
            skeleton,
            stores: self.stores.clone(),
            tensors: read.into_iter().chain(written).collect(),
        };
        Schedule {
            tensors: self.tensors.clone(),
            kernels: vec![kernel],
            outputs: vec![],
            states: vec![],
            refusals: vec![],
        }
    }

    pub fn shader(&self, skeleton: Skeleton) -> Shader {
        let emitted =
            emit(&self.schedule(skeleton), &self.target, &Options::default()).expect("it is supported");
        emitted.into_iter().next().flatten().expect("a kernel on the GPU has a shader")
    }

    /// Runs the kernel on the device, checked and not, and compares every written element with the evaluator's, within
    /// `tolerance` of the larger of 1 and the value. Gives the shader.
    pub fn check(&self, skeleton: Skeleton, tolerance: f64) -> Shader {
        let shader = self.shader(skeleton.clone());
        assert_eq!(shader.key, self.shader(skeleton.clone()).key, "the same kernel gives the same module");
        print_everywhere(&shader);
        self.compare(&shader, skeleton, tolerance);
        shader
    }

    /// Runs `shader`, which is that of `skeleton`, as `check` does.
    pub fn compare(&self, shader: &Shader, skeleton: Skeleton, tolerance: f64) {
        let schedule = self.schedule(skeleton);
        let mut expected = self.values.clone();
        eval_kernel(&schedule.kernels[0], &schedule.tensors, &mut expected);

        for checked in [false, true] {
            run_and_compare(
                shader,
                &schedule.kernels[0],
                &schedule.tensors,
                &self.values,
                &expected,
                checked,
                tolerance,
            );
        }
    }
}

/// Runs `shader` on what `before` holds, everything else poisoned, and compares what it writes with `after`.
pub fn run_and_compare(
    shader: &Shader,
    kernel: &Kernel,
    tensors: &SlotMap<TensorId, TensorInfo>,
    before: &Memory,
    after: &Memory,
    checked: bool,
    tolerance: f64,
) {
    let mut buffers: Vec<Vec<u8>> = (shader.bindings.iter())
        .map(|it| {
            let ty = &tensors[it.tensor].ty;
            let whole = match before.get(it.tensor) {
                Some(values) => to_device(ty, values),
                None => vec![POISON; device_bytes(ty) as usize],
            };
            whole[it.offset as usize..(it.offset + it.len) as usize].to_vec()
        })
        .collect();
    gpu().run(shader, &mut buffers, checked);
    for store in &kernel.stores {
        let info = &tensors[store.tensor];
        let parts = shader.bindings.iter().zip(&buffers).filter(|it| it.0.tensor == store.tensor);
        let bytes: Vec<u8> = parts.flat_map(|it| it.1.clone()).collect();
        let have = from_device(&info.ty, &bytes);
        for (at, (have, want)) in have.iter().zip(&after[store.tensor]).enumerate() {
            assert!(
                near(*have, *want, tolerance),
                "{} of {} [{at}]: {have:?}, not {want:?} (checked: {checked})\n{}",
                info.origin,
                kernel.name,
                shader.wgsl()
            );
        }
    }
}

fn near(have: Scalar, want: Scalar, tolerance: f64) -> bool {
    match (have, want) {
        (Scalar::Float(a), Scalar::Float(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * b.abs().max(1.0)
        }
        (a, b) => a.as_i64() == b.as_i64(),
    }
}

/// Every naga back end takes the module, and its WGSL parses again.
pub fn print_everywhere(shader: &Shader) {
    use naga::{ShaderStage, back, valid};
    let module = &shader.module;
    let validate = |it: &naga::Module| {
        let capabilities = valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32 | valid::Capabilities::SUBGROUP;
        valid::Validator::new(valid::ValidationFlags::all(), capabilities)
            .validate(it)
            .expect("a valid module")
    };
    let info = validate(module);
    let stage = back::spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    back::spv::write_vec(module, &info, &options, Some(&stage)).expect("SPIR-V");
    let resources = (0..shader.bindings.len() as u32).map(|binding| {
        let target =
            back::msl::BindTarget { buffer: Some(binding as u8), mutable: true, ..Default::default() };
        (naga::ResourceBinding { group: 0, binding }, target)
    });
    let entry = back::msl::EntryPointResources {
        resources: resources.collect(),
        sizes_buffer: Some(30),
        ..Default::default()
    };
    let options = back::msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [("main".to_owned(), entry)].into_iter().collect(),
        fake_missing_bindings: false,
        ..Default::default()
    };
    back::msl::write_string(module, &info, &options, &Default::default()).expect("MSL");
    let mut text = String::new();
    let shader_model = back::hlsl::ShaderModel::V6_0;
    let options = back::hlsl::Options { fake_missing_bindings: true, shader_model, ..Default::default() };
    let stage = back::hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    back::hlsl::Writer::new(&mut text, &options, &stage).write(module, &info, None).expect("HLSL");
    let mut text = String::new();
    let options = back::glsl::Options {
        version: back::glsl::Version::Embedded { version: 310, is_webgl: false },
        ..Default::default()
    };
    let stage = back::glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: "main".into(),
        multiview: None,
    };
    back::glsl::Writer::new(&mut text, module, &info, &options, &stage, Default::default())
        .and_then(|mut it| it.write())
        .expect("GLSL");
    let text = shader.wgsl();
    let again = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|it| panic!("{}\n{text}", it.emit_to_string(&text)));
    validate(&again);
}
