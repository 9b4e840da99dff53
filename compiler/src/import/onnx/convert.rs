//! A program and the shapes of its inputs to a graph: nodes one by one, functions and known branches in place.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
};

use super::{
    Function, Opsets, Program, domain,
    node::{Arguments, Node},
    node_name, order,
    proto::{GraphProto, NodeProto},
    table::Rule,
    tensor,
};
use crate::{
    error::Error,
    graph::{Graph, Output, Value},
    import::emit::Emit,
    shape::{Shape, Type},
};

/// Functions in functions, branches in branches.
const MAX_DEPTH: usize = 32;
/// Nodes after inlining: functions that call each other twice grow without bound.
const MAX_NODES: usize = 1 << 20;

struct Convert<'a> {
    program: &'a Program,
    emit: Emit,
    nodes: usize,
}

/// What a node can see: names of its own graph, of the graphs around it, and the call that it is in.
struct Scope<'a> {
    /// `None` for an operand that the call leaves out.
    values: HashMap<&'a str, Option<Value>>,
    outer: Option<&'a Scope<'a>>,
    opsets: &'a Opsets,
    arguments: &'a Arguments,
    /// Names of the calls around, with '/' behind each.
    prefix: &'a str,
    depth: usize,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<Option<Value>> {
        match self.values.get(name) {
            Some(&value) => Some(value),
            None => self.outer?.find(name),
        }
    }
}

pub fn convert(program: &Program, shapes: &[Shape]) -> Result<Graph, Error> {
    let mut to = Convert { program, emit: Emit::default(), nodes: 0 };
    let arguments = Arguments::new();
    let mut scope = Scope {
        values: HashMap::new(),
        outer: None,
        opsets: &program.opsets,
        arguments: &arguments,
        prefix: "",
        depth: 0,
    };
    for (input, shape) in program.inputs.iter().zip(shapes) {
        let ty = Type { dtype: input.dtype, shape: shape.clone() };
        to.emit.graph.set_origin(&*input.name);
        let value = to.emit.graph.add_input(&input.name, ty)?;
        scope.values.insert(&input.name, Some(value));
    }
    for (name, tensor) in &program.constants {
        to.emit.graph.set_origin(&**name);
        let value = to.emit.constant(tensor.clone());
        scope.values.insert(name, Some(value));
    }
    let wanted: Vec<&str> = program.outputs.iter().map(|it| it.name.as_str()).collect();
    let values = to.body(&program.nodes, &wanted, &mut scope)?;
    let mut graph = to.emit.graph;
    graph.outputs =
        (wanted.iter().zip(values)).map(|(name, value)| Output { name: name.to_string(), value }).collect();
    graph.rebuild(|to, op| to.add(op))
}

impl<'a> Convert<'a> {
    /// The values of `wanted`, made by those of `nodes` that they need.
    fn body<'b>(
        &mut self,
        nodes: &'b [NodeProto],
        wanted: &[&'b str],
        scope: &mut Scope<'b>,
    ) -> Result<Vec<Value>, Error> {
        let mut needed: HashSet<&str> = wanted.iter().copied().collect();
        let mut live = vec![false; nodes.len()];
        for (at, node) in nodes.iter().enumerate().rev() {
            if node.output.iter().any(|it| needed.contains(it.as_str())) {
                live[at] = true;
                let mut names = Vec::new();
                order::reads(node, &mut names);
                needed.extend(names);
            }
        }
        for (at, node) in nodes.iter().enumerate().filter(|(at, _)| live[*at]) {
            self.nodes += 1;
            let name = format!("{}{}", scope.prefix, node_name(node, at));
            if self.nodes > MAX_NODES {
                return Err(Error::malformed(format!("node '{name}'"), "the model unfolds without bound"));
            }
            self.emit.graph.set_origin(&*name);
            let made = self.node(node, &name, scope)?;
            for (at, output) in node.output.iter().enumerate().filter(|it| !it.1.is_empty()) {
                match made.get(at) {
                    Some(&value) => drop(scope.values.insert(output, Some(value))),
                    None if !needed.contains(output.as_str()) => {}
                    None => {
                        let what = format!("output {at} ('{output}')");
                        return Err(Error::unsupported(&*node.op_type, name, what));
                    }
                }
            }
        }
        (wanted.iter())
            .map(|name| {
                scope
                    .find(name)
                    .flatten()
                    .ok_or_else(|| Error::malformed(format!("output '{name}'"), "is made by no node"))
            })
            .collect()
    }

