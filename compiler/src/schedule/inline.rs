//! Kernels of maps alone that one other kernel reads are computed inside that one. Legality is `can_inline`.

use std::collections::{BTreeSet, HashSet};

use super::{
    cost,
    expand::{Expanded, Pure, expand_again, loads},
    fuse::Fusion,
    group::{Form, Group, Level},
    kernel::Why,
};

impl Fusion<'_> {
    /// Groups of maps that one other group reads are computed inside it.
    pub(super) fn inline_groups(&mut self) {
        for group in self.topological() {
            let Some(host) = &self.groups[group] else { continue };
            if !host.is_map() || host.members.iter().any(|it| self.loops.outputs.contains(&it.tensor)) {
                continue;
            }
            let [reader] = self.readers(group)[..] else { continue };
            match self.can_inline(group, reader) {
                Ok(()) => self.inline(group, reader),
                Err(why) => {
                    let consumer = self.group(reader).members[0].nest;
                    self.refuse(group, consumer, why);
                }
            }
        }
    }

    fn topological(&self) -> Vec<usize> {
        let (mut order, mut done) = (Vec::new(), HashSet::new());
        let mut open: Vec<(usize, bool)> = (0..self.groups.len()).rev().map(|it| (it, false)).collect();
        while let Some((group, ready)) = open.pop() {
            if ready {
                order.push(group);
            } else if self.groups[group].is_some() && done.insert(group) {
                open.push((group, true));
                let needs: BTreeSet<usize> =
                    self.reads(group).iter().filter_map(|it| self.group_of.get(*it).copied()).collect();
                open.extend(needs.into_iter().map(|it| (it, false)));
            }
        }
        order
    }

    fn can_inline(&self, group: usize, reader: usize) -> Result<(), Why> {
        let (host, into) = (self.group(group), self.group(reader));
        if host.place != into.place {
            return Err(Why::Places);
        }
        let weight: u64 = (host.members.iter())
            .map(|it| cost::weight(&self.expanded[it.nest].body, &self.expanded[it.nest].roots))
            .sum();
        let mut read = HashSet::new();
        for member in &into.members {
            let all = self.loads(member.nest);
            read.extend(all.into_iter().filter(|(tensor, _)| host.member(*tensor).is_some()));
        }
        let made = host.points(Level::Point).max(1) as u64;
        match &into.form {
            Form::Map { .. } | Form::Rows { .. } => {
                let wanted = (into.points(Level::Point) * read.len()) as u64;
                let times = wanted / made;
                let extra = weight.saturating_mul(wanted.saturating_sub(made));
                if times > cost::FEW_TIMES && extra > cost::WORTH_A_LAUNCH {
                    return Err(Why::Recompute(times));
                }
            }
            // A workgroup reads its queries once.
            Form::Attention { space }
                if space[2] <= cost::FEW_QUERIES
                    && weight <= cost::CHEAP_IN_QUERIES
                    && self.of_queries_alone(host, into) => {}
            Form::Contract { .. } | Form::Attention { .. } => {
                let readers: Vec<usize> = into.members.iter().map(|it| it.nest).collect();
                let broken = host.members.iter().any(|it| self.breaks_windows(it.nest, &readers));
                if broken || weight * read.len() as u64 > cost::CHEAP_IN_PRODUCT {
                    return Err(Why::Recompute(weight));
                }
            }
        }
        let size: usize = host.members.iter().map(|it| self.expanded[it.nest].body.len()).sum();
        let own: usize = into.members.iter().map(|it| self.expanded[it.nest].body.len()).sum();
        let size = own + size * read.len();
        if size > cost::BODY {
            return Err(Why::Body(size));
        }
        let nests: Vec<usize> = host.members.iter().chain(&into.members).map(|it| it.nest).collect();
        self.bindings_fit(&nests)
    }

    /// Whether the attention `into` reads what `host` makes as its queries, and nowhere else.
    fn of_queries_alone(&self, host: &Group, into: &Group) -> bool {
        into.members.iter().enumerate().all(|(at, member)| {
            let Expanded { body, roots, .. } = &self.expanded[member.nest];
            let others = if at == 0 { &roots[1..] } else { &roots[..] };
            loads(body, others).iter().all(|it| host.member(it.0).is_none())
        })
    }

    fn inline(&mut self, group: usize, reader: usize) {
        let host = self.groups[group].take().expect("the group stands");
        for member in &host.members {
            let Expanded { body, roots, .. } =
                expand_again(self.loops, &self.expanded[member.nest], &self.pure);
            self.pure.insert(member.tensor, Pure { body, value: roots[0] });
            self.group_of.remove(member.tensor);
        }
        let readers: Vec<usize> = self.group(reader).members.iter().map(|it| it.nest).collect();
        for nest in readers {
            self.replace(nest, expand_again(self.loops, &self.expanded[nest], &self.pure));
        }
        // The reader's kernel computes these nodes too.
        let into = self.groups[reader].as_mut().expect("the group stands");
        into.inlined.extend(host.inlined);
        into.inlined.extend(host.members.iter().map(|it| it.nest));
    }
}
