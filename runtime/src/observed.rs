//! What the stages of one compilation have made, kept for whoever wants to show it.

use std::time::Instant;

use wgfuse_compiler::{
    Made,
    codegen::Shader,
    compile_observed,
    error::Error,
    graph::Graph,
    lower::Loops,
    options::Options,
    partition::Partition,
    plan::Plan,
    schedule::{Choices, Schedule},
    target::Target,
};

pub(crate) struct Observed {
    pub imported: Graph,
    /// After each pass, by its name; no graph where it changed nothing.
    pub passes: Vec<(String, Option<Graph>)>,
    pub parts: Option<Partition>,
    pub loops: Option<Loops>,
    pub schedule: Option<Schedule>,
    pub shaders: Vec<Option<Shader>>,
    /// Seconds of each step that ended.
    pub times: Vec<(String, f64)>,
    since: Instant,
}

impl Observed {
    pub fn new(imported: Graph) -> Observed {
        Observed {
            imported,
            passes: Vec::new(),
            parts: None,
            loops: None,
            schedule: None,
            shaders: Vec::new(),
            times: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Compiles, and keeps what there is at the end or, where the compiler fails, up to there.
    pub fn compile(&mut self, target: &Target, options: &Options, choices: &Choices) -> Result<Plan, Error> {
        let graph = self.imported.clone();
        self.since = Instant::now();
        compile_observed(graph, target, options, choices, &mut |made| self.see(made))
    }

    /// The graph after all passes that ended.
    pub fn optimised(&self) -> &Graph {
        self.passes.iter().rev().find_map(|it| it.1.as_ref()).unwrap_or(&self.imported)
    }

    fn see(&mut self, made: Made<'_>) {
        let step = match &made {
            Made::Graph(pass, _) => format!("pass {pass}"),
            Made::Partition(_) => "partition".to_owned(),
            Made::Loops(_) => "lower".to_owned(),
            Made::Schedule(_) => "schedule".to_owned(),
            Made::Shaders(_) => "codegen".to_owned(),
            Made::Plan(_) => "plan".to_owned(),
        };
        self.times.push((step, self.since.elapsed().as_secs_f64()));
        match made {
            Made::Graph(pass, graph) => {
                let changed = !same(self.optimised(), graph);
                self.passes.push((pass.to_owned(), changed.then(|| graph.clone())));
            }
            Made::Partition(it) => self.parts = Some(it.clone()),
            Made::Loops(it) => self.loops = Some(it.clone()),
            Made::Schedule(it) => self.schedule = Some(it.clone()),
            Made::Shaders(it) => self.shaders = it.to_vec(),
            // The caller gets it.
            Made::Plan(_) => {}
        }
        // Keeping is no part of the next step.
        self.since = Instant::now();
    }
}

/// Whether two graphs are written alike, but for what large constants hold.
fn same(a: &Graph, b: &Graph) -> bool {
    let constants = |x, y| match (a.as_constant(x), b.as_constant(y)) {
        (Some(x), Some(y)) => {
            let large = x.data().len() > LOOKED_AT;
            Some(x.ty() == y.ty() && (large || x.data() == y.data()))
        }
        _ => None,
    };
    let outputs =
        a.outputs.iter().map(|it| (&it.name, it.value)).eq(b.outputs.iter().map(|it| (&it.name, it.value)));
    outputs
        && a.len() == b.len()
        && a.nodes().zip(b.nodes()).all(|((x, own), (y, other))| {
            let alike = constants(x, y).unwrap_or(own.op == other.op);
            x == y && alike && own.ty == other.ty && own.origin == other.origin
        })
}

/// Bytes of constants whose values are compared.
const LOOKED_AT: usize = 1 << 12;