    fn node(&mut self, node: &NodeProto, name: &str, scope: &Scope) -> Result<Vec<Value>, Error> {
        let domain = domain(&node.domain);
        let operand = |input: &String| match input.is_empty() {
            true => Ok(None),
            false => scope.find(input).ok_or_else(|| {
                Error::malformed(format!("node '{name}'"), format!("reads '{input}', which nothing makes"))
            }),
        };
        let inputs = node.input.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
        let key = (domain.to_string(), node.op_type.clone(), node.overload.clone());
        let program = self.program;
        if let Some(function) = program.functions.get(&key) {
            return self.call(node, function, inputs, name, scope);
        }
        let opset = scope.opsets.get(domain).copied();
        let Some(opset) = opset else {
            let what =
                format!("its domain '{domain}' is not imported by the model, nor is it a function there");
            return Err(Error::unsupported(&*node.op_type, name, what));
        };
        let n = Node {
            name,
            op: &node.op_type,
            domain,
            opset,
            inputs,
            outputs: &node.output,
            attributes: &node.attribute,
            arguments: scope.arguments,
            asked: Cell::new(0),
        };
        if domain.is_empty() && node.op_type == "If" {
            return self.branch(node, &n, scope);
        }
        match Rule::find(domain, &node.op_type) {
            Some(rule) => {
                let made = rule.convert(&mut self.emit, &n)?;
                n.all_asked()?;
                Ok(made)
            }
            None => Err(n.unsupported("wgfuse does not know this operator")),
        }
    }

    /// The branch that a condition known now takes.
    fn branch(&mut self, node: &NodeProto, n: &Node, scope: &Scope) -> Result<Vec<Value>, Error> {
        let condition = n.literal(&self.emit, 0)?.filter(|it| it.shape().count() == 1);
        let condition = condition.ok_or_else(|| n.error("the condition is no single bool"))?;
        let name = if condition.get(0).as_bool() { "then_branch" } else { "else_branch" };
        let graph = node.attribute.iter().find(|it| it.name == name).and_then(|it| it.g.as_deref());
        let graph: &GraphProto = graph.ok_or_else(|| n.error(format!("attribute '{name}' is missing")))?;
        let nodes = order::sorted(graph.node.clone(), n.name)?;
        let depth = deeper(scope, n.name)?;
        let prefix = format!("{}/", n.name);
        let mut inner = Scope {
            values: HashMap::new(),
            outer: Some(scope),
            opsets: scope.opsets,
            arguments: scope.arguments,
            prefix: &prefix,
            depth,
        };
        for proto in &graph.initializer {
            let tensor = tensor::tensor(proto, &format!("initialiser '{}'", proto.name), &|_| None)?;
            inner.values.insert(&proto.name, Some(self.emit.constant(tensor)));
        }
        super::made_once(&graph.node, graph.initializer.iter().map(|it| it.name.as_str()).collect())?;
        let wanted: Vec<&str> = graph.output.iter().map(|it| it.name.as_str()).collect();
        self.body(&nodes, &wanted, &mut inner)
    }

    fn call(
        &mut self,
        node: &NodeProto,
        function: &Function,
        inputs: Vec<Option<Value>>,
        name: &str,
        scope: &Scope,
    ) -> Result<Vec<Value>, Error> {
        let proto = &function.proto;
        if inputs.len() > proto.input.len() {
            let what = format!("function '{}' takes {} operands", proto.name, proto.input.len());
            return Err(Error::node(name, format!("{what}, not {}", inputs.len())));
        }
        let mut arguments: Arguments =
            proto.attribute_proto.iter().map(|it| (it.name.clone(), it.clone())).collect();
        for attribute in &node.attribute {
            match attribute.ref_attr_name.is_empty() {
                true => drop(arguments.insert(attribute.name.clone(), attribute.clone())),
                false => {
                    if let Some(outer) = scope.arguments.get(&attribute.ref_attr_name) {
                        arguments.insert(attribute.name.clone(), outer.clone());
                    }
                }
            }
        }
        let depth = deeper(scope, name)?;
        let prefix = format!("{name}/");
        let mut inner = Scope {
            values: HashMap::new(),
            outer: None,
            opsets: &function.opsets,
            arguments: &arguments,
            prefix: &prefix,
            depth,
        };
        let given = inputs.into_iter().chain(std::iter::repeat(None));
        inner.values.extend(proto.input.iter().map(String::as_str).zip(given));
        super::made_once(&proto.node, proto.input.iter().map(String::as_str).collect())?;
        let wanted: Vec<&str> = proto.output.iter().map(String::as_str).collect();
        self.body(&proto.node, &wanted, &mut inner)
    }
}

fn deeper(scope: &Scope, name: &str) -> Result<usize, Error> {
    match scope.depth < MAX_DEPTH {
        true => Ok(scope.depth + 1),
        false => Err(Error::node(name, format!("functions or branches are nested deeper than {MAX_DEPTH}"))),
    }
}
