//! Rules of reads at computed places: each place looks for what was read from it, as ONNX's scatters do (`import/onnx/scatter.rs`), so
//! that results are the same on every device.

use super::{Made, Reverse, refuse};
use crate::{
    dtype::DType,
    error::Error,
    graph::{Places, Value},
    scalar::{BinaryOp, Scalar},
    shape::{Shape, Type},
    tensor::Tensor,
};

/// The most comparisons of one rule.
const MAX_WORK: u64 = 1 << 34;
/// The most places that are numbered.
const MAX_PLACES: usize = 1 << 24;

impl Reverse<'_> {
    pub fn gathered(
        &mut self,
        axis: usize,
        x: Value,
        indices: Value,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let (shape, count) = (r.shape(x), r.shape(indices).count());
            let outer: usize = shape[..axis].iter().product();
            let inner: usize = shape[axis + 1..].iter().product();
            let g = r.reshape(g, &[outer, count, inner])?;
            let place = r.place_of(indices, shape[axis])?;
            let place = r.reshape(place, &[1, count, 1])?;
            let sum = r.scattered(y, g, place, 1, shape[axis])?;
            r.reshape(sum, &shape)
        })
    }

    pub fn gathered_elements(
        &mut self,
        axis: usize,
        x: Value,
        indices: Value,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let shape = r.shape(x);
            let place = r.place_of(indices, shape[axis])?;
            let sum = r.scattered(y, g, place, axis, shape[axis])?;
            let own = r.shape(sum);
            let after = (0..shape.rank()).map(|it| shape[it] - own[it]).collect();
            r.surround(sum, Places::from_elem(0, shape.rank()), after)
        })
    }

    pub fn gathered_nd(
        &mut self,
        batch: usize,
        x: Value,
        indices: Value,
        y: Value,
        g: Value,
    ) -> Result<(), Error> {
        self.give(x, |r| {
            let (shape, given) = (r.shape(x), r.shape(indices));
            let Some((&width, outer)) = given.split_last() else { crate::bug!("indices are no scalar") };
            let images: usize = shape[..batch].iter().product();
            let places: usize = shape[batch..batch + width].iter().product();
            let run: usize = shape[batch + width..].iter().product();
            let count: usize = outer[batch..].iter().product();
            if i32::try_from(places).is_err() {
                return Err(refuse(r.graph, y, "reads from more places than can be numbered"));
            }
            let indices = r.reshape(indices, &[images, count, width])?;
            let zero = r.number(DType::I32, 0.0);
            let mut place = r.expand(zero, &[images, count, 1])?;
            for axis in 0..width {
                let own = r.cut(indices, 2, axis, 1)?;
                let own = r.place_of(own, shape[batch + axis])?;
                let outer = r.with(BinaryOp::Mul, place, shape[batch + axis] as f64)?;
                place = r.binary_of(BinaryOp::Add, outer, own)?;
            }
            let g = r.reshape(g, &[images, count, run])?;
            let sum = r.scattered(y, g, place, 1, places)?;
            r.reshape(sum, &shape)
        })
    }

    /// Indices along an axis of `size` as I32: the negative ones from the end, those outside clamped.
    fn place_of(&mut self, indices: Value, size: usize) -> Made {
        let size = size as f64;
        let x = self.with(BinaryOp::Max, indices, -size)?;
        let x = self.with(BinaryOp::Min, x, size - 1.0)?;
        let x = self.cast(x, DType::I32)?;
        let negative = self.with(BinaryOp::Lt, x, 0.0)?;
        let wrapped = self.with(BinaryOp::Add, x, size)?;
        self.select(negative, wrapped, x)
    }

    /// Along `axis` in `size` places the sums of the elements of `g` whose `place`, which broadcasts to `g`, they are.
    fn scattered(&mut self, y: Value, g: Value, place: Value, axis: usize, size: usize) -> Made {
        let (mut wide, mut from) = (self.shape(g), self.shape(place));
        if wide.count().checked_mul(size).is_none_or(|it| it as u64 > MAX_WORK) {
            return Err(refuse(
                self.graph,
                y,
                &format!("compares {wide} reads with {size} places, too many"),
            ));
        }
        wide.0.insert(axis, 1);
        from.0.insert(axis, 1);
        let g = self.reshape(g, &wide)?;
        let place = self.reshape(place, &from)?;
        let Some(own) = self.iota(size, axis, wide.rank()) else {
            return Err(refuse(
                self.graph,
                y,
                &format!("reads from an axis of {size}, at most {MAX_PLACES}"),
            ));
        };
        let hit = self.binary_of(BinaryOp::Eq, place, own)?;
        let terms = self.only(hit, g)?;
        self.sum(terms, &[axis + 1], false)
    }

    /// 0, 1, .. `count` - 1 along `axis` of `rank`.
    pub fn iota(&mut self, count: usize, axis: usize, rank: usize) -> Option<Value> {
        let mut shape = Shape::new(&vec![1; rank]);
        shape.0[axis] = count;
        let ty = Type { dtype: DType::I32, shape };
        let numbers = || Tensor::from_scalars(ty, (0..count as i64).map(Scalar::Int));
        (count <= MAX_PLACES).then(numbers).map(|it| self.graph.add_constant(it))
    }
}
