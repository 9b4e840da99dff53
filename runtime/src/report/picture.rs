//! A graph as a picture: nodes in layers from top to bottom, each in the colour of the kernel that computes it.
//!
//! In: what every run computes, and its plan. Out: boxes and lines in pixels. Layers are longest paths from the inputs; within a layer nodes
//! are ordered by where their neighbours are (Sugiyama, Tagawa, Toda 1981), and lines that pass layers have their own places there.

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use slotmap::SecondaryMap;
use wgfuse_compiler::{
    graph::{Graph, Op, Value, number},
    partition::Partition,
    plan::Plan,
    target::Place,
};

use super::page::escape;

/// Larger graphs are not drawn: nobody finds anything in them, and browsers take long.
const MOST: usize = 4000;

/// Places of lines between layers that are kept apart; with more, lines go straight.
const MOST_BENDS: usize = 60_000;

const SWEEPS: usize = 8;
/// In pixels.
const BOX_HEIGHT: f64 = 30.0;
const LAYER: f64 = 56.0;
const GAP: f64 = 14.0;
const BEND: f64 = 8.0;

pub struct Picture {
    width: f64,
    height: f64,
    boxes: Vec<Box>,
    /// Corners of lines, from top to bottom.
    lines: Vec<Vec<(f64, f64)>>,
}

struct Box {
    /// Its left upper corner.
    x: f64,
    y: f64,
    width: f64,
    name: String,
    ty: String,
    title: String,
    /// Numbers of the kernels that compute it.
    kernels: Vec<usize>,
    /// On the processor, though the target is a GPU.
    apart: bool,
    border: bool,
}

/// The colour of a kernel: neighbours get hues far apart, by the golden angle.
pub(super) fn hue(kernel: usize) -> u32 {
    (kernel as f64 * 137.508) as u32 % 360
}

/// `None` for a graph too large to look at.
pub(super) fn drawn(parts: &Partition, plan: &Plan) -> Option<Picture> {
    let graph = &parts.graph;
    // What is computed once is there when a run begins, and hides what runs compute.
    let hidden = |value: Value| match graph.op(value) {
        Op::Constant(_) => true,
        Op::Input { slot } => *slot as usize >= parts.arguments,
        _ => false,
    };
    let shown: Vec<Value> = graph.nodes().map(|it| it.0).filter(|it| !hidden(*it)).collect();
    if shown.len() + graph.outputs.len() > MOST {
        return None;
    }
    let kernels = kernels(graph, plan);
    let mut boxes = Vec::new();
    let mut place: SecondaryMap<Value, usize> = SecondaryMap::new();
    let mut layers = Layers::default();
    for &value in &shown {
        let node = graph.node(value);
        let own = kernels.get(value).cloned().unwrap_or_default();
        let above: Vec<usize> = node.op.operands().iter().filter_map(|it| place.get(*it).copied()).collect();
        let (name, border) = match &node.op {
            Op::Input { slot } => (graph.inputs()[*slot as usize].name.clone(), true),
            op => (op.name().to_owned(), false),
        };
        let operands: Vec<String> = node.op.operands().iter().map(|it| format!("%{}", number(*it))).collect();
        let mut title =
            format!("%{} = {} {} : {}", number(value), node.op.name(), operands.join(" "), node.ty);
        for line in [node.origin.to_string()].into_iter().filter(|it| !it.is_empty()) {
            title += &format!("\n{line}");
        }
        own.iter().for_each(|it| title += &format!("\nin {}", plan.kernels[*it].kernel.name));
        if own.is_empty() && !border {
            title += "\ncomputed where it is read";
        }
        let apart = plan.target.place == Place::Gpu && parts.places.get(value) == Some(&Place::Cpu);
        place.insert(value, boxes.len());
        boxes.push(Box::new(name, node.ty.to_string(), title, own, apart, border));
        layers.add(above);
    }
    for output in &graph.outputs {
        let ty = graph.ty(output.value).to_string();
        let title = format!("output {} : {ty}", output.name);
        boxes.push(Box::new(output.name.clone(), ty, title, Vec::new(), false, true));
        layers.add(place.get(output.value).copied().into_iter().collect());
    }
    Some(layers.laid_out(boxes))
}

