//! Registered patterns.

use super::*;
use crate::{
    passes::pattern::{builtin, explain},
    replacement::{Example, Match, Replacement, register_replacement},
};

fn ty(shape: impl Into<Shape>) -> Type {
    Type::new(F, shape)
}

/// x * c + y * c => (x + y) * c, for any c.
fn distributive(check: impl Fn(&Match) -> bool + Send + Sync + 'static) -> Replacement {
    register_replacement(
        "distributive",
        |b, x, c| {
            let (p, q) = (b.mul_scalar(x[0], c[0])?, b.mul_scalar(x[1], c[0])?);
            Ok(vec![b.add(p, q)?])
        },
        |b, x, c| {
            let sum = b.add(x[0], x[1])?;
            Ok(vec![b.mul_scalar(sum, c[0])?])
        },
        &[Example::new([ty([3, 5]), ty([3, 5])]).with_numbers([0.113377])],
        check,
    )
    .unwrap()
}

/// The graph of `make`'s values with one pattern applied, its values compared, and how often it was.
#[track_caller]
fn with(pattern: Replacement, make: impl FnOnce(&mut B) -> Result<Vec<Value>, Error>) -> (Graph, usize) {
    let mut b = GraphBuilder::new();
    for (at, value) in make(&mut b).unwrap().into_iter().enumerate() {
        b.output(format!("y{at}"), value).unwrap();
    }
    let before = b.finish().unwrap();
    let name = pattern.name.clone();
    let options = Options { patterns: vec![pattern], ..Options::default() };
    let mut ledger = Ledger::default();
    let after =
        optimise_logged(before.clone(), &Target::cpu(), &options, &mut ledger, &mut |_, _| {}).unwrap();
    for seed in 0..3 {
        assert_same(&before, &after, false, seed);
    }
    (after, ledger.applied.iter().filter(|it| it.rule == name).count())
}

#[test]
fn shapes_and_numbers_are_free_and_operands_come_in_any_order() {
    for (shape, c, order) in [(vec![2, 7], 0.3, false), (vec![4], 8.0, true), (vec![1, 2, 3], 1e-3, true)] {
        let (graph, count) = with(distributive(|_| true), |b| {
            let (x, z) = (x(b, &*shape), b.input("z", F, &*shape)?);
            let c = b.scalar(F, c);
            let (p, q) = (b.mul(c, x)?, b.mul(z, c)?);
            Ok(vec![if order { b.add(q, p)? } else { b.add(p, q)? }])
        });
        assert_eq!((ops(&graph).as_str(), count), ("add mul", 1), "{graph}");
    }
}

#[test]
fn what_is_used_twice_is_one_value_and_one_number() {
    // Two different numbers.
    let (graph, count) = with(distributive(|_| true), |b| {
        let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
        let (p, q) = (b.mul_scalar(x, 0.3)?, b.mul_scalar(z, 0.4)?);
        Ok(vec![b.add(p, q)?])
    });
    assert_eq!((ops(&graph).as_str(), count), ("mul mul add", 0));
    let square = || {
        register_replacement(
            "square",
            |b, x, _| {
                let e = b.exp(x[0])?;
                Ok(vec![b.sub(e, x[0])?])
            },
            |b, x, _| {
                let e = b.exp(x[0])?;
                let y = b.neg(x[0])?;
                Ok(vec![b.add(e, y)?])
            },
            &[Example::new([ty([5])])],
            |_| true,
        )
        .unwrap()
    };
    for (same, left) in [(true, "exp neg add"), (false, "exp sub")] {
        let (graph, count) = with(square(), |b| {
            let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
            let e = b.exp(x)?;
            Ok(vec![b.sub(e, if same { x } else { z })?])
        });
        assert_eq!((ops(&graph).as_str(), count), (left, usize::from(same)), "{graph}");
    }
}

#[test]
fn the_check_sees_what_was_found_and_other_users_prevent() {
    let make = |b: &mut B, also: bool| {
        let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
        let (p, q) = (b.mul_scalar(x, 0.3)?, b.mul_scalar(z, 0.3)?);
        let y = b.add(p, q)?;
        Ok(if also { vec![y, p] } else { vec![y] })
    };
    let seen = |it: &Match| {
        it.input_type(1) == &ty([4]) && (it.numbers[0] - 0.3).abs() < 1e-6 && it.constant(0).is_none()
    };
    assert_eq!(with(distributive(seen), |b| make(b, false)).1, 1);
    assert_eq!(with(distributive(|it| it.numbers[0] > 1.0), |b| make(b, false)).1, 0);
    assert_eq!(with(distributive(|_| true), |b| make(b, true)).1, 0);
    let shared = Replacement { even_if_used: true, ..distributive(|_| true) };
    assert_eq!(with(shared, |b| make(b, true)).1, 1);
}

