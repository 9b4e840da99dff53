//! Which tensor of the files belongs to which tensor of the model.

use crate::tensor_file::{Entry, Naming};

/// For each wanted name the position of its entry, and the entries that belong to none.
#[derive(Debug, PartialEq)]
pub struct Pairs {
    pub found: Vec<Option<usize>>,
    pub left: Vec<usize>,
}

/// By name; then, where as many entries as wanted names are left and `by_order` allows every one of these, by order.
pub fn pair(wanted: &[&str], entries: &[Entry], by_order: impl Fn(Naming) -> bool) -> Pairs {
    let position = |name: &&str| entries.iter().position(|it| it.name == **name);
    let mut found: Vec<Option<usize>> = wanted.iter().map(position).collect();
    let mut left: Vec<usize> = (0..entries.len()).filter(|it| !found.contains(&Some(*it))).collect();
    let missing = found.iter().filter(|it| it.is_none()).count();
    if missing == left.len() && left.iter().all(|it| by_order(entries[*it].naming)) {
        let mut rest = left.drain(..);
        found.iter_mut().filter(|it| it.is_none()).for_each(|it| *it = rest.next());
    }
    Pairs { found, left }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgfuse::{Datum, Tensor};

    fn entries(names: &[&str], naming: Naming) -> Vec<Entry> {
        let value = Datum::Tensor(Tensor::i64([0], &[]).expect("no values"));
        names.iter().map(|it| Entry { name: it.to_string(), naming, value: value.clone() }).collect()
    }

    #[test]
    fn by_name_then_by_order() {
        let guess = |it| it == Naming::Guess;
        let all = entries(&["b", "input_0"], Naming::Guess);
        assert_eq!(pair(&["a", "b"], &all, guess), Pairs { found: vec![Some(1), Some(0)], left: vec![] });
        let file = entries(&["b", "other"], Naming::File);
        assert_eq!(pair(&["a", "b"], &file, guess), Pairs { found: vec![None, Some(0)], left: vec![1] });
        let more = entries(&["x", "y", "z"], Naming::Guess);
        assert_eq!(pair(&["a", "b"], &more, guess), Pairs { found: vec![None, None], left: vec![0, 1, 2] });
    }
}
