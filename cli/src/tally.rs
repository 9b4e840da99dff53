//! What the caches of compiled graphs gave, as text and as JSON.

use serde_json::{Value, json};
use wgfuse::{Found, Tally};

/// One line: where plans came from, and why a cache was passed by.
pub fn text(tally: &Tally) -> String {
    let Tally { compiled, memory, disk, .. } = tally;
    let mut text = format!("{compiled} compiled, {} from memory, {} from disk", memory.hits, disk.hits);
    for (level, found) in [("memory", memory), ("disk", disk)] {
        for (why, _) in found.bypasses() {
            text += &format!("; not {level}: {why}");
        }
    }
    text
}

pub fn json(tally: &Tally) -> Value {
    let level = |it: &Found| {
        let bypasses: Vec<Value> =
            it.bypasses().map(|(why, count)| json!({ "reason": why.to_string(), "count": count })).collect();
        json!({ "hits": it.hits, "misses": it.misses, "bypasses": bypasses })
    };
    json!({
        "compiled": tally.compiled,
        "handed_through": tally.handed_through,
        "runs": tally.runs,
        "memory": level(&tally.memory),
        "disk": level(&tally.disk),
    })
}
