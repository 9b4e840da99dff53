//! Which nests become one kernel. Legality is `can_join`, and `can_inline` in `inline`; what is worth it is `cost`'s to say.
//!
//! Three moves, in this order. A value that is cheap is computed wherever it is read, and so is every view. A map joins
//! the kernel that makes what it reads, if it reads it at its own points: epilogues, normalised rows, chains. A kernel
//! of maps alone that one other kernel reads is computed inside that one.

use std::collections::{BTreeSet, HashSet};

use slotmap::SecondaryMap;
use smallvec::SmallVec;

use super::{
    cost,
    expand::{Expanded, Pure, expand, loads, users},
    few,
    group::{Form, Group, Level, Member},
    kernel::{Refusal, Why},
    product,
    splice::splice,
};
use crate::{
    index::Index,
    lower::{Body, Coords, Expr, Loops, NestKind, TensorId},
    options::Options,
    shape::Shape,
    target::{Place, Target},
};

#[derive(Debug)]
pub struct Fused {
    pub groups: Vec<Group>,
    /// One a nest.
    pub expanded: Vec<Expanded>,
    pub refusals: Vec<Refusal>,
}

pub fn fuse(loops: &Loops, target: &Target, options: &Options) -> Fused {
    let mut fusion = Fusion {
        loops,
        target,
        groups: Vec::new(),
        group_of: SecondaryMap::new(),
        pure: SecondaryMap::new(),
        expanded: Vec::new(),
        tensors: Vec::new(),
        users: users(loops),
        refusals: Vec::new(),
    };
    for nest in 0..loops.nests.len() {
        fusion.add(nest, options.fuse);
    }
    if options.fuse {
        fusion.inline_groups();
        if !options.exact {
            fusion.scale_products();
        }
    }
    let groups = fusion.groups.into_iter().flatten().collect();
    Fused { groups, expanded: fusion.expanded, refusals: fusion.refusals }
}

fn distinct(expanded: &Expanded) -> SmallVec<[TensorId; 4]> {
    let all: BTreeSet<TensorId> = loads(&expanded.body, &expanded.roots).into_iter().map(|it| it.0).collect();
    all.into_iter().collect()
}

pub(super) struct Fusion<'a> {
    pub(super) loops: &'a Loops,
    pub(super) target: &'a Target,
    /// `None` where a group was computed inside another.
    pub(super) groups: Vec<Option<Group>>,
    pub(super) group_of: SecondaryMap<TensorId, usize>,
    pub(super) pure: SecondaryMap<TensorId, Pure>,
    pub(super) expanded: Vec<Expanded>,
    /// What each of `expanded` reads, each tensor once: asked for far more often than bodies change.
    tensors: Vec<SmallVec<[TensorId; 4]>>,
    /// Nests that read each tensor, before any fusion.
    pub(super) users: SecondaryMap<TensorId, Vec<usize>>,
    pub(super) refusals: Vec<Refusal>,
}

