//! What is said where an artefact has no plan for what is asked of it.

use wgfuse_compiler::{
    artefact::{Artefact, Unfit},
    shape::Shape,
    target::{Lack, Place},
};

use crate::{disabled::DisabledReason, error::Error};

/// There is no plan for these shapes.
pub(crate) fn other_shapes(artefact: &Artefact, given: &[Shape]) -> Error {
    let list = |shapes: &[Shape]| {
        let named = artefact.inputs.iter().zip(shapes).map(|(it, shape)| format!("{} {shape}", it.name));
        named.collect::<Vec<_>>().join(", ")
    };
    let all = artefact.shapes();
    let other = |&at: &usize| all.iter().all(|it| it.get(at) != given.get(at));
    let at = (0..given.len()).find(other).unwrap_or(0);
    let name = artefact.inputs.get(at).map_or("", |it| &*it.name);
    let known: Vec<String> = all.into_iter().map(list).collect();
    let what = format!(
        "the artefact was compiled for {}, not for {}; compile the model for that too",
        known.join("; "),
        list(given)
    );
    Error::input(name, what)
}

/// Why the device runs no plan of it; `None` where that is not about the device.
pub(crate) fn reason(unfit: Unfit) -> Option<DisabledReason> {
    Some(match unfit {
        Unfit::Shapes | Unfit::Place(Place::Cpu) => return None,
        Unfit::Place(Place::Gpu) => DisabledReason::FeatureMissing("a plan in the artefact".to_owned()),
        Unfit::Device(Lack::Feature(what)) => DisabledReason::FeatureMissing(what.to_owned()),
        Unfit::Device(Lack::Limit { at, need, have }) => {
            DisabledReason::LimitExceeded { at: at.to_owned(), need, have }
        }
    })
}
