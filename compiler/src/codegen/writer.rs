//! Builds naga functions: `Writer` holds the module, `Code` the function under construction.
//!
//! naga wants each computed expression covered by exactly one `Emit`, in the block where it is computed, and leaves
//! covered by none. That rule lives here: nothing outside this file says `Emit`.

use std::collections::HashMap;

use naga::{
    AddressSpace, ArraySize, BinaryOperator, Binding, Block, BuiltIn, CollectiveOperation, EntryPoint,
    Expression, Function, FunctionArgument, FunctionResult, GlobalVariable, Literal, LocalVariable,
    MathFunction, MemoryDecorations, Module, ResourceBinding, ScalarKind, ShaderStage, Span, Statement,
    StorageAccess, StructMember, SubgroupOperation, Type, TypeInner, UnaryOperator, VectorSize,
};

use super::types::Word;
use crate::bug;

pub type Handle = naga::Handle<Expression>;
pub type FunctionHandle = naga::Handle<Function>;

#[derive(Default)]
pub struct Writer {
    pub module: Module,
    /// What has been copied from libraries.
    pub copied: super::library::Copied,
}

impl Writer {
    pub fn ty(&mut self, inner: TypeInner) -> naga::Handle<Type> {
        self.module.types.insert(Type { name: None, inner }, Span::UNDEFINED)
    }

    pub fn word(&mut self, word: Word) -> naga::Handle<Type> {
        self.ty(TypeInner::Scalar(word.scalar()))
    }

    /// `width` words: 1, or a vector of 2 or 4.
    pub fn words(&mut self, word: Word, width: u32) -> naga::Handle<Type> {
        let scalar = word.scalar();
        self.ty(match width {
            1 => TypeInner::Scalar(scalar),
            2 => TypeInner::Vector { size: VectorSize::Bi, scalar },
            4 => TypeInner::Vector { size: VectorSize::Quad, scalar },
            it => bug!("no vector has {it} components here"),
        })
    }

    /// A vector of four f16.
    pub fn halves(&mut self) -> naga::Handle<Type> {
        self.ty(TypeInner::Vector { size: VectorSize::Quad, scalar: naga::Scalar::F16 })
    }

    /// A structure of members of those types.
    pub fn structure(&mut self, name: &str, types: &[naga::Handle<Type>]) -> naga::Handle<Type> {
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(self.module.to_ctx()).unwrap_or_else(|it| bug!("{name} has no layout: {it}"));
        let (mut span, mut widest) = (0, naga::proc::Alignment::ONE);
        let mut members = Vec::new();
        for (number, &ty) in types.iter().enumerate() {
            let layout = layouter[ty];
            let offset = layout.alignment.round_up(span);
            members.push(StructMember { name: Some(format!("m{number}")), ty, binding: None, offset });
            span = offset + layout.size;
            widest = widest.max(layout.alignment);
        }
        let inner = TypeInner::Struct { members, span: widest.round_up(span) };
        self.module.types.insert(Type { name: Some(name.to_owned()), inner }, Span::UNDEFINED)
    }

    /// A storage buffer of words, `width` (1, 2 or 4) an element, at `binding` of group 0.
    pub fn storage(
        &mut self,
        binding: u32,
        word: Word,
        width: u32,
        atomic: bool,
    ) -> naga::Handle<GlobalVariable> {
        let base = match atomic {
            true => self.ty(TypeInner::Atomic(word.scalar())),
            false => self.words(word, width),
        };
        self.buffer(binding, base, 4 * width)
    }

    /// A storage buffer of vectors of four f16, at `binding` of group 0.
    pub fn storage_of_halves(&mut self, binding: u32) -> naga::Handle<GlobalVariable> {
        let base = self.halves();
        self.buffer(binding, base, 8)
    }

    fn buffer(
        &mut self,
        binding: u32,
        base: naga::Handle<Type>,
        stride: u32,
    ) -> naga::Handle<GlobalVariable> {
        let ty = self.ty(TypeInner::Array { base, size: ArraySize::Dynamic, stride });
        let variable = GlobalVariable {
            name: Some(format!("b{binding}")),
            space: AddressSpace::Storage { access: StorageAccess::LOAD | StorageAccess::STORE },
            binding: Some(ResourceBinding { group: 0, binding }),
            ty,
            init: None,
            memory_decorations: MemoryDecorations::empty(),
        };
        self.module.global_variables.append(variable, Span::UNDEFINED)
    }

