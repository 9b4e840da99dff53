//! What a kernel's tile may be instead, and what was chosen: the door through which measurements reach the schedule, which
//! itself knows no clock.
//!
//! In: a kernel, or choices by kernels' classes. Out: candidates that the target can run, the kernel's own first; kernels with
//! what was chosen for them. A choice that is none of its kernel's candidates is left out.

use std::{
    collections::BTreeMap,
    fmt::{self, Formatter, Write},
};

use slotmap::SlotMap;

use super::{
    attention_coop::Asked,
    kernel::{AttentionTile, Kernel, RowForm, Skeleton, Tile},
    product, tile,
};
use crate::{
    bug,
    lower::{Expr, TensorId, TensorInfo},
    target::{Place, Target},
    text::{Cursor, Parsed, Text, spelled},
};

/// What decides how long a kernel takes but for its tile: equal classes mean the same computation on tensors of the same types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Class(pub u128);

/// How a kernel runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Choice {
    Product(Tile),
    Rows(RowForm),
    Attention(AttentionTile),
}

spelled!(enum Choice {
    Product "product" (tile);
    Rows "rows" (form);
    Attention "attention" (tile);
});

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.print(f)
    }
}

impl Choice {
    pub fn parse(text: &str) -> Result<Choice, String> {
        let all = Cursor::all(text, |from| {
            let choice: Parsed<Choice> = Text::parse(from);
            from.end()?;
            choice
        });
        all.map_err(|it| it.to_string())
    }

    /// That of a kernel; none for one whose form is not measured.
    pub fn of(kernel: &Kernel) -> Option<Choice> {
        match &kernel.skeleton {
            _ if kernel.place == Place::Cpu => None,
            Skeleton::Map { .. } => None,
            Skeleton::Rows { form, .. } => Some(Choice::Rows(*form)),
            Skeleton::Contract { tile, .. } => Some(Choice::Product(*tile)),
            Skeleton::Attention { tile, .. } => Some(Choice::Attention(*tile)),
        }
    }

    /// `kernel` as chosen, if it is of that kind.
    pub fn applied(&self, kernel: &Kernel) -> Kernel {
        let mut kernel = kernel.clone();
        match (self, &mut kernel.skeleton) {
            (Choice::Rows(chosen), Skeleton::Rows { form, .. }) => *form = *chosen,
            (Choice::Product(chosen), Skeleton::Contract { tile, .. }) => *tile = *chosen,
            (Choice::Attention(chosen), Skeleton::Attention { tile, .. }) => *tile = *chosen,
            (Choice::Rows(_) | Choice::Product(_) | Choice::Attention(_), _) => {}
        }
        kernel
    }
}

/// By class, in an order that depends on nothing else.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Choices(BTreeMap<Class, Choice>);

impl Choices {
    pub fn insert(&mut self, class: Class, choice: Choice) {
        self.0.insert(class, choice);
    }

    pub fn get(&self, class: Class) -> Option<Choice> {
        self.0.get(&class).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Class, Choice)> + '_ {
        self.0.iter().map(|(class, choice)| (*class, *choice))
    }
}

impl Text for Class {
    fn print(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.print(f)
    }

    fn parse(from: &mut Cursor<'_>) -> Parsed<Class> {
        Text::parse(from).map(Class)
    }
}