impl Fusion<'_> {
    /// Places the next nest: pure, in a group, or in a group of its own.
    fn add(&mut self, nest: usize, fuse: bool) {
        let it = &self.loops.nests[nest];
        let expanded = expand(self.loops, it, &self.pure);
        self.tensors.push(distinct(&expanded));
        self.expanded.push(expanded);
        if fuse {
            if self.is_pure(nest) {
                let Expanded { body, roots, .. } = &self.expanded[nest];
                self.pure.insert(it.tensor, Pure { body: body.clone(), value: roots[0] });
                return;
            }
            for candidate in self.candidates(nest) {
                match self.can_join(nest, candidate) {
                    Ok(member) => {
                        let group = self.groups[candidate].as_mut().expect("a candidate is a group");
                        group.members.push(member);
                        self.group_of.insert(it.tensor, candidate);
                        return;
                    }
                    Err(why) => self.refuse(candidate, nest, why),
                }
            }
        }
        self.group_of.insert(it.tensor, self.groups.len());
        self.groups.push(Some(Group::new(self.loops, nest)));
    }

    /// Gives a nest another body.
    pub(super) fn replace(&mut self, nest: usize, expanded: Expanded) {
        self.tensors[nest] = distinct(&expanded);
        self.expanded[nest] = expanded;
    }

    pub(super) fn refuse(&mut self, producer: usize, consumer: usize, why: Why) {
        let producer = self.group(producer).origins(self.loops).pop().unwrap_or_default();
        let consumer = self.loops.nests[consumer].origin.clone();
        let refusal = Refusal { producer, consumer, why };
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    pub(super) fn group(&self, at: usize) -> &Group {
        self.groups[at].as_ref().expect("the group stands")
    }

    pub(super) fn loads(&self, nest: usize) -> Vec<(TensorId, Coords)> {
        loads(&self.expanded[nest].body, &self.expanded[nest].roots)
    }

    /// Whether `nest` is a view, or so cheap that it is computed wherever it is read.
    fn is_pure(&self, nest: usize) -> bool {
        let it = &self.loops.nests[nest];
        let Expanded { body, roots, .. } = &self.expanded[nest];
        let NestKind::Map { .. } = it.kind else { return false };
        if self.loops.outputs.contains(&it.tensor) {
            return false;
        }
        if let Expr::Load { guard: None, at, .. } = body.expr(roots[0]) {
            // A reader that looks something up waits for memory twice.
            let often = self.users[it.tensor].len() >= cost::LOOKED_UP_ONCE;
            return !(often && it.space.count() <= cost::LAUNCHED && at.iter().any(Index::reads_data));
        }
        if let Expr::Const(_) = body.expr(roots[0]) {
            return true;
        }
        let place = self.loops.places[nest];
        let loads = self.loads(nest);
        if cost::weight(body, roots) > cost::CHEAP
            || loads.len() > 1
            || self.users[it.tensor].iter().any(|&user| self.loops.places[user] != place)
        {
            return false;
        }
        if self.breaks_windows(nest, &self.users[it.tensor]) {
            return false;
        }
        // What can be computed where the value is made need not be computed by each reader.
        !loads
            .iter()
            .filter_map(|(tensor, _)| self.group_of.get(*tensor))
            .any(|&group| !self.group(group).is_map() && self.can_join(nest, group).is_ok())
    }

    /// Whether a product among `readers` reads vectors of what `nest` makes by a window, many times over, and, if it computed them
    /// itself, would each time guard their elements one by one, or read several for one.
    pub(super) fn breaks_windows(&self, nest: usize, readers: &[usize]) -> bool {
        let Expanded { body, roots, .. } = &self.expanded[nest];
        let needed = body.needed(roots.iter().copied());
        let mut read = HashSet::new();
        let breaks = body.iter().any(|(id, expr, _)| match expr {
            Expr::Load { tensor, guard, .. } if needed[id.0 as usize] => {
                guard.is_some() || !read.insert(*tensor)
            }
            _ => false,
        });
        let windows = |reader: &usize| {
            let it = &self.loops.nests[*reader];
            let rank = it.space.rank();
            let of_vectors = |at: &Coords| {
                let last = at.last().and_then(Index::as_var);
                last.is_some_and(|var| var >= rank) && at.iter().any(|it| it.is_of_window(rank))
            };
            let all = match self.expanded.get(*reader) {
                Some(Expanded { body, roots, .. }) => loads(body, roots),
                None => loads(&it.body, &it.kind.roots()),
            };
            matches!(it.kind, NestKind::Contract { .. })
                && all.iter().any(|(tensor, at)| *tensor == self.loops.nests[nest].tensor && of_vectors(at))
        };
        breaks && readers.iter().any(windows)
    }

    /// Groups that `nest` might join, the most promising first.
    fn candidates(&self, nest: usize) -> Vec<usize> {
        let read: BTreeSet<TensorId> = self.tensors[nest].iter().copied().collect();
        let mut found: BTreeSet<usize> =
            read.iter().filter_map(|&it| self.group_of.get(it).copied()).collect();
        let it = &self.loops.nests[nest];
        match &it.kind {
            NestKind::Map { .. } => {}
            // A reduction may also join one that reads the same tensors.
            NestKind::Reduce { .. } => found.extend((0..self.groups.len()).filter(|&group| {
                self.groups[group].as_ref().is_some_and(|it| !it.is_map())
                    && self.reads(group).iter().any(|it| read.contains(it))
            })),
            NestKind::Contract { .. } => {
                found = (0..self.groups.len()).filter(|&it| self.shares_factor(nest, it)).collect();
            }
            NestKind::Attention { .. } => found.clear(),
        }
        let mut found: Vec<usize> = found.into_iter().collect();
        // What makes its values at some cost first, then what comes last.
        found.sort_by_key(|&group| (self.group(group).is_map(), usize::MAX - group));
        found
    }

    /// Whether a group is of a product by the same first factor as the product `nest`, at the same points.
    fn shares_factor(&self, nest: usize, group: usize) -> bool {
        let Some(host) = &self.groups[group] else { return false };
        let (anchor, it) = (&self.loops.nests[host.members[0].nest], &self.loops.nests[nest]);
        let (NestKind::Contract { depth, .. }, NestKind::Contract { depth: own, .. }) =
            (&anchor.kind, &it.kind)
        else {
            return false;
        };
        let mut both = Body::default();
        let mut first = |nest: usize| {
            let Expanded { body, roots, .. } = &self.expanded[nest];
            splice(&mut both, body, &roots[..1], None, None, &mut |out, tensor, at, guard| {
                out.add(Expr::Load { tensor, at, guard }, self.loops.tensors[tensor].ty.dtype)
            })
        };
        (&anchor.space, depth) == (&it.space, own) && first(host.members[0].nest) == first(nest)
    }

    /// Whether the product `nest`, which shares its first factor with that of `group`, is shared out like it: of few rows.
    fn is_shared_out_alike(&self, nest: usize, group: usize) -> bool {
        let host = self.group(group);
        let of = |nest: usize| {
            let (it, Expanded { body, roots, .. }) = (&self.loops.nests[nest], &self.expanded[nest]);
            let NestKind::Contract { depth, .. } = &it.kind else { return None };
            let factors = (roots[0], &roots[1..]);
            product::few_of(&it.space, depth, body, factors, &self.loops.tensors, self.target)
        };
        let products = |it: &&Member| matches!(self.loops.nests[it.nest].kind, NestKind::Contract { .. });
        let made = host.members.iter().filter(products).count();
        let (first, own) = (of(host.members[0].nest), of(nest));
        host.place == Place::Gpu && made < few::FACTORS && first.is_some() && first == own
    }

    /// Where `nest` would stand in the group, or why it may not.
    fn can_join(&self, nest: usize, group: usize) -> Result<Member, Why> {
        let it = &self.loops.nests[nest];
        let host = self.group(group);
        if host.place != self.loops.places[nest] {
            return Err(Why::Places);
        }
        let reads = self.loads(nest);
        let (at, level) = match (&it.kind, &host.form) {
            (NestKind::Map { .. }, _) => self.place_map(&reads, &it.space, host)?,
            (NestKind::Reduce { depth, .. }, Form::Rows { outer, inner })
                if it.space == *outer && depth == inner =>
            {
                let at = (outer.iter().enumerate()).map(|(axis, &extent)| Index::var(axis, extent)).collect();
                (at, Level::Row)
            }
            (NestKind::Contract { .. }, Form::Contract { space }) => {
                if !self.is_shared_out_alike(nest, group) {
                    return Err(Why::Products);
                }
                let at = (space.iter().enumerate()).map(|(axis, &extent)| Index::var(axis, extent)).collect();
                (at, Level::Point)
            }
            (NestKind::Reduce { .. } | NestKind::Contract { .. } | NestKind::Attention { .. }, _) => {
                return Err(Why::Spaces);
            }
        };
        if host.points(level) != it.space.count() {
            return Err(Why::Spaces);
        }
        // The reader's variables beyond its space are those along the row, numbered alike in nest and group.
        let point: Vec<Index> = match (&it.kind, &host.form) {
            (NestKind::Reduce { .. }, Form::Rows { outer, inner }) => (outer.iter().chain(inner.iter()))
                .enumerate()
                .map(|(axis, &extent)| Index::var(axis, extent))
                .collect(),
            (_, _) => at.to_vec(),
        };
        for (tensor, read) in &reads {
            let Some(member) = host.member(*tensor) else { continue };
            let seen = (read.iter()).all(|it| !it.reads_data()) && moved(read, &point) == member.at;
            if !seen {
                return Err(Why::ReadElsewhere);
            }
        }
        let outside = reads.iter().filter_map(|(tensor, _)| self.group_of.get(*tensor));
        if outside.into_iter().any(|&it| it != group && self.depends(it, group)) {
            return Err(Why::Cycle);
        }
        let size: usize = host.members.iter().map(|it| self.expanded[it.nest].body.len()).sum();
        let size = size + self.expanded[nest].body.len();
        if size > cost::BODY {
            return Err(Why::Body(size));
        }
        let mut nests: Vec<usize> = host.members.iter().map(|it| it.nest).collect();
        nests.push(nest);
        self.bindings_fit(&nests)?;
        Ok(Member { nest, tensor: it.tensor, at, level })
    }

    fn place_map(
        &self,
        reads: &[(TensorId, Coords)],
        space: &Shape,
        host: &Group,
    ) -> Result<(Coords, Level), Why> {
        let placed = reads.iter().filter_map(|(tensor, read)| {
            let member = host.member(*tensor)?;
            if read.iter().any(Index::reads_data) {
                return None;
            }
            host.place_reader(member, &self.loops.tensors[*tensor].ty.shape, read, space)
        });
        // Where a row's value is read next to its points, the points say more.
        placed.min_by_key(|(_, level)| *level == Level::Row).ok_or(Why::Spaces)
    }

    /// Whether `group` needs anything that `on` makes.
    fn depends(&self, group: usize, on: usize) -> bool {
        let mut open = vec![group];
        let mut seen = HashSet::new();
        while let Some(it) = open.pop() {
            if it == on {
                return true;
            }
            if seen.insert(it) {
                // A group's own tensors lead to itself, which has been seen.
                let all = self.group(it).members.iter().flat_map(|it| &self.tensors[it.nest]);
                open.extend(all.filter_map(|tensor| self.group_of.get(*tensor)));
            }
        }
        false
    }

    /// What the group reads of other groups, of inputs and of constants.
    pub(super) fn reads(&self, group: usize) -> BTreeSet<TensorId> {
        let host = self.group(group);
        let all = host.members.iter().flat_map(|it| &self.tensors[it.nest]);
        all.copied().filter(|&it| host.member(it).is_none()).collect()
    }

    /// Groups other than `group` that read what it makes.
    pub(super) fn readers(&self, group: usize) -> Vec<usize> {
        let host = self.group(group);
        let reads = |it: &Group| {
            let mut all = it.members.iter().flat_map(|it| &self.tensors[it.nest]);
            all.any(|&tensor| host.member(tensor).is_some())
        };
        (0..self.groups.len())
            .filter(|&it| it != group && self.groups[it].as_ref().is_some_and(reads))
            .collect()
    }

    /// Whether a kernel of `nests` would bind no more buffers than the target allows.
    pub(super) fn bindings_fit(&self, nests: &[usize]) -> Result<(), Why> {
        let made: Vec<TensorId> = nests.iter().map(|&it| self.loops.nests[it].tensor).collect();
        let mut bound: BTreeSet<TensorId> = nests
            .iter()
            .flat_map(|&it| self.tensors[it].iter().copied())
            .filter(|it| !made.contains(it))
            .collect();
        bound.extend(made.iter().filter(|&&it| self.escapes(it, nests)));
        let count = bound.into_iter().map(|it| self.parts(it)).sum();
        if count > self.target.max_storage_buffers { Err(Why::Bindings(count)) } else { Ok(()) }
    }

    /// Bindings that one tensor takes.
    fn parts(&self, tensor: TensorId) -> u32 {
        let bytes = self.loops.tensors[tensor].ty.bytes() as u64;
        bytes.div_ceil(self.target.max_binding_size).clamp(1, u32::MAX.into()) as u32
    }

    /// Whether anything but `nests` may read `tensor`.
    fn escapes(&self, tensor: TensorId, nests: &[usize]) -> bool {
        self.loops.outputs.contains(&tensor)
            || self.users[tensor].iter().any(|user| {
                let own = self.loops.nests[*user].tensor;
                !nests.contains(user) && (!self.pure.contains_key(own) || self.escapes(own, nests))
            })
    }
}

/// `coords` with variable `i` replaced by `point[i]`.
fn moved(coords: &[Index], point: &[Index]) -> Coords {
    let mut to = |leaf: &crate::index::Atom| match leaf {
        crate::index::Atom::Var { axis, .. } => point[*axis as usize].clone(),
        other => Index::atom(other.clone()),
    };
    coords.iter().map(|it| it.substitute(&mut to)).collect()
}
