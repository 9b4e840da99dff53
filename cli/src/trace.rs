//! The kernels of one run as trace events, which chrome://tracing and Perfetto show. Kernels were timed one by one; in the
//! trace they stand end to end, in the order of their launches, a row for each place.

use serde_json::{Value, json};
use wgfuse::{KernelTime, Place};

use crate::bench::Reached;

/// A JSON object in the Trace Event Format; times are microseconds.
pub fn trace(kernels: &[KernelTime], reached: impl Fn(&KernelTime) -> Reached) -> String {
    let row = |place: Place| match place {
        Place::Gpu => 1,
        Place::Cpu => 2,
    };
    let name = |place: Place| {
        json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": row(place),
            "args": { "name": wgfuse::report::place(place) },
        })
    };
    let mut events: Vec<Value> = [Place::Gpu, Place::Cpu].map(name).into();
    let mut start = 0.0;
    for it in kernels {
        let (reached, micros) = (reached(it), it.seconds * 1e6);
        events.push(json!({
            "name": it.name,
            "cat": wgfuse::report::place(it.place),
            "ph": "X",
            "pid": 1,
            "tid": row(it.place),
            "ts": start,
            "dur": micros,
            "args": {
                "ops": it.ops.join(" "),
                "bytes": it.bytes,
                "operations": it.flops,
                "bytes_per_second": reached.bytes,
                "operations_per_second": reached.operations,
                "share_of_copy": reached.of_copy,
                "share_of_arithmetic": reached.of_arithmetic,
            },
        }));
        start += micros;
    }
    format!("{:#}\n", json!({ "traceEvents": events, "displayTimeUnit": "ns" }))
}