/// By origin and operator. Where several nodes have the same of both, as in graphs without origins, and there are as many kernels, each node
/// has its own, in order. What is nobody's is computed where it is read, most of it addresses.
fn kernels(graph: &Graph, plan: &Plan) -> SecondaryMap<Value, Vec<usize>> {
    let mut by_name: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for (number, kernel) in plan.kernels.iter().enumerate() {
        for origin in &kernel.kernel.origins {
            for &op in &kernel.kernel.ops {
                let all = by_name.entry((origin, op)).or_default();
                if all.last() != Some(&number) {
                    all.push(number);
                }
            }
        }
    }
    let mut nodes: HashMap<(&str, &str), Vec<Value>> = HashMap::new();
    for (value, node) in graph.nodes() {
        nodes.entry((&node.origin, node.op.name())).or_default().push(value);
    }
    let mut found = SecondaryMap::new();
    for (value, node) in graph.nodes() {
        let name = (&*node.origin, node.op.name());
        let Some(all) = by_name.get(&name) else { continue };
        let own = match &nodes[&name] {
            same if same.len() > 1 && same.len() == all.len() => {
                let place = same.iter().position(|it| *it == value).expect("it has this name");
                vec![all[place]]
            }
            _ => all.clone(),
        };
        found.insert(value, own);
    }
    found
}

impl Box {
    fn new(name: String, ty: String, title: String, kernels: Vec<usize>, apart: bool, border: bool) -> Box {
        let (name, ty) = (short(&name), short(&ty));
        let letters = name.chars().count().max(ty.chars().count());
        let width = (letters as f64 * 6.2 + 12.0).max(48.0);
        Box { x: 0.0, y: 0.0, width, name, ty, title, kernels, apart, border }
    }
}

fn short(text: &str) -> String {
    const LONGEST: usize = 26;
    match text.chars().count() {
        0..=LONGEST => text.to_owned(),
        _ => text.chars().take(LONGEST - 2).chain("..".chars()).collect(),
    }
}

/// Nodes by numbers, those above each.
#[derive(Default)]
struct Layers {
    above: Vec<Vec<usize>>,
}

/// A box, or a place of a line in a layer that it passes.
struct Spot {
    node: Option<usize>,
    width: f64,
    /// Its middle.
    x: f64,
    /// Spots of the layers above and below.
    up: Vec<usize>,
    down: Vec<usize>,
}

impl Layers {
    fn add(&mut self, above: Vec<usize>) {
        self.above.push(above);
    }

    /// The layer of each node: below all that it reads, and what reads nothing right above its first reader.
    fn depths(&self) -> Vec<usize> {
        let mut depths = vec![0; self.above.len()];
        for (node, above) in self.above.iter().enumerate() {
            depths[node] = above.iter().map(|it| depths[*it] + 1).max().unwrap_or(0);
        }
        let mut nearest = vec![usize::MAX; self.above.len()];
        for (node, above) in self.above.iter().enumerate() {
            above.iter().for_each(|it| nearest[*it] = nearest[*it].min(depths[node]));
        }
        for (node, above) in self.above.iter().enumerate() {
            if above.is_empty() && nearest[node] != usize::MAX {
                depths[node] = nearest[node] - 1;
            }
        }
        depths
    }

