//! Runs of models whose inputs or outputs are strings, sequences or optional values.
//!
//! In: values by name. Out: values by name. They are on the host; between, their tensors are where stretches leave them.

use wgfuse_compiler::{
    error::Error as ModelError,
    import::{Signature, host::Datum, stretch::input_key},
    shape::{Dim, Form, Shape},
};

use super::{
    Session,
    stretches::{Came, Run, Tensors, bind, datum, of_datum},
};
use crate::{
    buffers::Wait,
    error::{Error, Result},
    inputs::Outputs,
    replay::Ends,
};

impl Session {
    /// As `run`, of a model whose inputs or outputs are strings, sequences or optional values. An optional input that is not given holds nothing.
    pub async fn run_values_async(&self, given: &[(&str, Datum)]) -> Result<Outputs<Datum>> {
        self.run_with(given, Wait::Yield).await
    }

    /// See `run_values_async`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_values(&self, given: &[(&str, Datum)]) -> Result<Outputs<Datum>> {
        pollster::block_on(self.run_with(given, Wait::Block))
    }

    async fn run_with(&self, given: &[(&str, Datum)], wait: Wait) -> Result<Outputs<Datum>> {
        let [inputs, outputs] = self.model.forms();
        if inputs.iter().chain(outputs).all(|it| *it == Form::Tensor) {
            let mut tensors = Vec::with_capacity(given.len());
            for (name, value) in given {
                match value {
                    Datum::Tensor(tensor) => tensors.push((*name, tensor.clone())),
                    Datum::Strings(_) | Datum::Sequence(_) | Datum::Optional(_) => {
                        return Err(Error::input(name, "is not a tensor, as the model wants"));
                    }
                }
            }
            let made = self.run_waiting(&tensors, wait).await?;
            let all = made.into_iter().map(|(name, it)| (name, Datum::Tensor(it)));
            return Ok(Outputs::new(all.collect()));
        }
        if let Some((name, _)) = given.iter().find(|it| !self.inputs.iter().any(|own| own.name == it.0)) {
            return Err(Error::input(name, "the model has no such input"));
        }
        let (mut known, mut tensors) = (Vec::new(), Tensors::new());
        let run = Run::new(&self.options, wait, self.model.strings());
        for (input, form) in self.inputs.iter().zip(inputs) {
            let value = match (given.iter().find(|it| it.0 == input.name), form) {
                (Some((_, value)), _) => value.clone(),
                (None, Form::Optional(_)) => Datum::Optional(None),
                (None, _) => return Err(Error::input(&input.name, format!("is missing; it is a {form}"))),
            };
            let value = fitting(input, form, value)?;
            let (key, mut types) = (input_key(&input.name), Vec::new());
            let bound = bind(&key, of_datum(value, &run.words)?, &mut types, &mut tensors);
            known.push(Came::Value(key, bound, types));
        }
        let first = self.begun(&self.begun, known, |inputs| {
            let begun = self.model.begin_with(inputs)?;
            Ok(begun.ok_or_else(|| ModelError::malformed("the model", "takes tensors alone"))?)
        })?;
        let (bounds, made) = self.go(first, tensors, Ends::Host, &run).await?;
        self.tallies.count(|it| &it.runs);
        let mut all = Vec::with_capacity(bounds.len());
        for (output, bound) in self.model.outputs.iter().zip(&bounds) {
            all.push((output.name.clone(), datum(bound, &made, &run).await?));
        }
        Ok(Outputs::new(all))
    }
}

/// The value in the form that the input has: what is there in place of what may be there is that.
fn fitting(input: &Signature, form: &Form, value: Datum) -> Result<Datum> {
    let refused =
        |what: &str| Err(Error::input(&input.name, format!("{what}; the model takes {}", form.of(input))));
    match (form, value) {
        (Form::Tensor, Datum::Tensor(tensor)) => {
            if tensor.dtype() != input.dtype {
                return refused(&format!("holds a tensor {}", tensor.ty()));
            }
            match has(&input.dims, tensor.shape()) {
                true => Ok(Datum::Tensor(tensor)),
                false => refused(&format!("holds a tensor {}", tensor.ty())),
            }
        }
        (Form::Strings, Datum::Strings(strings)) => match has(&input.dims, strings.shape()) {
            true => Ok(Datum::Strings(strings)),
            false => refused(&format!("holds strings of shape {}", strings.shape())),
        },
        (Form::Sequence(of), Datum::Sequence(all)) => {
            let each = all.into_iter().map(|it| fitting(input, of, it));
            Ok(Datum::Sequence(each.collect::<Result<_>>()?))
        }
        (Form::Optional(_), Datum::Optional(None)) => Ok(Datum::Optional(None)),
        (Form::Optional(of), Datum::Optional(Some(one))) => {
            Ok(Datum::Optional(Some(Box::new(fitting(input, of, *one)?))))
        }
        (Form::Optional(of), value) => Ok(Datum::Optional(Some(Box::new(fitting(input, of, value)?)))),
        (Form::Tensor | Form::Strings | Form::Sequence(_), _) => refused("is of another form"),
    }
}

/// Whether a shape fits what is stated of it. What is stated of elements is what they have in common, or nothing.
fn has(dims: &[Dim], shape: &Shape) -> bool {
    let fits = |(dim, size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(it) if it != size);
    dims.is_empty() || (dims.len() == shape.rank() && dims.iter().zip(shape.iter()).all(fits))
}
