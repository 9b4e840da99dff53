//! One shape an input: those that `--shape` gives, and stated defaults for the sizes that neither it nor the model fixes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use wgfuse::compiler::{
    import::Signature,
    shape::{Dim, Shape},
};
use wgfuse::report::shape_text;

/// For an open size that is not a batch.
const DEFAULT_SIZE: usize = 128;

/// `--shape name=1x128`.
#[derive(Clone, PartialEq, Debug)]
pub struct ShapeArg {
    pub name: String,
    pub shape: Shape,
}

impl std::str::FromStr for ShapeArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<ShapeArg> {
        let (name, dims) = text.rsplit_once('=').context("expected name=1x128")?;
        let dims = dims.split(['x', ',']).filter(|_| !dims.is_empty());
        let shape = dims.map(|it| it.trim().parse::<usize>()).collect::<Result<Shape, _>>();
        Ok(ShapeArg { name: name.to_string(), shape: shape.context("expected sizes such as 1x128")? })
    }
}

pub struct Shapes {
    /// One an input, in the order of the model's.
    pub shapes: Vec<Shape>,
    /// What was assumed, as `batch = 1`.
    pub assumed: Vec<String>,
}

pub fn shapes(inputs: &[Signature], given: &[ShapeArg]) -> Result<Shapes> {
    let mut symbols: BTreeMap<&str, usize> = BTreeMap::new();
    for arg in given {
        let input = inputs.iter().find(|it| it.name == arg.name);
        let input = input.ok_or_else(|| anyhow!("--shape: no input '{}'; {}", arg.name, takes(inputs)))?;
        let misfit =
            || anyhow!("--shape: {} does not fit '{}', which is {}", arg.shape, arg.name, text(input));
        ensure!(arg.shape.rank() == input.dims.len(), misfit());
        for (&size, dim) in arg.shape.iter().zip(&input.dims) {
            match dim {
                Dim::Fixed(it) => ensure!(*it == size, misfit()),
                Dim::Symbol(name) => {
                    let before = *symbols.entry(name).or_insert(size);
                    if before != size {
                        bail!("--shape: '{name}' cannot be both {before} and {size}");
                    }
                }
                Dim::Unknown => {}
            }
        }
    }
    let mut assumed = Vec::new();
    let mut shapes = Vec::new();
    for input in inputs {
        let arg = given.iter().find(|it| it.name == input.name);
        let mut sizes = Vec::new();
        for (axis, dim) in input.dims.iter().enumerate() {
            sizes.push(match (arg, dim) {
                (Some(arg), _) => arg.shape[axis],
                (None, Dim::Fixed(size)) => *size,
                (None, Dim::Symbol(name)) => *symbols.entry(name).or_insert_with(|| {
                    let size = default(axis, Some(name));
                    assumed.push(format!("{name} = {size}"));
                    size
                }),
                (None, Dim::Unknown) => {
                    let size = default(axis, None);
                    assumed.push(format!("axis {axis} of {} = {size}", input.name));
                    size
                }
            });
        }
        shapes.push(sizes.into_iter().collect());
    }
    Ok(Shapes { shapes, assumed })
}

fn default(axis: usize, name: Option<&str>) -> usize {
    let batch = name.is_some_and(|it| it.to_lowercase().contains("batch"));
    if axis == 0 || batch { 1 } else { DEFAULT_SIZE }
}

/// An input as `i64[batch,seq]`.
pub fn text(input: &Signature) -> String {
    format!("{}{}", input.dtype, shape_text(&input.dims))
}

/// What a model takes, as a sentence.
pub fn takes(inputs: &[Signature]) -> String {
    match inputs {
        [] => "the model takes no inputs".into(),
        _ => {
            let all = inputs.iter().map(|it| format!("'{}' {}", it.name, text(it)));
            format!("the model takes {}", all.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgfuse::compiler::dtype::DType;

    fn input(name: &str, dims: &[Dim]) -> Signature {
        Signature { name: name.into(), dtype: DType::I64, dims: dims.to_vec() }
    }

    #[test]
    fn symbols_are_shared_and_the_rest_is_assumed() {
        let (batch, seq) = (Dim::Symbol("batch".into()), Dim::Symbol("seq".into()));
        let inputs = [input("ids", &[batch.clone(), seq.clone()]), input("mask", &[batch, seq])];
        let found = shapes(&inputs, &[]).expect("defaults");
        assert_eq!(found.shapes, [Shape::from([1, 128]), [1, 128].into()]);
        assert_eq!(found.assumed, ["batch = 1", "seq = 128"]);
        let given = ["mask=2x7".parse().expect("a shape")];
        let found = shapes(&inputs, &given).expect("given");
        assert_eq!((&found.shapes[0], found.assumed.len()), (&[2, 7].into(), 0));
        for wrong in ["mask=2", "other=1x1"] {
            assert!(shapes(&inputs, &[wrong.parse().expect("a shape")]).is_err(), "{wrong}");
        }
        assert!("mask".parse::<ShapeArg>().is_err() && "mask=2xx".parse::<ShapeArg>().is_err());
        assert_eq!("s=".parse::<ShapeArg>().expect("a scalar").shape, Shape::scalar());
    }
}