impl Class {
    pub fn of(kernel: &Kernel, tensors: &SlotMap<TensorId, TensorInfo>) -> Class {
        let number = |it: TensorId| kernel.tensors.iter().position(|own| *own == it);
        let mut text = String::new();
        match &kernel.skeleton {
            Skeleton::Map { space, .. } => write!(text, "{space:?}"),
            Skeleton::Rows { outer, inner, stages, form: _ } => write!(text, "{outer:?}{inner:?}{stages:?}"),
            Skeleton::Contract { space, depth, batch, rows, cols, a, b, others, sums, tile: _ } => {
                write!(text, "{space:?}{depth:?}{batch:?}{rows:?}{cols:?}{a:?}{b:?}{others:?}{sums:?}")
            }
            Skeleton::Attention {
                space,
                keys,
                channels,
                scale,
                zero_masked,
                q,
                k,
                v,
                mask,
                last_key,
                tile: _,
            } => write!(
                text,
                "{space:?}{keys}/{channels}/{scale:?}{zero_masked}{q:?}{k:?}{v:?}{mask:?}{last_key:?}"
            ),
        }
        .expect("a string takes everything");
        for (_, expr, dtype) in kernel.body.iter() {
            match expr {
                Expr::Load { tensor, at, guard } => {
                    write!(text, "{:?}{at:?}{guard:?}{dtype}", number(*tensor))
                }
                _ => write!(text, "{expr:?}{dtype}"),
            }
            .expect("a string takes everything");
        }
        for store in &kernel.stores {
            write!(text, "{:?}{:?}{:?}", number(store.tensor), store.at, store.value)
                .expect("a string takes everything");
        }
        for &tensor in &kernel.tensors {
            write!(text, "{}", tensors[tensor].ty).expect("a string takes everything");
        }
        let hash = blake3::hash(text.as_bytes());
        let half = hash.as_bytes().first_chunk::<16>().unwrap_or_else(|| bug!("a hash has 32 bytes"));
        Class(u128::from_le_bytes(*half))
    }
}

/// How many of the candidates are worth measuring.
const MEASURED: usize = 8;

/// How else `kernel` may run on the target: its own way first, then the others that promise most, by what a workgroup does
/// and how many there are.
pub fn candidates(kernel: &Kernel, target: &Target) -> Vec<Choice> {
    let Some(own) = Choice::of(kernel) else { return Vec::new() };
    let mut others = legal(kernel, target);
    others.retain(|it| it.0 != own);
    others.sort_by(|a, b| a.1.total_cmp(&b.1));
    others.truncate(MEASURED - 1);
    std::iter::once(own).chain(others.into_iter().map(|it| it.0)).collect()
}

/// Every way in which `kernel` may run on the target, with an estimate of its cost in units of its own.
fn legal(kernel: &Kernel, target: &Target) -> Vec<(Choice, f64)> {
    match &kernel.skeleton {
        Skeleton::Map { .. } => Vec::new(),
        Skeleton::Rows { outer, inner, form, stages: _ } => {
            let forms = tile::row_forms((outer, inner), &kernel.body, *form, target);
            forms.into_iter().map(|(form, cost)| (Choice::Rows(form), cost)).collect()
        }
        Skeleton::Contract { .. } => {
            let tiles = product::tiles(&kernel.skeleton, &kernel.body, target);
            tiles.into_iter().map(|(tile, cost)| (Choice::Product(tile), cost)).collect()
        }
        Skeleton::Attention { tile: tile @ AttentionTile::Row(_), .. } => {
            vec![(Choice::Attention(*tile), 0.0)]
        }
        Skeleton::Attention { tile, .. } => {
            let all = Asked::of(kernel).map_or_else(Vec::new, |it| it.tiles(target));
            // Those next to the default in the tables.
            let place = all.iter().position(|it| it == tile).unwrap_or(0);
            let tiles = all.into_iter().enumerate();
            tiles.map(|(at, it)| (Choice::Attention(it), at.abs_diff(place) as f64)).collect()
        }
    }
}

/// Kernels as chosen.
pub fn apply(
    kernels: &mut [Kernel],
    choices: &Choices,
    tensors: &SlotMap<TensorId, TensorInfo>,
    target: &Target,
) {
    if choices.is_empty() {
        return;
    }
    for kernel in kernels {
        if Choice::of(kernel).is_some()
            && let Some(choice) = choices.get(Class::of(kernel, tensors))
            && candidates(kernel, target).contains(&choice)
        {
            *kernel = choice.applied(kernel);
        }
    }
}
