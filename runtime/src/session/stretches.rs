//! Running a model in stretches: each is a session of its own that shares this one's constants, and what is read or done between
//! them decides which comes next.
//!
//! In: a model's first stretch and what a run is given. Out: the model's outputs. What always holds: a stretch is imported and
//! compiled once for all that is known before it, the least recently used leaving first; between stretches tensors stay on the
//! device but for those that the host reads.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use wgfuse_compiler::{
    dtype::DType,
    error::Error as ModelError,
    import::{
        host::Datum,
        stretch::{Bound, Call, Key, Knowledge, Known, Nothing, Stretch, Work, input_key, part_key},
        strings::{Pool, Strings},
    },
    options::{Fallback, Options},
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

use super::Session;
use crate::{
    buffers::Wait,
    caught::caught,
    device_tensor::AnyTensor,
    disabled::DisabledReason,
    error::{Error, Result},
    model::Model,
    replay::Ends,
};

/// A stretch, its session, and what came after it.
pub(crate) struct Node {
    pub(super) stretch: Stretch,
    pub(super) session: OnceLock<Session>,
    /// `Plan::work` of its plan.
    work: OnceLock<u64>,
    pub(super) next: Mutex<Branches>,
    /// What runs in its place where the host has what it asks for.
    pub(super) instead: Mutex<Branches>,
    /// First stretches of the bodies of loops, a call each.
    pub(super) bodies: Vec<Mutex<Branches>>,
}

/// The most recently used last, each with what was known that led to it.
pub(crate) type Branches = Vec<(Vec<Came>, Arc<Node>)>;

/// What has become known.
#[derive(PartialEq)]
pub(crate) enum Came {
    /// The values of this tensor.
    Values(Key, Known),
    /// What the value of this key consists of.
    Value(Key, Bound, Vec<Known>),
}

/// Tensors that are there.
pub(super) type Tensors = HashMap<Key, AnyTensor>;

/// The strings of a run, those of its model included.
#[derive(Clone)]
pub(super) struct Words(Arc<Mutex<Pool>>);

impl Words {
    fn enter(&self, strings: &Strings) -> Result<Tensor> {
        Ok(self.0.lock().expect("nothing panics inside").enter(strings)?)
    }

    fn strings(&self, numbers: &Tensor) -> Result<Strings> {
        let found = self.0.lock().expect("nothing panics inside").strings(numbers);
        found.ok_or_else(|| ModelError::malformed("strings", "one of them has no such number").into())
    }
}

/// How a run waits, its strings, and the turns that its loops may still take.
#[derive(Clone)]
pub(super) struct Run {
    pub wait: Wait,
    pub words: Words,
    turns: Arc<AtomicU64>,
    work: Arc<AtomicU64>,
}

impl Run {
    pub fn new(options: &Options, wait: Wait, strings: Arc<Pool>) -> Run {
        let words = Words(Arc::new(Mutex::new(Pool::of_run(strings, options.memory_limit))));
        Run {
            wait,
            words,
            turns: Arc::new(options.turn_limit.into()),
            work: Arc::new(options.work_limit.into()),
        }
    }

    /// One turn more, if it may be.
    fn turn(&self) -> bool {
        self.turns.fetch_update(Relaxed, Relaxed, |it| it.checked_sub(1)).is_ok()
    }

    /// So many operations more, if they may be.
    fn work(&self, count: u64) -> bool {
        self.work.fetch_update(Relaxed, Relaxed, |it| it.checked_sub(count)).is_ok()
    }
}

/// A value apart from keys.
#[derive(Clone)]
pub(super) enum Value {
    Tensor(AnyTensor),
    /// Numbers of strings.
    Strings(AnyTensor),
    Sequence(Vec<Value>),
    Optional(Option<Box<Value>>),
}

/// A future that calls itself. In a browser nothing crosses threads.
#[cfg(not(target_arch = "wasm32"))]
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;
#[cfg(target_arch = "wasm32")]
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

impl Node {
    pub fn new(stretch: Stretch) -> Node {
        let bodies = stretch.calls.iter().map(|_| Mutex::default()).collect();
        let (next, instead) = Default::default();
        Node { stretch, session: OnceLock::new(), work: OnceLock::new(), next, instead, bodies }
    }
}

