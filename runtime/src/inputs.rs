//! What the caller hands in, checked against the model's signature; and what it gets back.

use std::ops::Index;

use wgfuse_compiler::{
    import::Signature,
    shape::{Dim, Shape},
    tensor::Tensor,
};

use crate::{
    device_tensor::AnyTensor,
    error::{Error, Result},
};

/// Named tensors for `Session::run`: `inputs! { "x" => x, "mask" => mask }`. The tensors are cloned, which shares their
/// bytes.
#[macro_export]
macro_rules! inputs {
    ($($name:expr => $tensor:expr),* $(,)?) => {
        &[$(($name, $crate::Tensor::clone(&$tensor))),*] as &[(&str, $crate::Tensor)]
    };
}

/// What a run gives: the model's outputs, in its order; a `DeviceTensor` each where they stay on the device.
#[derive(Clone, PartialEq, Debug)]
pub struct Outputs<T = Tensor>(Vec<(String, T)>);

/// The given values in the signature's order.
pub(crate) fn ordered<V: Clone + Into<AnyTensor>>(
    signature: &[Signature],
    given: &[(&str, V)],
) -> Result<Vec<AnyTensor>> {
    let known = || signature.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    for (at, (name, _)) in given.iter().enumerate() {
        if !signature.iter().any(|it| it.name == *name) {
            return Err(Error::input(name, format!("the model has no such input; it has: {}", known())));
        }
        if given[..at].iter().any(|it| it.0 == *name) {
            return Err(Error::input(name, "is given twice"));
        }
    }
    let find = |it: &Signature| {
        let found = given.iter().find(|(name, _)| *name == it.name);
        let (_, value) =
            found.ok_or_else(|| Error::input(&it.name, format!("is missing; it is {}", says(it))))?;
        let value: AnyTensor = value.clone().into();
        if value.ty().dtype != it.dtype {
            return Err(Error::input(&it.name, format!("is {}, the model takes {}", value.ty(), says(it))));
        }
        Ok(value)
    };
    let values = signature.iter().map(find).collect::<Result<Vec<_>>>()?;
    shapes(signature, values.iter().map(|it| &it.ty().shape))?;
    Ok(values)
}

/// Whether one shape an input, in order, fits the signature; a symbol means the same number everywhere.
pub(crate) fn shapes<'a>(signature: &[Signature], shapes: impl IntoIterator<Item = &'a Shape>) -> Result<()> {
    let mut known: Vec<(&str, usize, &str)> = Vec::new();
    for (input, shape) in signature.iter().zip(shapes) {
        if shape.rank() != input.dims.len() {
            let what = format!("has shape {shape} of rank {}, the model takes {}", shape.rank(), says(input));
            return Err(Error::input(&input.name, what));
        }
        for (axis, (dim, &have)) in input.dims.iter().zip(shape.iter()).enumerate() {
            match dim {
                Dim::Fixed(size) if *size != have => {
                    let what = format!("has {have} along axis {axis}, the model takes {}", says(input));
                    return Err(Error::input(&input.name, what));
                }
                Dim::Symbol(symbol) => match known.iter().find(|it| it.0 == symbol) {
                    Some((_, size, first)) if *size != have => {
                        let what = format!(
                            "has {have} along axis {axis}, but '{symbol}' is {size} in input '{first}'"
                        );
                        return Err(Error::input(&input.name, what));
                    }
                    Some(_) => {}
                    None => known.push((symbol, have, &input.name)),
                },
                Dim::Fixed(_) | Dim::Unknown => {}
            }
        }
    }
    Ok(())
}

fn says(input: &Signature) -> String {
    let dims: Vec<String> = input.dims.iter().map(Dim::to_string).collect();
    format!("{}[{}]", input.dtype, dims.join(","))
}

impl<T> Outputs<T> {
    pub(crate) fn new(all: Vec<(String, T)>) -> Outputs<T> {
        Outputs(all)
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|it| it.0 == name).map(|it| &it.1)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Index<&str> for Outputs<T> {
    type Output = T;

    /// Panics where the model has no such output; `get` does not.
    fn index(&self, name: &str) -> &T {
        self.get(name).unwrap_or_else(|| panic!("the model has no output '{name}'"))
    }
}

impl<T> Index<usize> for Outputs<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.0[at].1
    }
}

impl<T> IntoIterator for Outputs<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use wgfuse_compiler::dtype::DType;

    use super::*;

    fn signature() -> Vec<Signature> {
        let dim = |it: &str| it.parse().map_or_else(|_| Dim::Symbol(it.into()), Dim::Fixed);
        let input = |name: &str, dims: &[&str]| Signature {
            name: name.into(),
            dtype: DType::F32,
            dims: dims.iter().map(|it| dim(it)).collect(),
        };
        vec![input("x", &["n", "3"]), input("y", &["n"])]
    }

    fn zeros(dims: &[usize]) -> Tensor {
        Tensor::f32(dims, &vec![0.0; dims.iter().product()]).expect("as many zeros")
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let text = |given: &[(&str, Tensor)]| ordered(&signature(), given).expect_err("wrong").to_string();
        let (x, y) = (zeros(&[2, 3]), zeros(&[2]));
        assert!(ordered(&signature(), inputs! { "y" => y, "x" => x }).is_ok());
        assert!(text(inputs! { "x" => x }).contains("'y'"));
        assert!(text(inputs! { "x" => x, "y" => y, "z" => y }).contains("no such input"));
        assert!(text(inputs! { "x" => x, "x" => x, "y" => y }).contains("twice"));
        assert!(text(inputs! { "x" => x, "y" => x }).contains("rank 2"));
        assert!(text(inputs! { "x" => zeros(&[2, 4]), "y" => y }).contains("axis 1"));
        assert!(text(inputs! { "x" => x, "y" => zeros(&[5]) }).contains("'n' is 2"));
        let whole = Tensor::i64([2], &[1, 2]).expect("two");
        assert!(text(inputs! { "x" => x, "y" => whole }).contains("i64[2]"));
    }
}
