//! Functions for the holes of templates: what a kernel reads and stores at a point that is given by numbers.
//!
//! A template numbers its loops; each number stands for a group of the kernel's loop variables, row-major. Functions of
//! fours handle four neighbours along one group, of which the first is in range and a multiple of 4: past the last, loads
//! give 0 and stores do nothing.

use naga::{BinaryOperator, Block, MathFunction, ScalarKind, Statement};

use super::{
    body::{Frame, Scope, Step},
    memory::Memory,
    types::Word,
    writer::{Code, FunctionHandle, Handle, Writer},
};
use crate::{
    bug,
    index::{Index, delinearise},
    lower::{Coords, ExprId, TensorId},
    schedule::{Kernel, Lanes, Store, Vars},
    shape::Shape,
};

/// The loop variables of a kernel in groups that a template numbers through.
pub struct Holes<'k> {
    pub memory: &'k Memory,
    pub kernel: &'k Kernel,
    /// Of every variable.
    pub extents: Shape,
    pub groups: Vec<Vars>,
    /// Of the groups.
    pub names: &'static [&'static str],
    /// A group of which functions are told the slab of so many numbers, and the place in it.
    pub slab: Option<(usize, u32)>,
}

/// Functions that store fours of results.
pub struct Ahead {
    /// What is read beside the results.
    pub ty: naga::Handle<naga::Type>,
    pub read: FunctionHandle,
    pub store: FunctionHandle,
}

/// A number of a group, as a function is told it.
#[derive(Clone, Copy)]
enum Number {
    Whole(Handle),
    /// In slabs that the group is a whole number of: what is the same throughout a slab is seen to be.
    InSlab {
        slab: Handle,
        within: Handle,
        size: usize,
    },
}