    fn laid_out(&self, mut boxes: Vec<Box>) -> Picture {
        let depths = self.depths();
        let count = depths.iter().max().map_or(0, |it| it + 1);
        let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut spots: Vec<Spot> = Vec::new();
        let mut spot = |node: Option<usize>, width: f64, depth: usize, spots: &mut Vec<Spot>| {
            spots.push(Spot { node, width, x: 0.0, up: Vec::new(), down: Vec::new() });
            rows[depth].push(spots.len() - 1);
            spots.len() - 1
        };
        for (node, it) in boxes.iter().enumerate() {
            spot(Some(node), it.width, depths[node], &mut spots);
        }
        let spans = |(node, above): (usize, &Vec<usize>)| -> usize {
            above.iter().map(|it| depths[node] - depths[*it] - 1).sum()
        };
        let bends = self.above.iter().enumerate().map(spans).sum::<usize>() <= MOST_BENDS;
        let mut chains = Vec::new();
        for (node, above) in self.above.iter().enumerate() {
            for &from in above {
                let mut chain = vec![from];
                if bends {
                    for depth in depths[from] + 1..depths[node] {
                        chain.push(spot(None, BEND, depth, &mut spots));
                    }
                }
                chain.push(node);
                for pair in chain.windows(2) {
                    spots[pair[0]].down.push(pair[1]);
                    spots[pair[1]].up.push(pair[0]);
                }
                chains.push(chain);
            }
        }
        arrange(&mut rows, &mut spots);
        let left = spots.iter().map(|it| it.x - it.width / 2.0).fold(f64::INFINITY, f64::min);
        let right = spots.iter().map(|it| it.x + it.width / 2.0).fold(f64::NEG_INFINITY, f64::max);
        let depth_of = {
            let mut of = vec![0; spots.len()];
            rows.iter().enumerate().for_each(|(depth, row)| row.iter().for_each(|it| of[*it] = depth));
            of
        };
        let at = |it: usize| (spots[it].x - left + GAP, depth_of[it] as f64 * LAYER + GAP);
        for (number, spot) in spots.iter().enumerate() {
            let Some(node) = spot.node else { continue };
            let (x, y) = at(number);
            (boxes[node].x, boxes[node].y) = (x - spot.width / 2.0, y);
        }
        let line = |chain: Vec<usize>| {
            let last = chain.len() - 1;
            let corner = |(number, spot): (usize, &usize)| {
                let (x, y) = at(*spot);
                let down = if number == 0 {
                    BOX_HEIGHT
                } else if number == last {
                    0.0
                } else {
                    BOX_HEIGHT / 2.0
                };
                (x, y + down)
            };
            chain.iter().enumerate().map(corner).collect()
        };
        let lines = chains.into_iter().map(line).collect();
        let width = if spots.is_empty() { 0.0 } else { right - left };
        Picture { width: width + 2.0 * GAP, height: count as f64 * LAYER + GAP, boxes, lines }
    }
}

/// Orders each row by its neighbours, down and up in turns, and gives every spot its middle.
fn arrange(rows: &mut [Vec<usize>], spots: &mut [Spot]) {
    for row in rows.iter() {
        spread(row, spots, |at| at as f64 * 10.0);
    }
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let order: Vec<usize> = match down {
            true => (0..rows.len()).collect(),
            false => (0..rows.len()).rev().collect(),
        };
        for number in order {
            let wanted: HashMap<usize, f64> = (rows[number].iter())
                .map(|&it| {
                    let spot = &spots[it];
                    let near = if down { &spot.up } else { &spot.down };
                    let near = if near.is_empty() { if down { &spot.down } else { &spot.up } } else { near };
                    let sum: f64 = near.iter().map(|it| spots[*it].x).sum();
                    (it, if near.is_empty() { spot.x } else { sum / near.len() as f64 })
                })
                .collect();
            rows[number].sort_by(|a, b| wanted[a].total_cmp(&wanted[b]));
            let row = rows[number].clone();
            spread(&row, spots, |at| wanted[&row[at]]);
        }
    }
}

