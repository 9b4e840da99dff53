//! Strings, which no graph knows: tensors of them, as functions of the host and callers have them, and the numbers that stand for them
//! everywhere else.
//!
//! What only moves or compares strings does so to their numbers, as any operator does to integers, wherever that runs. What always holds:
//! in one run equal strings have one number and others have others; those of the model's own strings are the same in every run;
//! the empty string has 0, which is what operators fill with.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    dtype::DType,
    error::Error,
    scalar::Scalar,
    shape::{Shape, Type},
    tensor::Tensor,
};

/// A tensor of strings.
#[derive(Clone, PartialEq, Eq)]
pub struct Strings {
    shape: Shape,
    values: Arc<[Arc<str>]>,
}

impl Strings {
    /// `None` where the shape has not as many elements as there are values.
    pub fn new<T: Into<Arc<str>>>(
        shape: impl Into<Shape>,
        values: impl IntoIterator<Item = T>,
    ) -> Option<Strings> {
        let shape = shape.into();
        let values: Arc<[Arc<str>]> = values.into_iter().map(Into::into).collect();
        (shape.checked_count() == Some(values.len())).then_some(Strings { shape, values })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// In row-major order.
    pub fn values(&self) -> &[Arc<str>] {
        &self.values
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "string{}{:?}", self.shape, self.values)
    }
}

/// What a string counts as in memory beyond its bytes: its header, its place in lists, its entry in the table.
pub const OVERHEAD: u64 = 80;

/// The strings of a model, or those of one run of it as well, by number.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Whose numbers come first.
    base: Option<Arc<Pool>>,
    first: usize,
    all: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, i32>,
    /// How many bytes there may be of those that `all` has.
    left: u64,
    most: u64,
}

/// Numbers stand in tensors of this type, which every GPU has.
pub const NUMBER: DType = DType::I32;

impl Default for Pool {
    fn default() -> Pool {
        let empty: Arc<str> = "".into();
        let numbers = HashMap::from([(empty.clone(), 0)]);
        Pool { base: None, first: 0, all: vec![empty], numbers, left: u64::MAX, most: u64::MAX }
    }
}

impl Pool {
    /// A run's, of a model whose own is `base`: what it gets beyond that takes `most` bytes at most.
    pub fn of_run(base: Arc<Pool>, most: u64) -> Pool {
        let first = base.first + base.all.len();
        Pool { base: Some(base), first, all: Vec::new(), numbers: HashMap::new(), left: most, most }
    }

    /// The number of a string that is there.
    pub fn number(&self, text: &str) -> Option<i32> {
        let own = self.numbers.get(text).copied();
        own.or_else(|| self.base.as_ref()?.number(text))
    }

    /// The string of a number.
    pub fn text(&self, number: i64) -> Option<&Arc<str>> {
        let at = usize::try_from(number).ok()?;
        match at.checked_sub(self.first) {
            Some(own) => self.all.get(own),
            None => self.base.as_ref()?.text(number),
        }
    }

    pub fn add(&mut self, text: &Arc<str>) -> Result<i32, Error> {
        if let Some(number) = self.number(text) {
            return Ok(number);
        }
        let need = text.len() as u64 + OVERHEAD;
        let number = i32::try_from(self.first + self.all.len()).ok();
        let (Some(left), Some(number)) = (self.left.checked_sub(need), number) else {
            let need = self.most.saturating_sub(self.left).saturating_add(need);
            return Err(Error::MemoryLimit { at: "the strings of a run".into(), need, have: self.most });
        };
        self.left = left;
        self.all.push(text.clone());
        self.numbers.insert(text.clone(), number);
        Ok(number)
    }

    /// The numbers of strings, which join the pool.
    pub fn enter(&mut self, strings: &Strings) -> Result<Tensor, Error> {
        let numbers = strings.values.iter().map(|it| self.add(it)).collect::<Result<Vec<_>, _>>()?;
        Ok(numbered(strings.shape.clone(), numbers))
    }

    /// The numbers of strings, if all are there.
    pub fn numbers(&self, strings: &Strings) -> Option<Tensor> {
        let numbers = strings.values.iter().map(|it| self.number(it)).collect::<Option<Vec<_>>>()?;
        Some(numbered(strings.shape.clone(), numbers))
    }

    /// The strings that numbers stand for; `None` where one stands for none.
    pub fn strings(&self, numbers: &Tensor) -> Option<Strings> {
        let all = numbers.scalars().map(|it| self.text(it.as_i64()).cloned());
        let values = all.collect::<Option<Vec<_>>>()?;
        Strings::new(numbers.shape().clone(), values)
    }
}

fn numbered(shape: Shape, numbers: Vec<i32>) -> Tensor {
    let ty = Type { dtype: NUMBER, shape };
    Tensor::from_scalars(ty, numbers.into_iter().map(|it| Scalar::Int(i64::from(it))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_model_hold_in_its_runs() {
        let mut own = Pool::default();
        let model = Strings::new([3], ["b", "", "a"]).expect("three");
        let numbers = own.enter(&model).expect("no limit");
        assert_eq!(numbers.to_i64(), [1, 0, 2]);
        let own = Arc::new(own);
        let mut run = Pool::of_run(own.clone(), 1 << 20);
        let given = Strings::new([2, 2], ["a", "ü", "ü", ""]).expect("four");
        let entered = run.enter(&given).expect("small");
        assert_eq!(entered.to_i64(), [2, 3, 3, 0]);
        assert_eq!(run.strings(&entered), Some(given.clone()));
        assert_eq!(run.strings(&numbers), Some(model));
        assert_eq!(own.numbers(&given), None);
        assert_eq!(own.text(3), None);
        assert_eq!(run.text(-1), None);
    }

    #[test]
    fn the_strings_of_a_run_have_a_limit() {
        let mut run = Pool::of_run(Arc::default(), 2 * (OVERHEAD + 1));
        let enter = |run: &mut Pool, it: &str| run.add(&it.into());
        assert_eq!(enter(&mut run, "a"), Ok(1));
        assert_eq!(enter(&mut run, "b"), Ok(2));
        assert_eq!(enter(&mut run, "a"), Ok(1));
        let error = enter(&mut run, "c").expect_err("no more").to_string();
        assert!(error.contains("memory_limit"), "{error}");
    }

    #[test]
    fn shapes_have_to_fit() {
        assert!(Strings::new([2], ["a"]).is_none());
        assert!(Strings::new([usize::MAX, 2], ["a"]).is_none());
        assert!(Strings::new([0, 3], [""; 0]).is_some());
    }
}