    /// So many words that a workgroup shares.
    pub fn workgroup(&mut self, word: Word, count: u32) -> naga::Handle<GlobalVariable> {
        let base = self.word(word);
        let Some(size) = std::num::NonZeroU32::new(count) else { bug!("no words to share") };
        let ty = self.ty(TypeInner::Array { base, size: ArraySize::Constant(size), stride: 4 });
        let variable = GlobalVariable {
            name: Some("shared".to_owned()),
            space: AddressSpace::WorkGroup,
            binding: None,
            ty,
            init: None,
            memory_decorations: MemoryDecorations::empty(),
        };
        self.module.global_variables.append(variable, Span::UNDEFINED)
    }

    pub fn entry_point(&mut self, function: Function, workgroup_size: [u32; 3]) {
        self.module.entry_points.push(EntryPoint {
            name: "main".to_owned(),
            stage: ShaderStage::Compute,
            early_depth_test: None,
            workgroup_size,
            workgroup_size_overrides: None,
            function,
            mesh_info: None,
            task_payload: None,
            incoming_ray_payload: None,
        });
    }
}

/// Leaves that occur once a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Leaf {
    U32(u32),
    I32(i32),
    F32(u32),
    Bool(bool),
    Argument(u32),
    Global(naga::Handle<GlobalVariable>),
}

pub struct Code<'w> {
    pub writer: &'w mut Writer,
    function: Function,
    /// The blocks being written, innermost last.
    blocks: Vec<Block>,
    /// First and last of the expressions made since the last statement.
    pending: Option<(Handle, Handle)>,
    leaves: HashMap<Leaf, Handle>,
}