impl Holes<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope::new(&self.kernel.body, self.memory)
    }

    fn shape(&self, group: usize) -> Shape {
        self.groups[group].iter().map(|&it| self.extents[it]).collect()
    }

    /// Numbers of a group.
    pub fn count(&self, group: usize) -> usize {
        self.shape(group).count()
    }

    /// A function without arguments that gives the count of `group`.
    pub fn size(&self, writer: &mut Writer, name: &str, group: usize) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        code.result(Word::U32);
        let count = code.u32(self.count(group) as u32);
        code.give(Some(count));
        code.function()
    }

    /// An argument for each of `groups`, two for that of slabs.
    fn arguments(&self, code: &mut Code, groups: &[usize]) -> Vec<(usize, Number)> {
        let mut number = |group: usize| match self.slab {
            Some((own, size)) if own == group => {
                let slab = code.argument("slab", Word::U32);
                let within = code.argument("within", Word::U32);
                let size = size as usize;
                match self.count(group).is_multiple_of(size) {
                    true => Number::InSlab { slab, within, size },
                    false => {
                        let size = code.u32(size as u32);
                        let first = code.binary(BinaryOperator::Multiply, slab, size);
                        Number::Whole(code.binary(BinaryOperator::Add, first, within))
                    }
                }
            }
            _ => Number::Whole(code.argument(self.names[group], Word::U32)),
        };
        groups.iter().map(|&group| (group, number(group))).collect()
    }

    /// A number of a group as an index.
    fn number(&self, scope: &mut Scope, group: usize, number: Number) -> Index {
        match number {
            Number::Whole(it) => scope.leaf(it, self.count(group)),
            Number::InSlab { slab, within, size } => {
                let slab = scope.leaf(slab, self.count(group) / size);
                slab.mul(size as i64).add(&scope.leaf(within, size))
            }
        }
    }

    /// The variables of a group follow from its number.
    fn bind(&self, scope: &mut Scope, group: usize, number: Number) {
        let number = self.number(scope, group, number);
        scope.bind(self.groups[group].iter().copied(), delinearise(&number, &self.shape(group)));
    }

    pub fn load(&self, writer: &mut Writer, name: &str, groups: &[usize], value: ExprId) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        let mut scope = self.scope();
        for (group, number) in self.arguments(&mut code, groups) {
            self.bind(&mut scope, group, number);
        }
        code.result(Word::F32);
        let value = scope.value(&mut code, value);
        code.give(Some(value));
        code.function()
    }

    /// An integer of a word, as a u32 of the same bits.
    pub fn integer(
        &self,
        writer: &mut Writer,
        name: &str,
        groups: &[usize],
        value: ExprId,
        word: Word,
    ) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        let mut scope = self.scope();
        for (group, number) in self.arguments(&mut code, groups) {
            self.bind(&mut scope, group, number);
        }
        code.result(Word::U32);
        let value = scope.value(&mut code, value);
        let value = if word == Word::U32 { value } else { code.bitcast(value, ScalarKind::Uint) };
        code.give(Some(value));
        code.function()
    }

    /// `stores` with `Param(number)` given, which is the only one they need.
    pub fn store(
        &self,
        writer: &mut Writer,
        groups: &[usize],
        number: u32,
        stores: &[&Store],
    ) -> FunctionHandle {
        let mut code = Code::new(writer, "store");
        let mut scope = self.scope();
        for (group, number) in self.arguments(&mut code, groups) {
            self.bind(&mut scope, group, number);
        }
        let sum = code.argument("value", Word::F32);
        (0..=number).for_each(|_| scope.param(sum, Word::F32));
        stores.iter().for_each(|it| scope.store(&mut code, it));
        code.function()
    }

    /// Four elements, neighbours along the group `along`, of which the first is in range.
    pub fn load_four(
        &self,
        writer: &mut Writer,
        name: &str,
        groups: &[usize],
        along: usize,
        value: ExprId,
    ) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        code.results(Word::F32, 4);
        let values = self.neighbours(&mut code, groups, along, 4, value);
        let four = code.vector(Word::F32, values);
        code.give(Some(four));
        code.function()
    }

    /// Eight elements, neighbours along the group `along`, of which the first is in range: f16, two a word.
    pub fn load_eight(
        &self,
        writer: &mut Writer,
        name: &str,
        groups: &[usize],
        along: usize,
        value: ExprId,
    ) -> FunctionHandle {
        let mut code = Code::new(writer, name);
        code.results(Word::U32, 4);
        let values = self.neighbours(&mut code, groups, along, 8, value);
        let word = |pair: &[Handle]| {
            let pair = code.vector(Word::F32, pair.to_vec());
            code.math(MathFunction::Pack2x16float, &[pair])
        };
        let words = values.chunks_exact(2).map(word).collect();
        let eight = code.vector(Word::U32, words);
        code.give(Some(eight));
        code.function()
    }

    /// `value` at `each` neighbours along the group `along`, of which the first is in range; past the last it is 0.
    fn neighbours(
        &self,
        code: &mut Code,
        groups: &[usize],
        along: usize,
        each: u32,
        value: ExprId,
    ) -> Vec<Handle> {
        let mut scope = self.scope();
        let numbers = self.arguments(code, groups);
        let mut values = Vec::new();
        match self.lanes(code, &mut scope, numbers, along, each) {
            Ok(lanes) => {
                scope.step_through(&lanes);
                let mut step = Step::new(lanes, None);
                for lane in 0..step.lanes() {
                    values.push(scope.at_lane(&mut step, lane, |scope| scope.value(code, value)));
                }
            }
            Err(first) => {
                for lane in 0..each {
                    let (number, inside) = self.near(code, along, first, lane);
                    scope.enter(Frame::default());
                    self.bind(&mut scope, along, Number::Whole(number));
                    let found = scope.value(code, value);
                    scope.leave();
                    let zero = code.f32(0.0);
                    values.push(inside.map_or(found, |inside| code.select(inside, found, zero)));
                }
            }
        }
        values
    }

    /// Four results, neighbours along the group `along`, of which the first is in range.
    pub fn store_four(
        &self,
        writer: &mut Writer,
        groups: &[usize],
        along: usize,
        stores: &[&Store],
    ) -> FunctionHandle {
        let mut code = Code::new(writer, "store");
        let mut scope = self.scope();
        let numbers = self.arguments(&mut code, groups);
        let sums = code.arguments("values", Word::F32, 4);
        match self.lanes(&mut code, &mut scope, numbers, along, 4) {
            Ok(lanes) => {
                scope.step_with(&lanes, 0);
                let sums = (0..4).map(|it| code.component(sums, it)).collect();
                let mut step = Step::of_sums(lanes, sums);
                for store in stores {
                    scope.store_step(&mut code, store, &mut step);
                }
            }
            Err(first) => self.store_apart(&mut code, &mut scope, along, first, sums, stores),
        }
        code.function()
    }

    /// `store_four` in two: what it reads beside the results, and the rest, which is given that. `own`: it is read ahead at no other
    /// places than the same invocation stores.
    pub fn store_four_ahead(
        &self,
        writer: &mut Writer,
        groups: &[usize],
        along: usize,
        stores: &[&Store],
        own: bool,
    ) -> Ahead {
        let roots: Vec<ExprId> = stores.iter().map(|it| it.value).collect();
        let mut code = Code::new(writer, "read_ahead");
        let mut scope = self.scope();
        let numbers = self.arguments(&mut code, groups);
        let read = match self.lanes(&mut code, &mut scope, numbers, along, 4) {
            Ok(lanes) => {
                scope.step_with(&lanes, 0);
                let mut step = Step::new(lanes, None);
                scope.read_units(&mut code, &roots, &mut step, own);
                Some(step)
            }
            Err(_) => None,
        };
        let units: Vec<(TensorId, Handle)> = read.iter().flat_map(Step::units).collect();
        // A structure has members.
        let (types, values) = match units.is_empty() {
            true => (vec![code.writer.word(Word::U32)], vec![code.u32(0)]),
            false => units.iter().map(|it| (self.memory.unit_type(code.writer, it.0), it.1)).unzip(),
        };
        let ty = code.writer.structure("Ahead", &types);
        code.result_of(ty);
        let all = code.compose(ty, values);
        code.give(Some(all));
        let function = code.function();

        let mut code = Code::new(writer, "store");
        let mut scope = self.scope();
        let numbers = self.arguments(&mut code, groups);
        let sums = code.arguments("values", Word::F32, 4);
        let ahead = code.argument_of("ahead", ty);
        match (self.lanes(&mut code, &mut scope, numbers, along, 4), read) {
            (Ok(lanes), Some(read)) => {
                scope.step_with(&lanes, 0);
                let sums = (0..4).map(|it| code.component(sums, it)).collect();
                let held: Vec<Handle> = (0..units.len()).map(|it| code.component(ahead, it as u32)).collect();
                let mut step = Step::of_sums(lanes, sums).holding(&read, &held);
                stores.iter().for_each(|it| scope.store_step(&mut code, it, &mut step));
            }
            (Err(first), _) => self.store_apart(&mut code, &mut scope, along, first, sums, stores),
            (Ok(_), None) => bug!("{}: fours that are none", self.kernel.name),
        }
        Ahead { ty, read: function, store: code.function() }
    }

    /// Each of four results by itself.
    fn store_apart(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        along: usize,
        first: Handle,
        sums: Handle,
        stores: &[&Store],
    ) {
        for lane in 0..4 {
            let (number, inside) = self.near(code, along, first, lane);
            let sum = code.component(sums, lane);
            code.open();
            scope.enter(Frame::default());
            self.bind(scope, along, Number::Whole(number));
            scope.sum(sum);
            stores.iter().for_each(|it| scope.store(code, it));
            scope.leave();
            let body = code.close();
            match inside {
                Some(inside) => code.when(inside, body, Block::new()),
                None => code.stmt(Statement::Block(body)),
            }
        }
    }

    /// The `each` neighbours along `along` from the number given for it on; that number, if they may be out of range. Binds
    /// the variables of the other groups.
    fn lanes(
        &self,
        code: &mut Code,
        scope: &mut Scope,
        numbers: Vec<(usize, Number)>,
        along: usize,
        each: u32,
    ) -> Result<Lanes, Handle> {
        let mut here: Coords = self.extents.iter().map(|_| Index::constant(0)).collect();
        let mut first = None;
        for (group, number) in numbers {
            if group == along {
                first = Some(number);
                continue;
            }
            let number = self.number(scope, group, number);
            let values = delinearise(&number, &self.shape(group));
            self.groups[group].iter().zip(values).for_each(|(&var, value)| here[var] = value);
        }
        scope.bind(0.., here.iter().cloned());
        let Some(first) = first else { bug!("{}: fours along what is no argument", self.kernel.name) };
        let count = self.count(along);
        let places = code.u32(each.trailing_zeros());
        let whole = each as usize;
        let vector = match first {
            // Slabs are of whole vectors.
            Number::InSlab { slab, within, size } => {
                let slab = scope.leaf(slab, count / size);
                let vector = code.binary(BinaryOperator::ShiftRight, within, places);
                slab.mul((size / whole) as i64).add(&scope.leaf(vector, size / whole))
            }
            Number::Whole(first) if !count.is_multiple_of(whole) => return Err(first),
            Number::Whole(first) => {
                let vector = code.binary(BinaryOperator::ShiftRight, first, places);
                scope.leaf(vector, count / whole)
            }
        };
        Ok(Lanes::along(&here, &self.extents, &self.groups[along], each, &vector))
    }

    /// Number `first + lane` of a group, or the last one; and whether it is in range, where it may not be.
    fn near(&self, code: &mut Code, group: usize, first: Handle, lane: u32) -> (Handle, Option<Handle>) {
        if lane == 0 {
            return (first, None);
        }
        let count = self.count(group) as u32;
        let (by, end, last) = (code.u32(lane), code.u32(count), code.u32(count - 1));
        let number = code.binary(BinaryOperator::Add, first, by);
        let inside = code.binary(BinaryOperator::Less, number, end);
        (code.math(MathFunction::Min, &[number, last]), Some(inside))
    }
}
