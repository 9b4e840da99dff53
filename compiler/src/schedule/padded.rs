//! Images of few channels, widened for products on cooperative matrices.
//!
//! In: loops. Out: the same loops, in which a convolution by a window over an image whose channels make no whole vectors reads a copy
//! with channels of zeros added, which `layout` may then lay innermost. An element that is no vector's has a guard and an address of
//! its own, and matrices multiply faster than those are computed. Products of f32 are left: of more channels there would be more of them.

use slotmap::{SecondaryMap, SlotMap};

use super::{cooperative, splice::splice};
use crate::{
    dtype::DType,
    index::Index,
    lower::{Body, Coords, Definition, Expr, ExprId, Loops, Nest, NestKind, TensorId, TensorInfo},
    scalar::BinaryOp,
    shape::{Shape, Type},
    target::{Place, Target},
};

/// Vectors are of this many elements.
const VECTOR: usize = 4;

/// From so many places of the window on the copy is worth its launch.
const PLACES: usize = 1 << 16;

pub fn padded(loops: Loops, target: &Target) -> Loops {
    if cooperative::subgroup(target).is_none() {
        return loops;
    }
    let Loops { mut tensors, nests, outputs, places, states } = loops;
    let (mut made, mut made_places) = (Vec::with_capacity(nests.len()), Vec::with_capacity(nests.len()));
    let mut copies: SecondaryMap<TensorId, TensorId> = SecondaryMap::new();
    for (nest, place) in nests.into_iter().zip(places) {
        let image = match place {
            Place::Gpu => image(&nest, &tensors),
            Place::Cpu => None,
        };
        let Some(image) = image else {
            made.push(nest);
            made_places.push(place);
            continue;
        };
        let copy = *copies.entry(image.tensor).expect("a tensor of the loops").or_insert_with(|| {
            let copy = tensors.insert(image.copied(&tensors[image.tensor]));
            made.push(image.copying(copy, &nest, &tensors[copy].ty.shape));
            made_places.push(place);
            copy
        });
        made.push(image.read_from(copy, nest, &tensors));
        made_places.push(place);
    }
    for (number, nest) in made.iter().enumerate() {
        tensors[nest.tensor].definition = Definition::Nest(number);
    }
    Loops { tensors, nests: made, outputs, places: made_places, states }
}

/// What a convolution reads by a window.
struct Image {
    tensor: TensorId,
    /// The tensor's axis of channels, and how many there are.
    axis: usize,
    channels: usize,
    /// Number of the variable that goes through them.
    var: usize,
    /// Where the window stands.
    places: usize,
}

/// The image of a convolution of f16 that is worth more channels.
fn image(nest: &Nest, tensors: &SlotMap<TensorId, TensorInfo>) -> Option<Image> {
    let NestKind::Contract { .. } = nest.kind else { return None };
    let (rank, extents) = (nest.space.rank(), nest.extents());
    let needed = nest.body.needed(nest.kind.roots());
    let mut found = None;
    for (id, expr, _) in nest.body.iter() {
        let Expr::Load { tensor, at, .. } = expr else { continue };
        if !needed[id.0 as usize] {
            continue;
        }
        if tensors[*tensor].ty.dtype != DType::F16 {
            return None;
        }
        if !at.iter().any(|it| it.is_of_window(rank)) {
            continue;
        }
        // Rows of the window that are vectors are read as such.
        let in_rows = extents.last().is_some_and(|it| it.is_multiple_of(VECTOR));
        let channel = |it: &Index| it.as_var().filter(|&var| var >= rank);
        let (axis, var) = at.iter().enumerate().find_map(|(axis, it)| Some((axis, channel(it)?)))?;
        let places =
            extents[..rank].iter().enumerate().filter(|(var, _)| at.iter().any(|it| it.moves_with(*var)));
        let places = places.map(|it| it.1).product();
        let image = Image { tensor: *tensor, axis, channels: extents[var], var, places };
        if in_rows || found.replace(image).is_some() {
            return None;
        }
    }
    found.filter(|it| it.is_worth_more(&tensors[it.tensor].ty.shape))
}

impl Image {
    fn wide(&self) -> usize {
        self.channels.next_multiple_of(VECTOR)
    }

    /// Whether all channels are read, and a third more of them at most makes whole vectors.
    fn is_worth_more(&self, shape: &Shape) -> bool {
        let (have, want) = (self.channels, self.wide());
        have == shape[self.axis] && have != want && 3 * want <= 4 * have && self.places >= PLACES
    }

    fn copied(&self, from: &TensorInfo) -> TensorInfo {
        let mut dims: Vec<usize> = from.ty.shape.to_vec();
        dims[self.axis] = self.wide();
        TensorInfo { ty: Type::new(from.ty.dtype, &dims[..]), ..from.clone() }
    }

    /// Zeros where there were no channels.
    fn copying(&self, copy: TensorId, of: &Nest, space: &Shape) -> Nest {
        let mut body = Body::default();
        let at: Coords = space.iter().enumerate().map(|(axis, &it)| Index::var(axis, it)).collect();
        let guard = Some(self.is_channel(&mut body, &at[self.axis]));
        let value = body.add(Expr::Load { tensor: self.tensor, at, guard }, DType::F16);
        let origin = of.origin.clone();
        Nest { tensor: copy, op: "pad", origin, space: space.clone(), body, kind: NestKind::Map { value } }
    }

    fn is_channel(&self, body: &mut Body, at: &Index) -> ExprId {
        let at = body.add(Expr::Coord(at.clone()), DType::I64);
        let channels = body.constant(DType::I64, self.channels as f64);
        body.binary(BinaryOp::Lt, at, channels)
    }

    /// The convolution over the copy. Weights of channels that were not there are not read.
    fn read_from(&self, copy: TensorId, nest: Nest, tensors: &SlotMap<TensorId, TensorInfo>) -> Nest {
        let mut extents = nest.extents();
        extents[self.var] = self.wide();
        let point: Vec<Index> = extents.iter().enumerate().map(|(var, &it)| Index::var(var, it)).collect();
        let (mut body, roots) = (Body::default(), nest.kind.roots());
        let read = &mut |out: &mut Body, tensor: TensorId, at: Coords, guard: Option<ExprId>| {
            let moves = at.iter().any(|it| it.moves_with(self.var));
            let (tensor, guard) = match tensor == self.tensor {
                true => (copy, guard),
                false if moves => {
                    let there = self.is_channel(out, &point[self.var]);
                    (tensor, out.and(guard, Some(there)))
                }
                false => (tensor, guard),
            };
            out.add(Expr::Load { tensor, at, guard }, tensors[tensor].ty.dtype)
        };
        let made = splice(&mut body, &nest.body, &roots, Some(&point), None, read);
        let depth = Shape::new(&extents[nest.space.rank()..]);
        Nest { body, kind: NestKind::Contract { depth, a: made[0], b: made[1] }, ..nest }
    }
}