/// Two results: sin x + z and cos x * 2 become one of a longer way, that shares exp x.
fn pair() -> Replacement {
    register_replacement(
        "pair",
        |b, x, _| {
            let e = b.exp(x[0])?;
            let up = b.add(e, x[1])?;
            let s = b.unary(UnaryOp::Sin, e)?;
            Ok(vec![up, b.mul(s, x[1])?])
        },
        |b, x, _| {
            let y = b.mul_scalar(x[0], 0.5)?;
            let root = b.exp(y)?;
            let e = b.mul(root, root)?;
            let s = b.unary(UnaryOp::Sin, e)?;
            Ok(vec![b.add(e, x[1])?, b.mul(s, x[1])?])
        },
        &[Example::new([ty([3, 5]), ty([3, 5])])],
        |_| true,
    )
    .unwrap()
}

#[test]
fn several_results_are_replaced_together() {
    let (graph, count) = with(pair(), |b| {
        let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
        let e = b.exp(x)?;
        let up = b.add(z, e)?;
        let far = b.tanh(up)?;
        let s = b.sin(e)?;
        let other = b.cos(e)?;
        let _ = other;
        let down = b.mul(z, s)?;
        Ok(vec![far, down])
    });
    assert_eq!((ops(&graph).as_str(), count), ("mul exp mul sin add mul tanh", 1), "{graph}");
    // A third user of exp x: it would be computed twice.
    let (_, count) = with(pair(), |b| {
        let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
        let e = b.exp(x)?;
        let (up, s) = (b.add(z, e)?, b.sin(e)?);
        let down = b.mul(z, s)?;
        Ok(vec![up, down, b.cos(e)?])
    });
    assert_eq!(count, 0);
    // Results of different matches do not mix: another z.
    let (_, count) = with(pair(), |b| {
        let (x, z, w) = (x(b, [4]), b.input("z", F, [4])?, b.input("w", F, [4])?);
        let e = b.exp(x)?;
        let (up, s) = (b.add(z, e)?, b.sin(e)?);
        Ok(vec![up, b.mul(w, s)?])
    });
    assert_eq!(count, 0);
}

#[test]
fn a_match_whose_input_needs_its_result_is_left() {
    let independent = |needs: bool| {
        register_replacement(
            "two",
            |b, x, _| Ok(vec![b.exp(x[0])?, b.sin(x[1])?]),
            |b, x, _| {
                let y = b.neg(x[0])?;
                let y = b.exp(y)?;
                Ok(vec![b.reciprocal(y)?, b.sin(x[1])?])
            },
            &[Example::new([ty([5]), ty([5])])],
            move |_| needs,
        )
        .unwrap()
    };
    // The second result is not among the users of anything that the first found: nothing is found, and nothing breaks.
    let (graph, count) = with(independent(true), |b| {
        let x = x(b, [4]);
        let e = b.exp(x)?;
        Ok(vec![b.sin(e)?])
    });
    assert_eq!((ops(&graph).as_str(), count), ("exp sin", 0));
}

#[test]
fn what_is_wrong_with_a_pattern_is_said() {
    let text = |it: Result<Replacement, Error>| it.unwrap_err().to_string();
    let neg = |b: &mut B, x: &[Value], _: &[f64]| Ok(vec![b.neg(x[0])?]);
    assert_eq!(text(register_replacement("p", neg, neg, &[], |_| true)), "pass 'p': there is no example");
    let example = [Example::new([ty([2])])];
    let other = |b: &mut B, x: &[Value], _: &[f64]| Ok(vec![b.isnan(x[0])?]);
    let wrong = text(register_replacement("p", neg, other, &example, |_| true));
    assert_eq!(wrong, "pass 'p': the search gives [f32[2]], the replacement [bool[2]]");
    let same = |_: &mut B, x: &[Value], _: &[f64]| Ok(vec![x[0]]);
    let wrong = text(register_replacement("p", same, same, &example, |_| true));
    assert_eq!(wrong, "pass 'p': a result of the search is an input or a constant");
    let fails = |b: &mut B, x: &[Value], _: &[f64]| Ok(vec![b.reshape(x[0], &[3])?]);
    let wrong = text(register_replacement("p", fails, neg, &example, |_| true));
    assert!(wrong.starts_with("pass 'p': the search: node 'reshape_1': "), "{wrong}");
    let numbered = [Example::new([ty([2])]).with_numbers([0.7])];
    let wrong = text(register_replacement("p", neg, neg, &numbered, |_| true));
    assert_eq!(wrong, "pass 'p': number 0 is no constant of the search");

    // What goes wrong with the shapes of a match, and a place that is none.
    let shaped =
        register_replacement("shaped", neg, |b, x, _| Ok(vec![b.reshape(x[0], &[2])?]), &example, |_| true);
    let apply = |pattern: Replacement| {
        let mut b = GraphBuilder::new();
        let x = x(&mut b, [3]);
        let y = b.neg(x).unwrap();
        b.output("y", y).unwrap();
        let options = Options { patterns: vec![pattern], ..Options::default() };
        optimise(b.finish().unwrap(), &Target::cpu(), &options).map(|it| ops(&it))
    };
    let wrong = apply(shaped.unwrap()).unwrap_err().to_string();
    assert!(wrong.starts_with("pass 'shaped': the replacement: node 'reshape_1'"), "{wrong}");
    let itself = register_replacement("itself", neg, neg, &example, |_| true).unwrap();
    assert_eq!(apply(itself.clone()).unwrap(), "neg");
    // It finds what it has made; it is not applied to that.
    let grows = |b: &mut B, x: &[Value], _: &[f64]| {
        let y = b.exp(x[0])?;
        Ok(vec![b.neg(y)?])
    };
    let grows = register_replacement("grows", neg, grows, &example, |_| true).unwrap();
    assert_eq!(apply(grows).unwrap(), "exp neg");
    let lost = Replacement { at: Hook::Before("never".into()), ..itself };
    assert!(apply(lost).unwrap_err().to_string().contains("'never': there is no such pass"));
}