/// Puts a row's spots, in their order, as near to where they are wanted as their widths allow.
fn spread(row: &[usize], spots: &mut [Spot], wanted: impl Fn(usize) -> f64) {
    let apart = |a: usize, b: usize, spots: &[Spot]| {
        let gap = if spots[a].node.is_some() || spots[b].node.is_some() { GAP } else { 0.0 };
        (spots[a].width + spots[b].width) / 2.0 + gap
    };
    // From the left and from the right; the mean of two allowed placings is one.
    let mut from_left = vec![0.0; row.len()];
    for at in 0..row.len() {
        from_left[at] = match at {
            0 => wanted(0),
            _ => wanted(at).max(from_left[at - 1] + apart(row[at - 1], row[at], spots)),
        };
    }
    let mut from_right = vec![0.0; row.len()];
    for at in (0..row.len()).rev() {
        from_right[at] = match row.get(at + 1) {
            None => wanted(at),
            Some(&next) => wanted(at).min(from_right[at + 1] - apart(row[at], next, spots)),
        };
    }
    row.iter().enumerate().for_each(|(at, it)| spots[*it].x = (from_left[at] + from_right[at]) / 2.0);
}

/// As SVG, in its own size.
pub(super) fn write_picture(out: &mut String, it: &Picture) -> fmt::Result {
    let Picture { width, height, boxes, lines } = it;
    writeln!(
        out,
        "<div class=\"graph\"><svg id=\"graph\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">"
    )?;
    for line in lines {
        let Some(((x, y), rest)) = line.split_first() else { continue };
        write!(out, "<path d=\"M{x:.0} {y:.0}")?;
        let mut from = (*x, *y);
        for &(x, y) in rest {
            let middle = (from.1 + y) / 2.0;
            write!(out, "C{:.0} {middle:.0} {x:.0} {middle:.0} {x:.0} {y:.0}", from.0)?;
            from = (x, y);
        }
        writeln!(out, "\"/>")?;
    }
    for it in boxes {
        let Box { x, y, width, name, ty, title, kernels, apart, border } = it;
        let (fill, class) = match (kernels.first(), border) {
            (_, true) => ("#1c2430".to_owned(), "io"),
            (Some(first), _) => (format!("hsl({} 60% 80%)", hue(*first)), "op"),
            (None, _) => ("#fff".to_owned(), "view"),
        };
        let edge = if *apart { " stroke=\"#c00\" stroke-width=\"2\"" } else { "" };
        let numbers: Vec<String> = kernels.iter().map(|it| it.to_string()).collect();
        let middle = x + width / 2.0;
        writeln!(
            out,
            "<g class=\"{class}\" data-k=\"{}\"><title>{}</title>\
             <rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{BOX_HEIGHT}\" rx=\"4\" fill=\"{fill}\"{edge}/>\
             <text x=\"{middle:.0}\" y=\"{:.0}\">{}</text><text x=\"{middle:.0}\" y=\"{:.0}\" class=\"t\">{}</text></g>",
            numbers.join(" "),
            escape(title),
            y + 12.0,
            escape(name),
            y + 24.0,
            escape(ty)
        )?;
    }
    writeln!(out, "</svg></div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(above: &[Vec<usize>]) -> Picture {
        let boxed = |_| Box::new("op".into(), "f32[8]".into(), String::new(), Vec::new(), false, false);
        Layers { above: above.to_vec() }.laid_out(above.iter().map(boxed).collect())
    }

    #[test]
    fn boxes_overlap_nowhere_and_lines_go_down() {
        let wide = (0..60).map(|it: usize| (it.saturating_sub(7)..it).step_by(3).collect()).collect();
        let diamond = vec![vec![], vec![0], vec![0], vec![1, 2], vec![0, 3]];
        for above in [vec![], vec![vec![]], diamond, wide] {
            let above: Vec<Vec<usize>> = above;
            let Picture { width, height, boxes, lines } = picture(&above);
            for (at, a) in boxes.iter().enumerate() {
                assert!(a.x >= 0.0 && a.x + a.width <= width && a.y + BOX_HEIGHT <= height);
                for b in &boxes[..at] {
                    let apart = a.x + a.width <= b.x || b.x + b.width <= a.x || a.y != b.y;
                    assert!(apart, "boxes lie on each other");
                }
            }
            assert_eq!(lines.len(), above.iter().map(Vec::len).sum::<usize>());
            assert!(lines.iter().all(|it| it.windows(2).all(|it| it[0].1 < it[1].1)));
        }
    }
}