impl Session {
    /// A run of a model whose first stretch `first` is; `given` has one value an input of the model, in order.
    pub(super) async fn run_stretches(
        &self,
        first: Arc<Node>,
        given: Vec<AnyTensor>,
        ends: Ends,
        wait: Wait,
    ) -> Result<Vec<(String, AnyTensor)>> {
        let keys = self.inputs.iter().map(|it| input_key(&it.name));
        let run = Run::new(&self.options, wait, first.stretch.strings().clone());
        let (bounds, mut made) = self.go(first, keys.zip(given).collect(), ends, &run).await?;
        self.tallies.count(|it| &it.runs);
        let mut outputs = Vec::with_capacity(bounds.len());
        for (output, bound) in self.model.outputs.iter().zip(&bounds) {
            let Bound::Tensor(key) = bound else {
                let what = "is of strings, a sequence or an optional value, which a run does not give";
                return Err(ModelError::malformed(format!("output '{}'", output.name), what).into());
            };
            // An output that is two of the model's has one key each.
            let tensor = made.remove(key).ok_or_else(|| missing(key))?;
            outputs.push((output.name.clone(), tensor));
        }
        Ok(outputs)
    }

    /// From a stretch to the end: what the outputs consist of, and their tensors.
    pub(super) fn go<'a>(
        &'a self,
        first: Arc<Node>,
        tensors: Tensors,
        ends: Ends,
        run: &'a Run,
    ) -> Later<'a, (Vec<Bound>, Tensors)> {
        Box::pin(async move {
            let (mut node, mut tensors) = (first, tensors);
            loop {
                let stretch = &node.stretch;
                if let Some(known) = given_already(stretch, &tensors) {
                    node = self.learnt(&node, &node.instead, &stretch.before, known)?;
                    continue;
                }
                self.compute(&node, &mut tensors, ends, run).await?;
                if let Some(outputs) = &stretch.outputs {
                    return Ok((outputs.clone(), tensors));
                }
                let mut known = Vec::new();
                for ask in &stretch.asks {
                    let node = ask.node.to_string();
                    self.not_on_the_device(match ask.control {
                        true => DisabledReason::ControlFlow { node },
                        false => DisabledReason::DataDependent { node },
                    })?;
                    let value = host(&tensors, &ask.key, run.wait).await?;
                    known.push(Came::Values(ask.key.clone(), Known::Literal(value)));
                }
                let operands = stretch.calls.iter().flat_map(|it| it.operands.iter().flatten());
                for key in operands.flat_map(Bound::leaves) {
                    if let Some(literal) = stretch.after.literal(key) {
                        tensors.insert(key.clone(), literal.clone().into());
                    }
                }
                for (number, call) in stretch.calls.iter().enumerate() {
                    let made = self.call(&node, number, call, &tensors, run).await?;
                    self.within(
                        made.iter().map(bytes).sum::<u64>().saturating_add(held(&tensors)),
                        &call.node,
                    )?;
                    for (key, value) in call.results.iter().zip(made) {
                        let mut types = Vec::new();
                        let bound = bind(key, value, &mut types, &mut tensors);
                        known.push(Came::Value(key.clone(), bound, types));
                    }
                }
                let next = self.learnt(&node, &node.next, &stretch.after, known)?;
                let kept = |key: &Key| {
                    node.stretch.keeps.binary_search(key).is_ok()
                        || node.stretch.calls.iter().flat_map(|it| &it.results).any(|it| {
                            key == it || key.strip_prefix(&**it).is_some_and(|it| it.starts_with('['))
                        })
                };
                tensors.retain(|key, _| kept(key));
                node = next;
            }
        })
    }

    /// Runs the stretch's graph, whose outputs join `tensors`.
    async fn compute(&self, node: &Node, tensors: &mut Tensors, ends: Ends, run: &Run) -> Result<()> {
        let stretch = &node.stretch;
        if stretch.makes.is_empty() {
            return Ok(());
        }
        let session = node.session.get_or_init(|| self.inner(Model::from_graph(stretch.graph.clone())));
        let read = |key: &Key| tensors.get(key).cloned().ok_or_else(|| missing(key));
        let given = stretch.reads.iter().map(read).collect::<Result<Vec<_>>>()?;
        let ends = if stretch.outputs.is_some() { ends } else { Ends::Device };
        let made = session.run_to(given, ends, run.wait).await?;
        let need = *node.work.get_or_init(|| session.one_plan().map_or(0, |it| it.work()));
        if !run.work(need) {
            let at = stretch.stops().next().map_or("the last stretch of the model".to_owned(), |it| {
                format!("the stretch before node '{}', with those that ran before", it.0)
            });
            return Err(ModelError::WorkLimit { at, need, have: self.options.work_limit }.into());
        }
        tensors.extend(stretch.makes.iter().cloned().zip(made.into_iter().map(|it| it.1)));
        Ok(())
    }

    /// The stretch where this has become known beyond `before`.
    fn learnt(
        &self,
        node: &Node,
        all: &Mutex<Branches>,
        before: &Knowledge,
        known: Vec<Came>,
    ) -> Result<Arc<Node>> {
        if let Some(found) = used(&mut all.lock().expect("nothing panics inside"), &known) {
            return Ok(found);
        }
        let mut knows = before.clone();
        for came in &known {
            match came {
                Came::Values(key, known) => knows.learn(key.clone(), known.clone()),
                Came::Value(key, bound, types) => {
                    for (key, known) in bound.leaves().into_iter().zip(types) {
                        knows.learn(key.clone(), known.clone());
                    }
                    knows.bind(key.clone(), bound.clone());
                }
            }
        }
        let made = Arc::new(Node::new(caught(|| Ok(node.stretch.next(&knows)?))?));
        self.keep(&mut all.lock().expect("nothing panics inside"), known, &made);
        Ok(made)
    }

    /// The first stretch of a model whose inputs are `given`.
    pub(super) fn begun(
        &self,
        all: &Mutex<Branches>,
        given: Vec<Came>,
        begin: impl FnOnce(Vec<(Bound, Vec<Known>)>) -> Result<Stretch>,
    ) -> Result<Arc<Node>> {
        if let Some(found) = used(&mut all.lock().expect("nothing panics inside"), &given) {
            return Ok(found);
        }
        let inputs = given.iter().map(|it| match it {
            Came::Values(key, known) => (Bound::Tensor(key.clone()), vec![known.clone()]),
            Came::Value(_, bound, types) => (bound.clone(), types.clone()),
        });
        let made = Arc::new(Node::new(caught(|| begin(inputs.collect()))?));
        self.keep(&mut all.lock().expect("nothing panics inside"), given, &made);
        Ok(made)
    }

    pub(super) fn keep(&self, all: &mut Branches, known: Vec<Came>, node: &Arc<Node>) {
        if all.len() >= self.kept {
            all.remove(0);
        }
        all.push((known, node.clone()));
    }

    /// What a call gives, a value a result.
    async fn call(
        &self,
        node: &Node,
        number: usize,
        call: &Call,
        tensors: &Tensors,
        run: &Run,
    ) -> Result<Vec<Value>> {
        let wait = run.wait;
        let name = call.node.to_string();
        match &call.work {
            Work::Host(work) => {
                self.not_on_the_device(match call.strings {
                    true => DisabledReason::Strings { node: name },
                    false => DisabledReason::DataDependent { node: name },
                })?;
                let mut operands = Vec::with_capacity(call.operands.len());
                for operand in &call.operands {
                    operands.push(match operand {
                        Some(bound) => Some(datum(bound, tensors, run).await?),
                        None => None,
                    });
                }
                let made = caught(|| Ok(work(&operands, self.options.memory_limit)?))?;
                made.into_iter().map(|it| of_datum(it, &run.words)).collect()
            }
            Work::Loop { body, carried, collected } => {
                self.not_on_the_device(DisabledReason::ControlFlow { node: name.clone() })?;
                let mut operands = call.operands.iter();
                let mut single = Vec::new();
                for _ in 0..2 {
                    single.push(match operands.next() {
                        Some(Some(Bound::Tensor(key))) => Some(host(tensors, key, wait).await?),
                        _ => None,
                    });
                }
                let first =
                    |at: usize| single[at].as_ref().filter(|it| it.shape().count() > 0).map(|it| it.get(0));
                let most = first(0).map_or(i64::MAX, Scalar::as_i64);
                let mut goes_on = first(1).is_none_or(|it| it.as_bool());
                let rest = operands.map(|it| match it {
                    Some(bound) => value(bound, tensors),
                    None => Ok(Value::Optional(None)),
                });
                let mut state = rest.collect::<Result<Vec<_>>>()?;
                let around = state.split_off((*carried).min(state.len()));
                let mut all: Vec<Vec<Value>> = vec![Vec::new(); collected.len()];
                let mut turn = 0;
                let mut room = 0u64;
                while goes_on && turn < most {
                    if !run.turn() {
                        let have = self.options.turn_limit;
                        let what = format!(
                            "has not ended after {have} turns of loops, what the option turn_limit allows"
                        );
                        return Err(ModelError::node(name, what).into());
                    }
                    let number_of = Tensor::scalar(DType::I64, Scalar::Int(turn));
                    let on = Tensor::scalar(DType::Bool, Scalar::Int(1));
                    let given = [number_of, on].map(|it| Value::Tensor(it.into()));
                    let (mut known, mut inside) = (Vec::new(), Tensors::new());
                    for (at, value) in given.into_iter().chain(state).chain(around.clone()).enumerate() {
                        let mut types = Vec::new();
                        let key: Key = format!("given {at}").into();
                        let bound = bind(&key, value, &mut types, &mut inside);
                        known.push(Came::Value(key, bound, types));
                    }
                    let begun = self.begun(&node.bodies[number], known, |given| {
                        Ok(Stretch::of(body, &Knowledge::of(body, given))?)
                    })?;
                    let (bounds, made) = self.go(begun, inside, Ends::Device, run).await?;
                    let mut bounds = bounds.iter();
                    let on = match bounds.next() {
                        Some(Bound::Tensor(key)) => host(&made, key, wait).await?,
                        _ => return Err(ModelError::node(name, "its body gives no condition").into()),
                    };
                    goes_on = on.shape().count() > 0 && on.get(0).as_bool();
                    state = (bounds.by_ref().take(*carried))
                        .map(|it| value(it, &made))
                        .collect::<Result<Vec<_>>>()?;
                    let carried = state.iter().map(bytes).fold(room, u64::saturating_add);
                    self.within(carried, &name)?;
                    for (all, bound) in all.iter_mut().zip(bounds) {
                        let one = value(bound, &made)?;
                        room = room.saturating_add(size_of::<Value>() as u64 + bytes(&one));
                        all.push(one);
                    }
                    turn += 1;
                }
                let mut results = state;
                for (all, none) in all.into_iter().zip(collected) {
                    results.push(stacked(&name, all, none.as_ref(), wait).await?);
                }
                results.truncate(call.results.len());
                Ok(results)
            }
        }
    }

    /// Whether so many bytes, which the node `node` makes or leaves to be read later, may be held at once.
    fn within(&self, need: u64, node: &str) -> Result<()> {
        let have = self.options.memory_limit;
        match need > have {
            true => Err(ModelError::MemoryLimit { at: format!("node '{node}'"), need, have }.into()),
            false => Ok(()),
        }
    }

    /// Takes note of a step down from one recorded run, where there is a GPU to make one.
    fn not_on_the_device(&self, reason: DisabledReason) -> Result<()> {
        if !self.device.is_gpu() {
            return Ok(());
        }
        if self.options.fallback == Fallback::Error {
            let node = reason.node().unwrap_or("the whole model").to_owned();
            return Err(ModelError::Fallback { node, reason: reason.to_string() }.into());
        }
        self.stepped(reason)
    }
}

