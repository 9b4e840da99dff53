//! Values of models as files have them: tensors and strings, each with a name. The parts of a sequence are `name.0`, `name.1` and so on.

use anyhow::{Result, bail, ensure};
use wgfuse::{Datum, Tensor};

use crate::tensor_file::{Entry, Naming};

/// A value's parts, each with its name; what holds nothing has none.
pub fn parts(name: &str, value: Datum) -> Vec<(String, Datum)> {
    match value {
        it @ (Datum::Tensor(_) | Datum::Strings(_)) => vec![(name.to_owned(), it)],
        Datum::Sequence(all) => {
            (all.into_iter().enumerate()).flat_map(|(at, it)| parts(&format!("{name}.{at}"), it)).collect()
        }
        Datum::Optional(one) => one.map_or(Vec::new(), |it| parts(name, *it)),
    }
}

/// Entries in which those named `name.0`, `name.1` and so on are one sequence `name`. None may be missing or given twice.
pub fn joined(name: &str, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let place = |it: &Entry| it.name.strip_prefix(name)?.strip_prefix('.')?.parse::<usize>().ok();
    let (mut all, mut rest): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|it| place(it).is_some());
    all.sort_by_key(place);
    for (at, it) in all.iter().enumerate() {
        ensure!(
            place(it) == Some(at),
            "of the sequence '{name}' part {at} is missing, or one is given twice"
        );
    }
    if !all.is_empty() {
        let value = Datum::Sequence(all.into_iter().map(|it| it.value).collect());
        rest.push(Entry { name: name.to_owned(), naming: Naming::Given, value });
    }
    Ok(rest)
}

/// What a value is, as `f32[2,3]`.
pub fn described(value: &Datum) -> String {
    match value {
        Datum::Tensor(it) => it.ty().to_string(),
        Datum::Strings(it) => format!("string{}", it.shape()),
        Datum::Sequence(all) => format!("sequence of {}", all.len()),
        Datum::Optional(Some(one)) => format!("optional {}", described(one)),
        Datum::Optional(None) => "nothing".to_owned(),
    }
}

/// The values as tensors, for a command that knows nothing else.
pub fn tensors(command: &str, values: Vec<(String, Datum)>) -> Result<Vec<(String, Tensor)>> {
    let tensor = |(name, value)| match value {
        Datum::Tensor(it) => Ok((name, it)),
        it => bail!("'{name}' is {}: `wgfuse {command}` works on tensors alone", described(&it)),
    };
    values.into_iter().map(tensor).collect()
}
