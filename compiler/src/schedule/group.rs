//! Nests that will be one kernel, all evaluated at the points of one iteration space.

use std::sync::Arc;

use crate::{
    index::{Index, delinearise, linearise},
    lower::{Coords, Loops, NestKind, TensorId},
    shape::Shape,
    target::Place,
};

#[derive(Clone, Debug)]
pub struct Group {
    pub form: Form,
    pub place: Place,
    /// The first is the anchor: the nest whose space the group iterates over.
    pub members: Vec<Member>,
    /// Nests of other groups that are computed inside this one.
    pub inlined: Vec<usize>,
}

/// What the anchor is. Variables are numbered as in the skeleton that follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    Map { space: Shape },
    Rows { outer: Shape, inner: Shape },
    Contract { space: Shape },
    Attention { space: Shape },
}

#[derive(Clone, Debug)]
pub struct Member {
    /// Position in `Loops::nests`.
    pub nest: usize,
    pub tensor: TensorId,
    /// The member's point, as a function of the group's.
    pub at: Coords,
    pub level: Level,
}

/// How often a member is evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Once a row.
    Row,
    /// At every point.
    Point,
}

impl Group {
    pub fn new(loops: &Loops, nest: usize) -> Group {
        let it = &loops.nests[nest];
        let space = it.space.clone();
        let at = space.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
        let (form, level) = match &it.kind {
            NestKind::Map { .. } => (Form::Map { space }, Level::Point),
            NestKind::Reduce { depth, .. } => (Form::Rows { outer: space, inner: depth.clone() }, Level::Row),
            NestKind::Contract { .. } => (Form::Contract { space }, Level::Point),
            NestKind::Attention { .. } => (Form::Attention { space }, Level::Point),
        };
        let anchor = Member { nest, tensor: it.tensor, at, level };
        Group { form, place: loops.places[nest], members: vec![anchor], inlined: Vec::new() }
    }

    pub fn member(&self, tensor: TensorId) -> Option<&Member> {
        self.members.iter().find(|it| it.tensor == tensor)
    }

    pub fn is_map(&self) -> bool {
        match self.form {
            Form::Map { .. } => true,
            Form::Rows { .. } | Form::Contract { .. } | Form::Attention { .. } => false,
        }
    }

    /// How many evaluations a member of this level takes.
    pub fn points(&self, level: Level) -> usize {
        match (&self.form, level) {
            (Form::Map { space } | Form::Contract { space } | Form::Attention { space }, _) => space.count(),
            (Form::Rows { outer, .. }, Level::Row) => outer.count(),
            (Form::Rows { outer, inner }, Level::Point) => outer.count() * inner.count(),
        }
    }

    /// Every nest that is computed here, in the order of the graph.
    pub fn nests(&self) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.members.iter().map(|it| it.nest).chain(self.inlined.iter().copied()).collect();
        all.sort_unstable();
        all
    }

    /// Names of the nodes that the nests were made for, each once, in order.
    pub fn origins(&self, loops: &Loops) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = Vec::new();
        for nest in self.nests() {
            let origin = &loops.nests[nest].origin;
            if !all.contains(origin) {
                all.push(origin.clone());
            }
        }
        all
    }

    /// The point of a space that reads `member`'s tensor at `read`, as a function of the group's point, if every point of
    /// that space belongs to exactly one point of the group (or of its rows).
    pub fn place_reader(
        &self,
        member: &Member,
        shape: &Shape,
        read: &[Index],
        space: &Shape,
    ) -> Option<(Coords, Level)> {
        self.place_by_variables(member, shape, read, space)
            .or_else(|| self.place_by_order(member, shape, read, space))
    }

    /// Every coordinate that is read is one variable of the reader: the reader's axes are the member's, permuted.
    fn place_by_variables(
        &self,
        member: &Member,
        shape: &Shape,
        read: &[Index],
        space: &Shape,
    ) -> Option<(Coords, Level)> {
        let mut found: Vec<Option<Index>> =
            space.iter().map(|&extent| (extent == 1).then(|| Index::constant(0))).collect();
        for axis in (0..shape.rank()).filter(|&axis| shape[axis] > 1) {
            let var = read[axis].as_var()?;
            if found[var].is_some() || space[var] != shape[axis] {
                return None;
            }
            found[var] = Some(member.at[axis].clone());
        }
        let open: Vec<usize> = (0..space.rank()).filter(|&it| found[it].is_none()).collect();
        let level = match (&self.form, member.level, open.is_empty()) {
            (_, level, true) => level,
            // What is left over of the reader's axes runs along the row.
            (Form::Rows { outer, inner }, Level::Row, false) => {
                let left: Shape = open.iter().map(|&it| space[it]).collect();
                if left.count() != inner.count() {
                    return None;
                }
                let along: Coords = (inner.iter().enumerate())
                    .map(|(axis, &extent)| Index::var(outer.rank() + axis, extent))
                    .collect();
                let coords = delinearise(&linearise(&along, inner), &left);
                open.iter().zip(coords).for_each(|(&it, coord)| found[it] = Some(coord));
                Level::Point
            }
            (_, _, false) => return None,
        };
        Some((found.into_iter().map(|it| it.expect("every axis is placed")).collect(), level))
    }

    /// The reader sees the member's elements in the same row-major order: a reshape lies between them.
    fn place_by_order(
        &self,
        member: &Member,
        shape: &Shape,
        read: &[Index],
        space: &Shape,
    ) -> Option<(Coords, Level)> {
        let own: Coords = space.iter().enumerate().map(|(axis, &extent)| Index::var(axis, extent)).collect();
        let same = shape.count() == space.count() && linearise(read, shape) == linearise(&own, space);
        same.then(|| (delinearise(&linearise(&member.at, shape), space), member.level))
    }
}