/// What the stretch asks for, if the host has it before anything ran.
fn given_already(stretch: &Stretch, tensors: &Tensors) -> Option<Vec<Came>> {
    let mut known = Vec::new();
    for ask in stretch.asks.iter().filter(|it| !stretch.makes.contains(&it.key)) {
        if let Some(AnyTensor::Host(value)) = tensors.get(&ask.key) {
            known.push(Came::Values(ask.key.clone(), Known::Literal(value.clone())));
        }
    }
    (!known.is_empty()).then_some(known)
}

pub(super) fn used(all: &mut Branches, known: &[Came]) -> Option<Arc<Node>> {
    let at = all.iter().position(|it| it.0 == known)?;
    let found = all.remove(at);
    let node = found.1.clone();
    all.push(found);
    Some(node)
}

/// How many bytes these tensors have, those that are one counted for each.
fn held(tensors: &Tensors) -> u64 {
    tensors.values().fold(0, |sum, it| sum.saturating_add(it.ty().bytes() as u64))
}

fn bytes(value: &Value) -> u64 {
    match value {
        Value::Tensor(it) | Value::Strings(it) => it.ty().bytes() as u64,
        Value::Sequence(all) => all.iter().fold(0, |sum, it| sum.saturating_add(bytes(it))),
        Value::Optional(one) => one.as_deref().map_or(0, bytes),
    }
}