#[test]
fn built_in_patterns_are_traced_once_and_each_has_one_form() {
    let (first, again) = (builtin::patterns(), builtin::patterns());
    assert!(std::ptr::eq(first, again));
    assert!(first.len() >= 5 && first.iter().all(|it| it.forms.len() == 1));
    for written in builtin::WRITTEN {
        written.pattern().unwrap();
    }
}

/// Every composite as it is written to explain near matches by is recognised.
#[test]
fn written_composites_are_recognised() {
    for written in builtin::WRITTEN {
        let pattern = written.pattern().unwrap();
        let (_, fired) = run(
            |b| {
                let specimen = &pattern.replacement.specimens[0];
                let inputs: Vec<Value> = (specimen.graph.inputs().iter())
                    .map(|it| b.input(&*it.name, it.ty.dtype, it.ty.shape.clone()))
                    .collect::<Result<_, _>>()?;
                Ok((written.search)(b, &inputs, &specimen.numbers)?[0])
            },
            Licence::Relaxed,
        );
        assert!(fired.iter().any(|it| it == written.name), "{}: {fired:?}", written.name);
    }
}

#[test]
fn near_matches_are_explained() {
    let explain = |name: &str, options: &Options, make: fn(&mut B) -> Result<Value, Error>| {
        let mut b = GraphBuilder::new();
        let y = make(&mut b).unwrap();
        b.output("y", y).unwrap();
        explain::explain(b.finish().unwrap(), &Target::cpu(), options, name)
    };
    let plain = Options::default();
    let found = explain("gelu", &plain, |b| {
        let x = x(b, [4]);
        let y = b.mul_scalar(x, std::f64::consts::FRAC_1_SQRT_2)?;
        let y = b.erf(y)?;
        let y = b.name("plus").add_scalar(y, 0.9)?;
        let half = b.mul_scalar(x, 0.5)?;
        b.name("product").mul(half, y)
    })
    .unwrap();
    assert_eq!(found.applied, []);
    let near = &found.near[0];
    assert_eq!((&*near.root, &*near.at, near.op), ("product", "plus", "constant"), "{near:?}");
    assert!(near.why.starts_with("1 was looked for, here is 0.89"), "{near:?}");
    assert!(near.found > 3 && near.found < near.of, "{near:?}");

    let found = explain("silu", &plain, |b| {
        let x = x(b, [4]);
        let y = b.mul_scalar(x, 2.0)?;
        let s = b.sigmoid(y)?;
        let y = b.name("gate").mul(x, s)?;
        let s = b.sigmoid(x)?;
        b.name("whole").mul(y, s)
    })
    .unwrap();
    let places: Vec<&str> = found.near.iter().map(|it| &*it.root).collect();
    assert_eq!(places, ["gate", "whole"], "{found:?}");
    assert!(found.near.iter().all(|it| it.why == "this is used where another value was used before"));

    // A sum over all: every operator is there.
    let found = explain("softmax", &plain, |b| {
        let x = x(b, [4, 4]);
        let e = b.exp(x)?;
        let most = b.max(x, &[1], true)?;
        let less = b.sub(x, most)?;
        let e2 = b.exp(less)?;
        let sum = b.sum(e2, &[0, 1], true)?;
        let y = b.name("ratio").div(e2, sum)?;
        b.add(y, e)
    })
    .unwrap();
    assert_eq!(found.near.iter().map(|it| &*it.root).collect::<Vec<_>>(), ["ratio"], "{found:?}");
    assert!(found.near[0].why.contains("the rule refuses") && found.applied.is_empty(), "{found:?}");

    let own = Options { patterns: vec![distributive(|_| true)], ..Options::default() };
    let twice = |b: &mut B| {
        let (x, z) = (x(b, [4]), b.input("z", F, [4])?);
        let (p, q) = (b.mul_scalar(x, 0.3)?, b.mul_scalar(z, 0.3)?);
        let good = b.name("good").add(p, q)?;
        let r = b.mul_scalar(good, 0.5)?;
        b.name("bad").add(r, z)
    };
    let found = explain("distributive", &own, twice).unwrap();
    assert_eq!(found.applied.iter().map(|it| &**it).collect::<Vec<_>>(), ["good"]);
    assert_eq!((&*found.near[0].root, &*found.near[0].why), ("bad", "mul was looked for, here is input"));
    let unknown = explain("nothing", &plain, twice).unwrap_err().to_string();
    assert!(unknown.contains("there is no such pattern; there are sigmoid, silu"), "{unknown}");
}