impl<'w> Code<'w> {
    pub fn new(writer: &'w mut Writer, name: &str) -> Code<'w> {
        let function = Function { name: Some(name.to_owned()), ..Function::default() };
        Code { writer, function, blocks: vec![Block::new()], pending: None, leaves: HashMap::new() }
    }

    fn finish(mut self) -> (&'w mut Writer, Function) {
        self.flush();
        assert_eq!(self.blocks.len(), 1, "every block is closed");
        self.function.body = self.blocks.remove(0);
        (self.writer, self.function)
    }

    /// The function becomes the module's entry point.
    pub fn entry_point(self, workgroup_size: [u32; 3]) {
        let (writer, function) = self.finish();
        writer.entry_point(function, workgroup_size);
    }

    /// The function becomes one of the module's.
    pub fn function(self) -> FunctionHandle {
        let (writer, function) = self.finish();
        writer.module.functions.append(function, Span::UNDEFINED)
    }

    pub fn argument(&mut self, name: &str, word: Word) -> Handle {
        self.arguments(name, word, 1)
    }

    /// An argument of 1, 2 or 4 words.
    pub fn arguments(&mut self, name: &str, word: Word, width: u32) -> Handle {
        let ty = self.writer.words(word, width);
        self.push_argument(name, ty, None)
    }

    pub fn builtin(&mut self, name: &str, builtin: BuiltIn) -> Handle {
        let inner = match builtin {
            BuiltIn::LocalInvocationIndex | BuiltIn::SubgroupId | BuiltIn::SubgroupInvocationId => {
                TypeInner::Scalar(naga::Scalar::U32)
            }
            _ => TypeInner::Vector { size: VectorSize::Tri, scalar: naga::Scalar::U32 },
        };
        let ty = self.writer.ty(inner);
        self.push_argument(name, ty, Some(Binding::BuiltIn(builtin)))
    }

    fn push_argument(&mut self, name: &str, ty: naga::Handle<Type>, binding: Option<Binding>) -> Handle {
        let number = self.function.arguments.len() as u32;
        self.function.arguments.push(FunctionArgument { name: Some(name.to_owned()), ty, binding });
        self.leaf(Leaf::Argument(number), Expression::FunctionArgument(number))
    }

    pub fn result(&mut self, word: Word) {
        self.results(word, 1);
    }

    /// The result is 1, 2 or 4 words.
    pub fn results(&mut self, word: Word, width: u32) {
        let ty = self.writer.words(word, width);
        self.function.result = Some(FunctionResult { ty, binding: None });
    }

    /// The result is of that type.
    pub fn result_of(&mut self, ty: naga::Handle<Type>) {
        self.function.result = Some(FunctionResult { ty, binding: None });
    }

    pub fn argument_of(&mut self, name: &str, ty: naga::Handle<Type>) -> Handle {
        self.push_argument(name, ty, None)
    }

    /// A value of a structure.
    pub fn compose(&mut self, ty: naga::Handle<Type>, components: Vec<Handle>) -> Handle {
        self.expr(Expression::Compose { ty, components })
    }

    /// A variable of the function; its value is not defined until it is stored to.
    pub fn local(&mut self, name: &str, word: Word) -> Handle {
        self.locals(name, word, 1)
    }

    /// A variable of 1, 2 or 4 words.
    pub fn locals(&mut self, name: &str, word: Word, width: u32) -> Handle {
        let ty = self.writer.words(word, width);
        self.declare(LocalVariable { name: Some(name.to_owned()), ty, init: None })
    }

    fn declare(&mut self, local: LocalVariable) -> Handle {
        let local = self.function.local_variables.append(local, Span::UNDEFINED);
        self.flush();
        self.function.expressions.append(Expression::LocalVariable(local), Span::UNDEFINED)
    }

    pub fn u32(&mut self, value: u32) -> Handle {
        self.leaf(Leaf::U32(value), Expression::Literal(Literal::U32(value)))
    }

    pub fn i32(&mut self, value: i32) -> Handle {
        self.leaf(Leaf::I32(value), Expression::Literal(Literal::I32(value)))
    }

    /// `value` is finite.
    pub fn f32(&mut self, value: f32) -> Handle {
        assert!(value.is_finite(), "naga has no literal for {value}");
        self.leaf(Leaf::F32(value.to_bits()), Expression::Literal(Literal::F32(value)))
    }

    /// Infinities and NaN are read from a variable, because a constant expression must not be one; so is the largest float,
    /// whose shortest decimal spelling, which naga prints, is larger and which browsers refuse.
    pub fn f32_any(&mut self, value: f32) -> Handle {
        if value.abs() < f32::MAX {
            return self.f32(value);
        }
        let bits = self.u32(value.to_bits());
        let ty = self.writer.word(Word::U32);
        let local = LocalVariable { name: Some("bits".to_owned()), ty, init: Some(bits) };
        let pointer = self.declare(local);
        let bits = self.load(pointer);
        self.bitcast(bits, ScalarKind::Float)
    }

    pub fn bool(&mut self, value: bool) -> Handle {
        self.leaf(Leaf::Bool(value), Expression::Literal(Literal::Bool(value)))
    }

    pub fn global(&mut self, variable: naga::Handle<GlobalVariable>) -> Handle {
        self.leaf(Leaf::Global(variable), Expression::GlobalVariable(variable))
    }

    fn leaf(&mut self, key: Leaf, expr: Expression) -> Handle {
        if let Some(&handle) = self.leaves.get(&key) {
            return handle;
        }
        self.flush();
        let handle = self.function.expressions.append(expr, Span::UNDEFINED);
        self.leaves.insert(key, handle);
        handle
    }

    /// An expression computed here.
    pub fn expr(&mut self, expr: Expression) -> Handle {
        debug_assert!(!expr.needs_pre_emit(), "{expr:?} is a leaf");
        let handle = self.function.expressions.append(expr, Span::UNDEFINED);
        let first = self.pending.map_or(handle, |(first, _)| first);
        self.pending = Some((first, handle));
        handle
    }

    pub fn unary(&mut self, op: UnaryOperator, expr: Handle) -> Handle {
        self.expr(Expression::Unary { op, expr })
    }

    pub fn binary(&mut self, op: BinaryOperator, left: Handle, right: Handle) -> Handle {
        self.expr(Expression::Binary { op, left, right })
    }

    pub fn select(&mut self, condition: Handle, accept: Handle, reject: Handle) -> Handle {
        self.expr(Expression::Select { condition, accept, reject })
    }

    pub fn math(&mut self, fun: MathFunction, args: &[Handle]) -> Handle {
        let at = |it: usize| args.get(it).copied();
        self.expr(Expression::Math { fun, arg: args[0], arg1: at(1), arg2: at(2), arg3: at(3) })
    }

    pub fn is_nan(&mut self, argument: Handle) -> Handle {
        // A comparison of bits: drivers may assume that floats are numbers.
        let bits = self.bitcast(argument, ScalarKind::Uint);
        let mask = self.u32(0x7fff_ffff);
        let bits = self.binary(BinaryOperator::And, bits, mask);
        let infinity = self.u32(0x7f80_0000);
        self.binary(BinaryOperator::Greater, bits, infinity)
    }

    /// The same value in another type.
    pub fn convert(&mut self, expr: Handle, to: Word) -> Handle {
        let scalar = to.scalar();
        self.expr(Expression::As { expr, kind: scalar.kind, convert: Some(scalar.width) })
    }

    /// The same 32 bits.
    pub fn bitcast(&mut self, expr: Handle, kind: ScalarKind) -> Handle {
        self.expr(Expression::As { expr, kind, convert: None })
    }

    pub fn component(&mut self, base: Handle, index: u32) -> Handle {
        self.expr(Expression::AccessIndex { base, index })
    }

    /// One, two or four words as one value.
    pub fn vector(&mut self, word: Word, components: Vec<Handle>) -> Handle {
        if let [one] = components[..] {
            return one;
        }
        let ty = self.writer.words(word, components.len() as u32);
        self.expr(Expression::Compose { ty, components })
    }

    pub fn element(&mut self, array: Handle, index: Handle) -> Handle {
        self.expr(Expression::Access { base: array, index })
    }

    pub fn load(&mut self, pointer: Handle) -> Handle {
        self.expr(Expression::Load { pointer })
    }

    pub fn store(&mut self, pointer: Handle, value: Handle) {
        self.stmt(Statement::Store { pointer, value });
    }

    /// Calls a function that gives a value.
    pub fn call(&mut self, function: FunctionHandle, arguments: &[Handle]) -> Handle {
        self.flush();
        let result = self.function.expressions.append(Expression::CallResult(function), Span::UNDEFINED);
        self.stmt(Statement::Call { function, arguments: arguments.to_vec(), result: Some(result) });
        result
    }

    /// `value` of every invocation of the subgroup, put together.
    pub fn subgroup(&mut self, op: SubgroupOperation, word: Word, value: Handle) -> Handle {
        self.flush();
        let ty = self.writer.word(word);
        let result =
            self.function.expressions.append(Expression::SubgroupOperationResult { ty }, Span::UNDEFINED);
        let collective_op = CollectiveOperation::Reduce;
        self.stmt(Statement::SubgroupCollectiveOperation { op, collective_op, argument: value, result });
        result
    }

    pub fn stmt(&mut self, stmt: Statement) {
        self.flush();
        self.blocks.last_mut().expect("a function has a body").push(stmt, Span::UNDEFINED);
    }

    /// What is written from here to `close` goes to a block of its own.
    pub fn open(&mut self) {
        self.flush();
        self.blocks.push(Block::new());
    }

    pub fn close(&mut self) -> Block {
        self.flush();
        self.blocks.pop().expect("a block was opened")
    }

    pub fn when(&mut self, condition: Handle, accept: Block, reject: Block) {
        self.stmt(Statement::If { condition, accept, reject });
    }

    /// Opens a loop in which the counter that it gives goes from `start` by `step` while it is less than `end`.
    /// `start + n * step` must not pass 2^32 on the way.
    pub fn open_loop(&mut self, start: Handle, end: Handle) -> (Handle, Handle) {
        let counter = self.local("i", Word::U32);
        self.store(counter, start);
        self.open();
        let value = self.load(counter);
        let done = self.binary(BinaryOperator::GreaterEqual, value, end);
        self.open();
        self.stmt(Statement::Break);
        let leave = self.close();
        self.when(done, leave, Block::new());
        (counter, value)
    }

    /// Closes the loop of `open_loop`.
    pub fn close_loop(&mut self, (counter, value): (Handle, Handle), step: u32) {
        let body = self.close();
        self.open();
        let step = self.u32(step);
        let next = self.binary(BinaryOperator::Add, value, step);
        self.store(counter, next);
        let continuing = self.close();
        self.stmt(Statement::Loop { body, continuing, break_if: None });
    }

    pub fn give(&mut self, value: Option<Handle>) {
        self.stmt(Statement::Return { value });
    }

    fn flush(&mut self) {
        if let Some((first, last)) = self.pending.take() {
            let range = naga::Range::new_from_bounds(first, last);
            let block = self.blocks.last_mut().expect("a function has a body");
            block.push(Statement::Emit(range), Span::UNDEFINED);
        }
    }
}