fn missing(key: &Key) -> Error {
    ModelError::malformed(format!("value '{key}'"), "is not there when it is read").into()
}

async fn host(tensors: &Tensors, key: &Key, wait: Wait) -> Result<Tensor> {
    match tensors.get(key).ok_or_else(|| missing(key))?.clone().settle(None, true, wait).await? {
        AnyTensor::Host(tensor) => Ok(tensor),
        AnyTensor::Device(_) => Err(missing(key)),
    }
}

/// Gives the parts of a value their keys.
pub(super) fn bind(key: &Key, value: Value, types: &mut Vec<Known>, tensors: &mut Tensors) -> Bound {
    match value {
        Value::Tensor(tensor) => {
            types.push(Known::Type(tensor.ty().clone()));
            tensors.insert(key.clone(), tensor);
            Bound::Tensor(key.clone())
        }
        Value::Strings(numbers) => {
            types.push(Known::Type(numbers.ty().clone()));
            tensors.insert(key.clone(), numbers);
            Bound::Strings(key.clone())
        }
        Value::Sequence(all) => {
            let each = all.into_iter().enumerate();
            Bound::Sequence(each.map(|(at, it)| bind(&part_key(key, at), it, types, tensors)).collect())
        }
        Value::Optional(None) => Bound::Optional(None),
        Value::Optional(Some(one)) => {
            Bound::Optional(Some(Box::new(bind(&part_key(key, 0), *one, types, tensors))))
        }
    }
}

