//! A report as one page that needs nothing else: tables, and the memory plan drawn over time.

use std::fmt::Write;

use super::{
    Report, Span,
    picture::{hue, write_picture},
    words::{bytes, count, seconds},
};

const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2430;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:left;vertical-align:top}\
th{border-bottom:1px solid #9aa5b1}tr:nth-child(even) td{background:#f4f6f8}td.n{text-align:right}td.n,tr[data-k] td:first-child{white-space:nowrap}\
code{font:12px ui-monospace,monospace}summary{cursor:pointer;margin:.5rem 0}\
svg.plan{width:100%;height:auto;background:#f4f6f8}.scroll{overflow-x:auto}\
.graph{overflow:auto;max-height:80vh;background:#f4f6f8}.graph path{fill:none;stroke:#9aa5b1}\
.graph rect{stroke:#5b6673;stroke-width:.6}.graph text{font:10px ui-monospace,monospace;text-anchor:middle}\
.graph text.t{fill:#5b6673;font-size:9px}.graph .io text{fill:#fff}.graph .view rect{stroke-dasharray:3 2}\
.graph g{cursor:pointer}.dim g:not(.on){opacity:.25}tr.on td{background:#fde68a!important}\
.k{display:inline-block;width:.8rem;height:.8rem;border:1px solid #5b6673;border-radius:2px;margin-right:.4rem}\
tr[data-k]{cursor:pointer}";

/// A click on a kernel or on one of its nodes shows all of both; another click ends that.
const SCRIPT: &str = "\
const all=[...document.querySelectorAll('[data-k]')],of=e=>e.dataset.k.split(' ').filter(k=>k),svg=document.getElementById('graph');\
let shown='';\
all.forEach(e=>e.addEventListener('click',()=>{const k=of(e),now=k.join();shown=!now||now===shown?'':now;\
all.forEach(o=>o.classList.toggle('on',!!shown&&of(o).some(i=>k.includes(i))));\
if(svg){svg.classList.toggle('dim',!!shown);\
if(shown&&e.tagName==='TR'){const g=svg.querySelector('g.on');if(g)g.scrollIntoView({block:'center',inline:'center'})}}}));";

/// One page: no file and no network beside it.
pub fn page(model: &str, device: &str, assumed: &[String], report: &Report) -> String {
    let mut page = String::new();
    write_page(&mut page, model, device, assumed, report).expect("a string takes everything");
    page
}

fn write_page(
    out: &mut String,
    model: &str,
    device: &str,
    assumed: &[String],
    report: &Report,
) -> std::fmt::Result {
    let title = escape(model);
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>")?;
    writeln!(out, "<style>{STYLE}</style>\n<h1>{title}</h1>")?;
    write!(out, "<p>Compiled for {}: ", escape(device))?;
    write!(out, "{}, ", count(report.kernels.len(), "kernel"))?;
    writeln!(out, "{} of them launched on the GPU.", report.dispatches)?;
    if !assumed.is_empty() {
        writeln!(out, "Sizes assumed: {}.", escape(&assumed.join(", ")))?;
    }
    writeln!(out, "</p>")?;

    writeln!(out, "<h2>Inputs and outputs</h2>")?;
    let ports = [("input", &report.inputs), ("output", &report.outputs)];
    let ports = ports.into_iter().flat_map(|(kind, all)| {
        all.iter().map(move |it| {
            [kind.into(), it.name.clone(), it.dtype.into(), it.dims.clone(), format!("{:?}", it.shape)]
                .to_vec()
        })
    });
    table(out, &["", "name", "type", "in the file", "here"], &[], ports)?;

    writeln!(out, "<h2>Graph</h2>")?;
    match &report.picture {
        Some(picture) => {
            writeln!(
                out,
                "<p>What every run computes, in the colours of the kernels; what is dashed is computed where it is read. Point for more, \
                 click for a kernel.</p>"
            )?;
            write_picture(out, picture)?
        }
        None => writeln!(out, "<p>Too large to be drawn; its nodes are listed below.</p>")?,
    }

    writeln!(out, "<h2>Where it runs</h2>")?;
    let rows = report.parts.iter().map(|it| vec![it.name.into(), it.nodes.to_string(), it.why.clone()]);
    table(out, &["part", "nodes", "why"], &[1], rows)?;
    match &report.cpu_parts[..] {
        [] => writeln!(out, "<p>No part had to leave the device.</p>")?,
        parts => {
            let rows = parts.iter().map(|it| vec![it.node.clone(), it.reason.clone()]);
            table(out, &["node on the CPU", "why"], &[], rows)?
        }
    }
    if !report.crossings.is_empty() {
        writeln!(out, "<p>Every run moves, beside inputs and outputs:</p>")?;
        let rows = report.crossings.iter();
        let rows = rows.map(|it| vec![it.node.clone(), it.to.to_uppercase(), it.bytes.to_string()]);
        table(out, &["made by", "to the", "bytes"], &[2], rows)?;
    }

    writeln!(out, "<h2>Kernels</h2>")?;
    writeln!(
        out,
        "<div class=\"scroll\"><table><tr><th></th><th>name</th><th>on</th><th>fused</th><th>form</th><th>bytes</th>\
         <th>made for</th></tr>"
    )?;
    for (at, it) in report.kernels.iter().enumerate() {
        write!(
            out,
            "<tr data-k=\"{at}\"><td><span class=\"k\" style=\"background:hsl({} 60% 80%)\"></span>{at}</td>",
            hue(at)
        )?;
        let cells = [&it.name, &it.place.to_owned(), &it.ops.join(" + "), &it.form];
        cells.into_iter().try_for_each(|cell| write!(out, "<td><code>{}</code></td>", escape(cell)))?;
        let origins = escape(&it.origins.join(", "));
        writeln!(
            out,
            "<td class=\"n\"><code>{}</code></td><td><code>{origins}</code></td></tr>",
            bytes(it.bytes)
        )?;
    }
    writeln!(out, "</table></div>")?;

    writeln!(out, "<h2>Why kernels stayed apart</h2>")?;
    let rows =
        report.refusals.iter().map(|it| vec![it.producer.clone(), it.consumer.clone(), it.why.clone()]);
    details(out, &count(report.refusals.len(), "pair"), |out| {
        table(out, &["producer", "consumer", "why"], &[], rows)
    })?;

    writeln!(out, "<h2>Memory</h2>")?;
    let memory = &report.memory;
    writeln!(
        out,
        "<p>Activations {} (largest live sum {}, ratio {:.2}), weights {}, inputs {}, outputs {}, states {}.</p>",
        bytes(memory.arena),
        bytes(memory.live_peak),
        memory.ratio,
        bytes(memory.weights),
        bytes(memory.inputs),
        bytes(memory.outputs),
        bytes(memory.states)
    )?;
    drawings(out, &memory.tensors, report.steps)?;

    writeln!(out, "<h2>Compilation</h2>")?;
    let rows = report.stages.iter().map(|it| vec![it.name.clone(), seconds(it.seconds)]);
    details(out, "Time of each step", |out| table(out, &["step", "time"], &[1], rows))?;
    let rows = report.passes.iter().map(|it| {
        let changed = if it.changed { "changed" } else { "as before" };
        vec![it.name.clone(), changed.into(), it.nodes.to_string()]
    });
    details(out, "Passes", |out| table(out, &["pass", "the graph is", "nodes"], &[2], rows))?;
    let counts = report.operators.iter();
    let counts = counts.map(|it| vec![it.name.into(), it.imported.to_string(), it.optimised.to_string()]);
    details(out, "Operators", |out| table(out, &["operator", "in the file", "optimised"], &[1, 2], counts))?;
    let nodes = report.nodes.iter().map(|it| {
        let operands = it.operands.iter().map(|it| format!("%{it}")).collect::<Vec<_>>().join(" ");
        vec![format!("%{}", it.number), it.op.into(), operands, it.ty.clone(), it.origin.clone()]
    });
    let what = count(report.nodes.len(), "node");
    details(out, &what, |out| table(out, &["", "op", "operands", "type", "made for"], &[], nodes))?;
    writeln!(out, "<script>{SCRIPT}</script>\n</html>")
}

fn details(
    out: &mut String,
    summary: &str,
    inner: impl FnOnce(&mut String) -> std::fmt::Result,
) -> std::fmt::Result {
    writeln!(out, "<details><summary>{}</summary>", escape(summary))?;
    inner(out)?;
    writeln!(out, "</details>")
}

/// `numbers` are the columns that are aligned right.
fn table(
    out: &mut String,
    heads: &[&str],
    numbers: &[usize],
    rows: impl Iterator<Item = Vec<String>>,
) -> std::fmt::Result {
    write!(out, "<div class=\"scroll\"><table><tr>")?;
    heads.iter().try_for_each(|it| write!(out, "<th>{it}</th>"))?;
    writeln!(out, "</tr>")?;
    for row in rows {
        write!(out, "<tr>")?;
        for (at, cell) in row.iter().enumerate() {
            let class = if numbers.contains(&at) { " class=\"n\"" } else { "" };
            write!(out, "<td{class}><code>{}</code></td>", escape(cell))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</table></div>")
}

/// One drawing a buffer: steps from left to right, addresses from top to bottom.
fn drawings(out: &mut String, spans: &[Span], steps: usize) -> std::fmt::Result {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 320.0;
    let mut buffers: Vec<u32> = spans.iter().map(|it| it.buffer).collect();
    buffers.sort_unstable();
    buffers.dedup();
    for buffer in buffers {
        let spans = spans.iter().filter(|it| it.buffer == buffer);
        let size = spans.clone().map(|it| it.offset + it.len).max().unwrap_or(1).max(1);
        writeln!(out, "<p>Buffer {buffer}, {} over {}:</p>", bytes(size), count(steps, "step"))?;
        writeln!(out, "<svg class=\"plan\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\">")?;
        for (at, it) in spans.enumerate() {
            let (x, y) = (it.first as f64 / steps as f64, it.offset as f64 / size as f64);
            let (width, height) =
                ((it.last + 1 - it.first) as f64 / steps as f64, it.len as f64 / size as f64);
            // Neighbours in time get hues far apart: the golden angle.
            let hue = (at as f64 * 137.508) % 360.0;
            writeln!(
                out,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"hsl({hue:.0} 60% 65%)\" \
                 stroke=\"#fff\" stroke-width=\".5\"><title>tensor {}: {} at {}, steps {} to {}, {}</title></rect>",
                x * WIDTH,
                y * HEIGHT,
                width * WIDTH,
                height * HEIGHT,
                it.tensor,
                bytes(it.len),
                it.offset,
                it.first,
                it.last,
                escape(&it.by)
            )?;
        }
        writeln!(out, "</svg>")?;
    }
    Ok(())
}

pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            it if it.is_control() => safe.push(' '),
            it => safe.push(it),
        }
    }
    safe
}
