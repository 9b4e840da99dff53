//! Variables: leaves that stand for values while a part of a graph is derived by them, so that two of one value, or one that
//! follows from another, are told apart.
//!
//! Of a finished graph no output may depend on one: `settle` makes what does not.

use slotmap::SecondaryMap;

use super::{Graph, Node, Op, Value, number};
use crate::{error::Error, shape::Type};

impl Graph {
    /// A new variable. No other node is the same.
    pub fn variable(&mut self, ty: Type) -> Value {
        // Inputs are numbered from 0 on.
        let slot = u32::MAX - self.nodes.len() as u32;
        let origin = self.origin();
        self.nodes.insert(Node { op: Op::Input { slot }, ty, origin })
    }

    /// `wanted`, with values in the places of variables: pairs of a variable and its value, of one type.
    pub fn settle(&mut self, wanted: &[Value], variables: &[(Value, Value)]) -> Result<Vec<Value>, Error> {
        let mut settled: SecondaryMap<Value, Value> = variables.iter().copied().collect();
        let first = variables.iter().map(|it| number(it.0)).min().unwrap_or(u32::MAX);
        let mut seen = SecondaryMap::new();
        let (mut all, mut open) = (Vec::new(), wanted.to_vec());
        while let Some(value) = open.pop() {
            // What is older than the variables depends on none.
            if number(value) >= first && !settled.contains_key(value) && seen.insert(value, ()).is_none() {
                all.push(value);
                open.extend(self.op(value).operands());
            }
        }
        all.sort_unstable_by_key(|it| number(*it));
        let origin = self.origin.clone();
        for value in all {
            let op = self.op(value).clone();
            if op.operands().iter().any(|it| settled.contains_key(*it)) {
                self.origin = Some(self.node(value).origin.clone());
                let new = self.add(op.map_operands(|it| settled.get(it).copied().unwrap_or(it)))?;
                settled.insert(value, new);
            }
        }
        self.origin = origin;
        Ok(wanted.iter().map(|it| settled.get(*it).copied().unwrap_or(*it)).collect())
    }
}