fn value(bound: &Bound, tensors: &Tensors) -> Result<Value> {
    Ok(match bound {
        Bound::Tensor(key) => Value::Tensor(tensors.get(key).cloned().ok_or_else(|| missing(key))?),
        Bound::Strings(key) => Value::Strings(tensors.get(key).cloned().ok_or_else(|| missing(key))?),
        Bound::Sequence(all) => {
            Value::Sequence(all.iter().map(|it| value(it, tensors)).collect::<Result<_>>()?)
        }
        Bound::Optional(None) => Value::Optional(None),
        Bound::Optional(Some(one)) => Value::Optional(Some(Box::new(value(one, tensors)?))),
    })
}

pub(super) fn datum<'a>(bound: &'a Bound, tensors: &'a Tensors, run: &'a Run) -> Later<'a, Datum> {
    Box::pin(async move {
        Ok(match bound {
            Bound::Tensor(key) => Datum::Tensor(host(tensors, key, run.wait).await?),
            Bound::Strings(key) => Datum::Strings(run.words.strings(&host(tensors, key, run.wait).await?)?),
            Bound::Sequence(all) => {
                let mut made = Vec::with_capacity(all.len());
                for it in all {
                    made.push(datum(it, tensors, run).await?);
                }
                Datum::Sequence(made)
            }
            Bound::Optional(None) => Datum::Optional(None),
            Bound::Optional(Some(one)) => Datum::Optional(Some(Box::new(datum(one, tensors, run).await?))),
        })
    })
}

pub(super) fn of_datum(datum: Datum, words: &Words) -> Result<Value> {
    Ok(match datum {
        Datum::Tensor(it) => Value::Tensor(it.into()),
        Datum::Strings(it) => Value::Strings(words.enter(&it)?.into()),
        Datum::Sequence(all) => {
            Value::Sequence(all.into_iter().map(|it| of_datum(it, words)).collect::<Result<_>>()?)
        }
        Datum::Optional(None) => Value::Optional(None),
        Datum::Optional(Some(one)) => Value::Optional(Some(Box::new(of_datum(*one, words)?))),
    })
}

/// Tensors of one type along a new first axis; without any, what `none` says.
async fn stacked(node: &str, all: Vec<Value>, none: Option<&Nothing>, wait: Wait) -> Result<Value> {
    let (mut tensors, mut texts) = (Vec::with_capacity(all.len()), false);
    for one in all {
        let (tensor, strings) = match one {
            Value::Tensor(it) => (it, false),
            Value::Strings(it) => (it, true),
            Value::Sequence(_) | Value::Optional(_) => {
                return Err(ModelError::node(node, "collects what is no tensor").into());
            }
        };
        if !tensors.is_empty() && strings != texts {
            return Err(ModelError::node(node, "collects strings and numbers").into());
        }
        texts = strings;
        tensors.push(tensor);
    }
    let Some(first) = tensors.first() else {
        let none = none.ok_or_else(|| {
            ModelError::node(node, "has no turn, and the type of what it collects is not stated")
        })?;
        return Ok(collected(Tensor::from_scalars(none.ty.clone(), []), none.strings));
    };
    let ty = first.ty().clone();
    let count = tensors.len();
    let mut data = Vec::with_capacity(ty.bytes() * count);
    for tensor in tensors {
        if *tensor.ty() != ty {
            let what = format!("collects {} after {ty}", tensor.ty());
            return Err(ModelError::node(node, what).into());
        }
        if let AnyTensor::Host(tensor) = tensor.settle(None, true, wait).await? {
            data.extend_from_slice(tensor.data());
        }
    }
    let shape: Shape = std::iter::once(count).chain(ty.shape.iter().copied()).collect();
    let made = Tensor::new(Type { dtype: ty.dtype, shape }, data.into());
    Ok(collected(made.ok_or_else(|| ModelError::node(node, "collects too much"))?, texts))
}

fn collected(tensor: Tensor, strings: bool) -> Value {
    if strings { Value::Strings(tensor.into()) } else { Value::Tensor(tensor.into()) }
}
